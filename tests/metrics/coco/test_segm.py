"""Masks against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics import CocoMetric
from tests.metrics.coco.cases import mask_case
from tests.metrics.coco.compare import assert_equal, check_case, evaluated
from tests.metrics.coco.reference import coco_of, evaluate, results_of


@pytest.mark.parametrize("block", range(4))
def test_random_cases(block: int) -> None:
    for seed in range(100 * block, 100 * block + 100):
        check_case(mask_case(seed), seed, "segm")


@pytest.mark.parametrize(
    ("options", "change"),
    [({"use_cats": False}, {"useCats": 0}), ({"iou_thresholds": [0, 0.3]}, {"iouThrs": np.array([0, 0.3])})],
)
def test_options(options: dict[str, Any], change: dict[str, Any]) -> None:
    for seed in range(500, 540):
        case = mask_case(seed)
        if case.predictions:
            results = results_of(case.predictions, "segm")
            reference = evaluate(
                case.dataset, results, list(case.predictions), "segm", change=lambda p: vars(p).update(change)
            )
            assert_equal(evaluated(case, seed, "segm", **options), reference, "segm")


def _dataset(**changes: Any) -> dict[str, Any]:
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "area": 16, "segmentation": [[1, 1, 1, 5, 5, 5, 5, 1]]}
    return {
        "images": [{"id": 1, "height": 8, "width": 9}],
        "categories": [{"id": 1}],
        "annotations": [{**annotation, **changes}],
    }


def _update(metric: CocoMetric, masks: Any) -> None:
    prediction = {"labels": torch.ones(1, dtype=torch.int64), "scores": torch.ones(1), "masks": masks}
    metric.update(([prediction], [{"image_id": 1}]))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.ones(2, 8, 9), "image_id 1: masks must be 1, one for each score, got 2"),
        (torch.ones(1, 2, 8, 9), r"image_id 1: masks must be \[1, H, W\] or \[1, 1, H, W\], got \[1, 2, 8, 9\]"),
        (torch.ones(1, 9, 8), "image_id 1 must be of the size of the image, 8 x 9, got 9 x 8"),
        ([{"size": [9, 8], "counts": "X2"}], "image_id 1 must be of the size of the image, 8 x 9, got 9 x 8"),
        ([{"counts": "X2"}], "image_id 1: run lengths need a size, height and width, got None"),
        ([{"size": [8, 9], "counts": 5}], "image_id 1: expected polygons or run lengths as segmentation"),
    ],
)
def test_bad_masks_are_refused_in_one_line(masks: Any, message: str) -> None:
    metric = CocoMetric(coco_of(_dataset()), ("segm",), chunk_images=1)
    with pytest.raises(DataError, match=message) as error:
        _update(metric, masks)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "annotation 1: expected polygons or run lengths as segmentation, got None"),
        ([], r"annotation 1: expected polygons or run lengths as segmentation, got \[\]"),
        ({"size": [8, 9], "counts": [0, 80]}, "annotation 1: expected run lengths of 8 x 9 pixels, got 80"),
        ({"size": [9, 8], "counts": [72]}, r"annotation 1: run lengths of size \[9, 8\] for an image of size \[8, 9\]"),
    ],
)
def test_bad_annotations_are_named(segmentation: Any, message: str) -> None:
    metric = CocoMetric(coco_of(_dataset(segmentation=segmentation)), ("segm",), chunk_images=1)
    with pytest.raises(DataError, match=message):
        _update(metric, torch.ones(1, 8, 9))


def test_more_than_255_masks_of_one_image() -> None:
    masks = torch.zeros(600, 1, 8, 9)
    masks[:, :, 1:5, 1:5] = 1
    prediction = {"labels": torch.ones(600, dtype=torch.int64), "scores": torch.linspace(1, 0, 600)}
    for form in (masks, [{"size": [8, 9], "counts": [9, 4, 4, 4, 4, 4, 4, 4, 35]}] * 600):
        metric = CocoMetric(coco_of(_dataset()), ("segm",), keep_results=True)
        metric.update(([{**prediction, "masks": form}], [{"image_id": 1}]))
        assert metric.compute()["segm/AP"] == pytest.approx(1)
        assert len(metric.results("segm")) == 600


def test_masks_wait_in_bounded_memory() -> None:
    image = {"height": 800, "width": 1333}
    dataset = {"images": [{"id": id_, **image} for id_ in range(6)], "categories": [{"id": 1}], "annotations": []}
    metric = CocoMetric(coco_of(dataset), ("segm",))
    masks = torch.zeros(100, 1, 800, 1333, dtype=torch.bool)
    prediction = {"labels": torch.ones(100, dtype=torch.int64), "scores": torch.ones(100), "masks": masks}
    waiting = []
    for id_ in range(6):
        metric.update(([prediction], [{"image_id": id_}]))
        waiting.append(metric._buffer.mask_bytes)
    assert max(waiting) < 30e6
    assert metric.compute()["segm/AP"] == -1
