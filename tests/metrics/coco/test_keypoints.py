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
from ignite_imgtools.metrics.coco.keypoints import TruthKeypoints, _upper_bound, keypoint_edges
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


def test_pairs_that_are_left_out_are_not_similar() -> None:
    """The bound by which far pairs are left out is never below the similarity, even of objects of one keypoint."""
    rng = np.random.default_rng(0)
    labelled = rng.random((40, 17)) < rng.choice([0, 0.06, 0.5, 1], size=(40, 1))
    points = np.concatenate([rng.uniform(0, 40, size=(40, 17, 2)), labelled[..., None]], axis=2)
    truth = TruthKeypoints.of(points, rng.uniform(0, 40, size=(40, 4)), rng.uniform(1, 4000, size=40))
    found = rng.uniform(0, 60, size=(50, 1, 3)) + rng.uniform(0, 3, size=(50, 17, 3))
    sigmas = rng.uniform(0.02, 0.2, size=17)
    rows, truth_rows = (index.ravel() for index in np.indices((50, 40)))
    kept, similarity = keypoint_edges(found, truth, sigmas, rows, truth_rows, lowest=-1)
    assert len(kept) == 2000
    bound = _upper_bound(found, truth, (2 * sigmas).max() ** 2, rows, truth_rows)
    assert (bound >= similarity).all()
    assert ((bound < 0.5) & (similarity > 1e-9)).any()
    some, _ = keypoint_edges(found, truth, sigmas, rows, truth_rows, lowest=0.5)
    assert some.tolist() == np.flatnonzero(similarity >= 0.5).tolist() != []
