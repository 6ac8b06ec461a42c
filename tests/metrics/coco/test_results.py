"""What was predicted is written so that pycocotools evaluates it to the same numbers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ignite_imgtools.metrics import CocoMetric
from tests.metrics.coco.cases import Case, box_case, keypoint_case, mask_case
from tests.metrics.coco.compare import assert_equal, evaluated
from tests.metrics.coco.reference import coco_of, evaluate, results_of


@pytest.mark.parametrize(("iou_type", "make"), [("bbox", box_case), ("segm", mask_case), ("keypoints", keypoint_case)])
def test_written_results_give_the_same_numbers(iou_type: str, make: Callable[[int], Case]) -> None:
    for seed in range(600, 620):
        case = make(seed)
        metric = evaluated(case, seed, iou_type, keep_results=True)
        results = json.loads(json.dumps(metric.results(iou_type)))
        in_order = {id_: case.predictions[id_] for id_ in sorted(case.predictions)}
        expected = results_of(in_order, iou_type)
        if iou_type != "segm":
            assert results == expected
        if case.predictions:
            assert_equal(metric, evaluate(case.dataset, results, list(case.predictions), iou_type), iou_type)


def test_results_are_kept_when_asked_alone() -> None:
    with pytest.raises(ValueError, match="keep_results=True"):
        evaluated(box_case(0), 0, "bbox").results("bbox")


def test_the_state_holds_the_results() -> None:
    case = next(
        case for case in map(box_case, itertools.count()) if any(len(p["boxes"]) for p in case.predictions.values())
    )
    metric = evaluated(case, 11, "bbox", keep_results=True)
    other = CocoMetric(coco_of(case.dataset), keep_results=True)
    other.load_state_dict(metric.state_dict())
    assert other.results("bbox") == metric.results("bbox") != []
    with pytest.raises(ValueError, match="the state was taken without keep_results=True"):
        other.load_state_dict(evaluated(case, 11, "bbox").state_dict())


def test_several_types_in_one_pass() -> None:
    """Boxes, masks and keypoints of one detection each; each type as if it were alone."""
    case = mask_case(4)
    rng = np.random.default_rng(0)
    for annotation in case.dataset["annotations"]:
        points = rng.integers(0, 40, size=(17, 3))
        annotation.update(bbox=[1, 2, 20, 20], keypoints=points.ravel().tolist(), num_keypoints=17)
    predictions: dict[int, dict[str, Any]] = {}
    for id_, prediction in case.predictions.items():
        count = len(prediction["scores"])
        corner = torch.from_numpy(rng.uniform(0, 9, size=(count, 2))).float()
        keypoints = torch.from_numpy(rng.uniform(0, 40, size=(count, 17, 3)))
        predictions[id_] = {**prediction, "boxes": torch.cat([corner, corner + 19], dim=1), "keypoints": keypoints}
    case = Case(case.dataset, predictions)
    types = ("bbox", "segm", "keypoints")
    metric = evaluated(case, 4, *types)
    for iou_type in types:
        reference = evaluate(case.dataset, results_of(predictions, iou_type), list(predictions), iou_type)
        assert_equal(metric, reference, iou_type)
    assert metric.iou_types == types
    assert len(metric.compute()) == 34
