from __future__ import annotations

import colorsys
import math

import pytest
import torch

from ignite_imgtools.data.transforms import AffineRange, BoxAffine, HsvJitter
from ignite_imgtools.data.transforms.affine import map_boxes, warp
from ignite_imgtools.data.transforms.hsv import scale_hsv


def test_corners_by_hand() -> None:
    turn = math.radians(30)
    cosine, sine = math.cos(turn), math.sin(turn)
    matrix = torch.tensor([[cosine, -sine, 10], [sine, cosine, -3]], dtype=torch.float64)
    corners = [(x * cosine - y * sine + 10, x * sine + y * cosine - 3) for x in (4, 20) for y in (6, 16)]
    xs, ys = zip(*corners, strict=True)
    (box,), (area,) = (part.tolist() for part in map_boxes(torch.tensor([[4.0, 6, 20, 16]]), matrix, (100, 100)))
    assert box == pytest.approx([min(xs), min(ys), max(xs), max(ys)], rel=1e-6)
    assert area == pytest.approx(160)


def test_what_is_cut_off_is_not_in_the_box() -> None:
    # A square of side sqrt(2), standing on a corner at (0, 0): what is right of x = 0 is a triangle.
    half = math.sqrt(0.5)
    matrix = torch.tensor([[half, -half, 0], [half, half, 0]], dtype=torch.float64)
    side = math.sqrt(2)
    hulls, areas = map_boxes(torch.tensor([[0, 0, side, side], [-9, -9, -8, -8]]), matrix, (10, 10))
    assert hulls[0].tolist() == pytest.approx([0, 0, 1, 2], abs=1e-6)
    assert areas[0].item() == pytest.approx(1)
    assert (hulls[1].tolist(), areas[1].item()) == ([0, 0, 0, 0], 0)
    # Cut at y = 1 too: the corners of the rest are (0, 0), (1, 1) and (0, 1).
    hulls, areas = map_boxes(torch.tensor([[0, 0, side, side]]), matrix, (1, 10))
    assert hulls[0].tolist() == pytest.approx([0, 0, 1, 1], abs=1e-6)
    assert areas[0].item() == pytest.approx(0.5)


def test_a_quarter_turn_is_exact() -> None:
    image = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    matrix = torch.tensor([[0.0, -1, 20], [1, 0, 0]], dtype=torch.float64)  # clockwise as seen
    turned = warp(image, matrix, (20, 20), (0, 0, 0))
    assert torch.equal(turned, torch.rot90(image, -1, (1, 2)))


def test_a_move_is_exact_and_the_rest_filled() -> None:
    image = torch.randint(0, 256, (3, 8, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    matrix = torch.tensor([[1.0, 0, 3], [0, 1, -2]], dtype=torch.float64)
    moved = warp(image, matrix, (8, 10), (9, 8, 7))
    assert torch.equal(moved[:, :6, 3:], image[:, 2:, :7])
    assert moved[:, 7, 0].tolist() == [9, 8, 7]
    matrix[0, 2] += 1e-9  # no longer whole pixels, so by interpolation
    assert torch.equal(warp(image, matrix, (8, 10), (9, 8, 7))[:, :6, 3:], moved[:, :6, 3:])


def test_nothing_drawn_changes_nothing() -> None:
    image = torch.randint(0, 256, (3, 9, 12), dtype=torch.uint8)
    target = {"boxes": torch.tensor([[1.0, 2, 7, 8]]), "labels": torch.tensor([1]), "area": torch.tensor([36.0])}
    changed, same = BoxAffine(AffineRange())(image, target)
    assert torch.equal(changed, image)
    assert same["boxes"].tolist() == [[1, 2, 7, 8]]
    assert same["area"].tolist() == [36]


def test_objects_of_which_little_is_left_are_dropped() -> None:
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    boxes = torch.tensor([[-15.0, 10, 5, 30], [-5, 10, 15, 30], [10, 10, 11, 40]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2, 3])}
    _, changed = BoxAffine(AffineRange(), min_visible=0.5)(image, target)
    assert changed["labels"].tolist() == [2]  # the first is seen by a quarter, the last too thin
    assert changed["boxes"].tolist() == [[0, 10, 15, 30]]
    _, changed = BoxAffine(AffineRange(), min_visible=0.2, min_box_size=1)(image, target)
    assert changed["labels"].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="does not map masks"):
        BoxAffine(AffineRange())(image, target | {"masks": image})


@pytest.mark.parametrize(("name", "value"), [("degrees", -1.0), ("scale", 1.0), ("shear", 60.0), ("translate", -0.1)])
def test_ranges_are_checked(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 0 and below"):
        AffineRange(**{name: value})


@pytest.mark.parametrize(
    ("hue", "saturation", "value"), [(0.0, 1.0, 1.0), (0.1, 0.5, 1.2), (-0.3, 1.9, 0.6), (0.5, 0.0, 1.0)]
)
def test_hsv_is_that_of_the_standard_library(hue: float, saturation: float, value: float) -> None:
    image = torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image[:, 0, :6] = torch.tensor([[0, 255, 7, 9, 0, 40], [0, 255, 7, 9, 0, 40], [0, 255, 7, 9, 200, 40]])
    changed = scale_hsv(image, hue, saturation, value)
    for pixel, result in zip(image.flatten(1).T.tolist(), changed.flatten(1).T.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(channel / 255 for channel in pixel))
        expected = colorsys.hsv_to_rgb((h + hue) % 1, min(s * saturation, 1), min(v * value, 1))
        assert result == pytest.approx([channel * 255 for channel in expected], abs=0.51)


def test_jitter() -> None:
    image = torch.randint(0, 256, (3, 6, 6), dtype=torch.uint8)
    same, target = HsvJitter(0, 0, 0)(image, {"boxes": 1})
    assert torch.equal(same, image)
    assert target == {"boxes": 1}
    torch.manual_seed(0)
    assert not torch.equal(HsvJitter()(image, {})[0], image)
    with pytest.raises(ValueError, match=r"hue must be from 0 to 0\.5, got 0\.6"):
        HsvJitter(0.6)
