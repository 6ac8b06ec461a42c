"""Boxes are where they belong, whatever the image's size, and their texts can be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ignite_imgtools.handlers.drawing import (
    beside,
    class_color,
    class_name,
    draw_boxes,
    image_to_array,
    prediction_picture,
    rows_picture,
    truth_picture,
)

_GREY = np.full((100, 200, 3), 128, dtype=np.uint8)


def _columns_of(picture: np.ndarray, row: int, label: int) -> tuple[int, int]:
    columns = np.flatnonzero((picture[row] == class_color(label)).all(axis=1))
    return int(columns[0]), int(columns[-1])


@pytest.mark.parametrize("size", [(200, 100), (400, 200), (1000, 500)])
def test_boxes_are_drawn_at_their_place_in_any_size(size: tuple[int, int]) -> None:
    picture = np.asarray(draw_boxes(_GREY, np.array([[40, 30, 120, 90.0]]), [3], [""], size=size))
    scale = size[0] / 200
    assert picture.shape == (size[1], size[0], 3)
    left, right = _columns_of(picture, round(60 * scale), 3)
    assert (left, right) == (round(40 * scale), round(120 * scale))


def test_a_small_image_is_enlarged_and_a_large_one_kept() -> None:
    assert max(draw_boxes(_GREY[:20, :30], np.zeros((0, 4)), [], []).size) == 480
    assert draw_boxes(np.zeros((700, 600, 3), dtype=np.uint8), np.zeros((0, 4)), [], []).size == (600, 700)


def test_texts_of_boxes_at_one_place_do_not_cover_each_other() -> None:
    boxes = np.array([[150, 100, 250, 200.0]] * 4)
    picture = np.asarray(draw_boxes(np.zeros((300, 400, 3), np.uint8), boxes, [1, 2, 3, 4], ["some text"] * 4))
    painted = [int((picture == class_color(label)).all(axis=2).sum()) for label in (1, 2, 3, 4)]
    # The last box hides the lines of the others, so of those there is the ground of their texts, and each is whole.
    assert min(painted) > 0.8 * sorted(painted)[2]


def _ground(picture: Image.Image, label: int) -> np.ndarray:
    return (np.asarray(picture) == class_color(label)).all(axis=2)


def _without_lines(x: float, y: float) -> list[float]:
    return [x + 1, y + 1, x, y]


@pytest.mark.parametrize("spread", [0, 12, 40])
@pytest.mark.parametrize("start", [(200, 150), (2, 2), (399, 299), (399, 10), (-90, 150), (200, 330)])
def test_texts_of_a_cluster_are_whole_and_within_the_picture(start: tuple[int, int], spread: int) -> None:
    black, count = np.zeros((300, 400, 3), np.uint8), 12
    boxes = [_without_lines(start[0] + spread * (i % 4), start[1] + spread * (i // 4)) for i in range(count)]
    picture = draw_boxes(black, np.array(boxes), list(range(count)), ["a label"] * count, size=(400, 300))
    for label in range(count):
        alone = draw_boxes(black, np.array([_without_lines(430, 330)]), [label], ["a label"], size=(400, 300))
        assert _ground(picture, label).sum() > 0.95 * _ground(alone, label).sum(), label


def test_texts_beside_each_other_are_where_they_would_be_alone() -> None:
    boxes = np.array([[20, 40, 90, 90], [150, 40, 220, 90], [300, 40, 399, 90], [150, 200, 390, 299.0]])
    together = draw_boxes(np.zeros((300, 400, 3), np.uint8), boxes, [0, 1, 2, 3], ["a label"] * 4)
    for label in range(4):
        alone = draw_boxes(np.zeros((300, 400, 3), np.uint8), boxes[[label]], [label], ["a label"])
        assert (_ground(together, label) == _ground(alone, label)).all()


def test_the_last_box_keeps_its_text_where_it_would_be_alone() -> None:
    boxes = np.array([_without_lines(100 + 5 * i, 100) for i in range(4)])
    together = draw_boxes(np.zeros((300, 400, 3), np.uint8), boxes, [0, 1, 2, 3], ["a label"] * 4)
    alone = draw_boxes(np.zeros((300, 400, 3), np.uint8), boxes[3:], [3], ["a label"])
    assert (_ground(together, 3) == _ground(alone, 3)).all()


def test_more_texts_than_have_room_are_drawn_nonetheless() -> None:
    boxes = np.array([_without_lines(20, 20)] * 40)
    picture = draw_boxes(_GREY, boxes, [i % 12 for i in range(40)], ["a label that is wider"] * 40, size=(200, 100))
    assert len({label for label in range(12) if _ground(picture, label).any()}) > 4


def test_odd_boxes_are_no_error() -> None:
    boxes = np.array([[np.nan, 0, 1, 1], [10, 10, 5, 5], [-50, -50, 900, 900], [3, 3, 3, 3], [0, 0, np.inf, 4]])
    draw_boxes(_GREY, boxes, [0, 1, 2, 3, 4], ["text"] * 5, dashed=[True, False] * 2 + [True])
    draw_boxes(np.zeros((1, 1, 3), np.uint8), boxes[2:3], [1], ["a long text"], dashed=[True])


def test_predictions_below_the_threshold_are_left_out_and_the_surest_kept() -> None:
    prediction = {
        "boxes": torch.tensor([[20, 20, 60, 60], [80, 20, 120, 60], [140, 20, 180, 60.0]], dtype=torch.bfloat16),
        "labels": torch.tensor([1, 2, 3]),
        "scores": torch.tensor([0.9, 0.4, 0.6]),
    }

    def labels_in(picture: np.ndarray) -> set[int]:
        return {label for label in (1, 2, 3) if (picture == class_color(label)).all(axis=2).any()}

    picture = prediction_picture(_GREY, prediction, ["background", "a", "b", "c"])
    assert labels_in(np.asarray(picture)) == {1, 3}
    assert labels_in(np.asarray(prediction_picture(_GREY, prediction, score_threshold=0, max_boxes=1))) == {1}
    nothing = {key: value[:0] for key, value in prediction.items()}
    assert labels_in(np.asarray(prediction_picture(_GREY, nothing))) == set()


def test_crowds_have_a_broken_line() -> None:
    target = {"boxes": torch.tensor([[20, 20, 180, 80.0]]), "labels": torch.tensor([1])}
    whole = np.asarray(truth_picture(_GREY, target))
    broken = np.asarray(truth_picture(_GREY, {**target, "iscrowd": torch.tensor([True])}))
    row = round(50 * 480 / 200)  # through the upright lines
    assert (whole[row] == class_color(1)).all(axis=1).any()
    painted = [(picture == class_color(1)).all(axis=2)[100:, :].sum() for picture in (whole, broken)]
    assert 0.3 < painted[1] / painted[0] < 0.8


def test_images_of_any_kind_become_bytes() -> None:
    bytes_ = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4)
    assert (image_to_array(bytes_) == bytes_.permute(1, 2, 0).numpy()).all()
    assert (image_to_array(bytes_.float() / 255) == bytes_.permute(1, 2, 0).numpy()).all()
    stretched = image_to_array(torch.linspace(-2, 2, 24).reshape(3, 2, 4))
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_names_of_classes() -> None:
    assert class_name(1, ["background", "cat"]) == "cat"
    assert class_name(5, ["background", "cat"]) == "5"
    assert class_name(5, {5: "dog"}) == "dog"
    assert len({class_color(label) for label in range(12)}) == 12


def test_pictures_are_laid_out_without_loss() -> None:
    pictures = [np.full((10 + i, 30 * i, 3), 10 * i, dtype=np.uint8) for i in (1, 2, 3, 4, 5)]
    page = rows_picture(pictures, width=200)
    assert page.shape[1] <= 200
    for picture in pictures:
        assert (page == picture[0, 0]).all(axis=2).sum() == picture.shape[0] * picture.shape[1]
    pair = beside([draw_boxes(_GREY, np.zeros((0, 4)), [], [], size=(40, 20))] * 2, ["a title too long to fit", "b"])
    assert pair.shape == (20 + 21, 40 * 2 + 4, 3)
