import hashlib

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from ignite_imgtools.data.mask_outlines import mask_to_polygons
from ignite_imgtools.data.shapes import CLASSES, MIN_VISIBLE, create_shapes_image
from ignite_imgtools.data.shapes_drawing import Random, coverage


@pytest.fixture(scope="module")
def drawn():
    return [create_shapes_image(0, index, 160) for index in range(60)]


def digest(shapes) -> str:
    content = hashlib.sha256(shapes.image.tobytes())
    for shape in shapes.objects:
        content.update(repr((shape.label, shape.box_xywh(), shape.keypoints.tolist(), shape.iscrowd)).encode())
        content.update(np.packbits(shape.mask).tobytes())
    return content.hexdigest()[:16]


def test_an_image_is_a_function_of_seed_and_index(drawn):
    assert digest(create_shapes_image(0, 7, 160)) == digest(drawn[7])
    assert len({digest(shapes) for shapes in drawn}) == 60
    assert digest(create_shapes_image(1, 7, 160)) != digest(drawn[7])


def test_images_stay_the_same_for_all_time():
    """Whoever changes the drawing changes everybody's built-in data: that must be meant."""
    assert [digest(create_shapes_image(0, index, 96)) for index in range(3)] == [
        "60b5ab74f50e2812",
        "7185026de043323f",
        "9fadf54683bff6f3",
    ]


def test_sizes_and_aspect_ratios_vary(drawn):
    sizes = np.array([shapes.image.shape[:2] for shapes in drawn])
    ratios = sizes[:, 1] / sizes[:, 0]
    assert sizes.max() <= 160
    assert sizes.max(1).min() >= 0.7 * 160 - 1
    assert ratios.min() < 0.7
    assert ratios.max() > 1.5
    assert ratios.min() > 0.49
    assert ratios.max() < 2.05
    assert len(np.unique(sizes, axis=0)) > 50


def test_objects_vary_and_overlap(drawn):
    objects = [shape for shapes in drawn for shape in shapes.objects]
    assert {shape.label for shape in objects} == set(range(1, len(CLASSES) + 1))
    assert sum(shape.iscrowd for shape in objects) >= 3
    assert sum(shape.visible < 1 for shape in objects) > 20
    assert min(shape.visible for shape in objects) >= MIN_VISIBLE
    areas = [shape.mask.sum() for shape in objects if not shape.iscrowd]
    assert max(areas) > 20 * min(areas)


def test_boxes_just_hold_the_visible_pixels(drawn):
    for shapes in drawn[:20]:
        taken = np.zeros(shapes.image.shape[:2], dtype=int)
        for shape in shapes.objects:
            x, y, width, height = shape.box_xywh()
            inside = shape.mask[y : y + height, x : x + width]
            assert inside.sum() == shape.mask.sum() > 0
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
            taken += shape.mask
        assert taken.max() <= 1  # each pixel is seen of one object


def test_polygons_are_the_masks(drawn):
    for shapes in drawn[:20]:
        height, width, _ = shapes.image.shape
        for shape in shapes.objects:
            encoded = mask_utils.merge(mask_utils.frPyObjects(mask_to_polygons(shape.mask), height, width))
            assert encoded == mask_utils.encode(np.asfortranarray(shape.mask, dtype=np.uint8))


def test_visibility_of_keypoints(drawn):
    seen = set()
    for shapes in drawn:
        height, width, _ = shapes.image.shape
        for shape in shapes.objects:
            if shape.iscrowd:
                assert not shape.keypoints.any()
                continue
            for x, y, visibility in shape.keypoints:
                seen.add(visibility)
                if visibility == 0:
                    assert (x, y) == (0, 0)
                else:
                    assert 0 <= x < width
                    assert 0 <= y < height
                    # Rounded to hundredths a point may cross into the next pixel, hence not all.
                    assert shape.mask[int(y), int(x)] == (visibility == 2) or min(x % 1, y % 1) < 0.01
    assert seen == {0, 1, 2}


def test_coverage_of_a_rectangle_is_exact():
    covered = coverage(np.array([[2.0, 1.0], [5.5, 1.0], [5.5, 3.25], [2.0, 3.25]]), 10, 10)
    share = np.zeros((10, 10))
    share[covered.window] = covered.share / 16
    expected = np.zeros((10, 10))
    expected[1:3, 2:5], expected[1:3, 5], expected[3, 2:5], expected[3, 5] = 1, 0.5, 0.25, 0.125
    np.testing.assert_array_equal(share, expected)


def test_coverage_beyond_the_canvas():
    everything = coverage(np.array([[-9.0, -9], [99, -9], [99, 99], [-9, 99]]), 4, 6)
    assert everything.share.shape == (4, 6)
    assert (everything.share == 16).all()
    assert coverage(np.array([[20.0, 20], [30, 20], [30, 30]]), 4, 6).share.size == 0


def test_random_numbers_are_within_their_range():
    random = Random(3)
    integers = [random.integer(2, 4) for _ in range(100)]
    assert set(integers) == {2, 3, 4}
    uniforms = [random.uniform(-1, 1) for _ in range(1000)]
    assert -1 <= min(uniforms) < -0.9
    assert 0.9 < max(uniforms) < 1
    assert abs(np.mean(uniforms)) < 0.1
    assert random.bytes(3, 5).shape == (3, 5)
