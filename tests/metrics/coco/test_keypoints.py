"""Keypoints against pycocotools."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics import CocoMetric
from tests.metrics.coco.cases import keypoint_case
from tests.metrics.coco.compare import assert_equal, check_case, evaluated
from tests.metrics.coco.reference import coco_of, evaluate, results_of


@pytest.mark.parametrize("block", range(4))
def test_random_cases(block: int) -> None:
    for seed in range(100 * block, 100 * block + 100):
        check_case(keypoint_case(seed), seed, "keypoints")


def test_real_people(real_data: Path) -> None:
    folder = real_data / "coco_eval" / "keypoints_4img"
    dataset = json.loads((folder / "example_coco_val.json").read_text())
    expected = json.loads((folder / "expected_keypoints.json").read_text())["pycocotools_2_0_11"]
    found = defaultdict(list)
    for result in json.loads((folder / "example_coco_preds.json").read_text()):
        found[result["image_id"]].append(result)
    metric = CocoMetric(coco_of(dataset), ("keypoints",), images="all")
    for image_id, results in found.items():
        prediction = {
            "labels": torch.tensor([result["category_id"] for result in results]),
            "scores": torch.tensor([result["score"] for result in results], dtype=torch.float64),
            "keypoints": torch.tensor([r["keypoints"] for r in results], dtype=torch.float64).reshape(-1, 17, 3),
        }
        metric.update(([prediction], [{"image_id": image_id}]))
    keys = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
    assert metric.compute() == dict(zip((f"keypoints/{key}" for key in keys), expected, strict=True))


def test_other_sigmas_and_detections() -> None:
    sigmas = np.linspace(0.02, 0.3, 17)
    for seed in range(500, 530):
        case = keypoint_case(seed)
        reference = evaluate(
            case.dataset,
            results_of(case.predictions, "keypoints"),
            list(case.predictions),
            "keypoints",
            change=lambda parameters: vars(parameters).update(kpt_oks_sigmas=sigmas),
        )
        assert_equal(evaluated(case, seed, "keypoints", keypoint_sigmas=sigmas), reference, "keypoints")


def test_people_need_not_have_17_keypoints() -> None:
    dataset = {
        "images": [{"id": 1}],
        "categories": [{"id": 1}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "area": 64,
                "bbox": [0, 0, 8, 8],
                "keypoints": [1, 1, 2, 5, 6, 1],
            }
        ],
    }
    prediction = {
        "labels": torch.ones(1, dtype=torch.int64),
        "scores": torch.ones(1),
        "keypoints": torch.tensor([[[1.0, 1.0, 0.9], [5.0, 6.0, 0.9]]]),
    }
    metric = CocoMetric(coco_of(dataset), ("keypoints",), keypoint_sigmas=[0.1, 0.1])
    metric.update(([prediction], [{"image_id": 1}]))
    assert metric.compute()["keypoints/AR"] == 1
    with pytest.raises(DataError, match="annotation 1: 'keypoints' must be 51 finite numbers"):
        CocoMetric(coco_of(dataset), ("keypoints",))
    metric = CocoMetric(coco_of(dataset), ("keypoints",), keypoint_sigmas=[0.1, 0.1])
    with pytest.raises(DataError, match=r"keypoints must be \[1, 2, 3\], one for each score, got \[1, 17, 3\]"):
        metric.update(([{**prediction, "keypoints": torch.zeros(1, 17, 3)}], [{"image_id": 1}]))


def test_pooled_keypoints_are_refused() -> None:
    with pytest.raises(ValueError, match="use_cats=False is defined for bbox and segm, not for keypoints"):
        CocoMetric(coco_of(keypoint_case(0).dataset), ("keypoints",), use_cats=False)
