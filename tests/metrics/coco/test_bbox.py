"""Boxes against pycocotools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ignite_imgtools.metrics import CocoMetric
from tests.metrics.coco.cases import box_case
from tests.metrics.coco.compare import assert_equal, check_case, evaluated
from tests.metrics.coco.reference import coco_of, evaluate, results_of


@pytest.mark.parametrize("block", range(10))
def test_random_cases(block: int) -> None:
    for seed in range(200 * block, 200 * block + 200):
        check_case(box_case(seed), seed, "bbox")


def test_published_numbers(real_data: Path) -> None:
    folder = real_data / "coco_eval" / "val2014_100"
    dataset = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    published = json.loads((folder / "expected_bbox.json").read_text())["published"]
    image_ids = [image["id"] for image in dataset["images"]]
    predictions = {}
    for image_id in image_ids:
        own = [result for result in results if result["image_id"] == image_id]
        boxes = torch.tensor([result["bbox"] for result in own], dtype=torch.float64).reshape(-1, 4)
        predictions[image_id] = {
            "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
            "scores": torch.tensor([result["score"] for result in own], dtype=torch.float64),
            "labels": torch.tensor([result["category_id"] for result in own], dtype=torch.int64),
        }
    metric = CocoMetric(coco_of(dataset))
    for image_id in reversed(image_ids):
        metric.update(([predictions[image_id]], [{"image_id": image_id}]))
    assert list(metric.compute().values()) == published
    assert_equal(metric, evaluate(dataset, results_of(predictions, "bbox"), image_ids), "bbox")


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"iou_thresholds": [0.5]}, {"iouThrs": np.array([0.5])}),
        ({"iou_thresholds": [0.0, 0.1, 0.75, 1.0]}, {"iouThrs": np.array([0.0, 0.1, 0.75, 1.0])}),
        ({"recall_thresholds": [0.3, 0.5, 0.9]}, {"recThrs": np.array([0.3, 0.5, 0.9])}),
        ({"max_detections": [2, 1, 100]}, {"maxDets": [1, 2, 100]}),
        ({"use_cats": False}, {"useCats": 0}),
        (
            {"area_ranges": {"all": (0, 1e10), "small": (100, 900), "medium": (400, 1e4), "large": (1024, 1024)}},
            {"areaRng": [[0, 1e10], [100, 900], [400, 1e4], [1024, 1024]]},
        ),
    ],
)
def test_options(options: dict[str, Any], change: dict[str, Any]) -> None:
    def set_parameters(parameters: Any) -> None:
        for name, value in change.items():
            setattr(parameters, name, value)

    for seed in range(3000, 3060):
        case = box_case(seed)
        if case.predictions:
            results = results_of(case.predictions, "bbox")
            reference = evaluate(case.dataset, results, list(case.predictions), change=set_parameters)
            assert_equal(evaluated(case, seed, "bbox", **options), reference, "bbox")


def test_the_summary_holds_for_any_number_of_detections() -> None:
    case = box_case(11)
    few, usual = (evaluated(case, 1, "bbox", max_detections=limits).compute() for limits in ([3, 50], [50, 100]))
    assert list(few) == [
        f"bbox/{key}" for key in ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR3", "AR50", "ARs", "ARm", "ARl"]
    ]
    np.testing.assert_array_equal(few["bbox/AP"], usual["bbox/AP"])


def test_other_area_ranges_name_their_numbers() -> None:
    metric = evaluated(box_case(11), 1, "bbox", area_ranges={"all": (0, 1e10), "tiny": (0, 400)}, max_detections=[10])
    assert list(metric.compute()) == [f"bbox/{key}" for key in ["AP", "AP50", "AP75", "AP_tiny", "AR10", "AR_tiny"]]
