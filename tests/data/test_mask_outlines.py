import numpy as np
import pytest
from pycocotools import mask as mask_utils

from ignite_imgtools.data.mask_outlines import mask_to_polygons


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_pycocotools_draws_the_same_pixels(density):
    """Random pixels have every difficulty: holes, holes in islands in holes, pixels that touch at corners."""
    random = np.random.default_rng(0)
    for _ in range(25):
        height, width = random.integers(1, 25, 2).tolist()
        mask = random.random((height, width)) < density
        polygons = mask_to_polygons(mask)
        if not mask.any():
            assert polygons == []
            continue
        drawn = mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))
        assert drawn == mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))


def test_a_mask_without_holes_is_one_polygon_of_its_corners():
    mask = np.zeros((5, 6), dtype=bool)
    mask[1:4, 2:4] = mask[3, 4] = True
    assert mask_to_polygons(mask) == [[2, 1, 4, 1, 4, 3, 5, 3, 5, 4, 2, 4]]


def test_a_hole_cuts_a_mask_in_two():
    mask = np.ones((3, 3), dtype=bool)
    mask[1, 1] = False
    assert len(mask_to_polygons(mask)) == 2
