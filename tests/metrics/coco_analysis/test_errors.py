"""Errors by kind: planted ones, a slow loop from the definitions, and the AP50 of the metric."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ignite_imgtools.metrics.coco_analysis import ERROR_KINDS, ErrorBreakdown, error_breakdown
from tests.metrics.coco.cases import box_case, keypoint_case, mask_case
from tests.metrics.coco.compare import evaluated
from tests.metrics.coco.reference import coco_of, results_of
from tests.metrics.coco_analysis.slow_analysis import slow_breakdown

CAR, CAT = 1, 2


def scene(*truths: tuple[int, list[float]], crowd: tuple[int, ...] = ()) -> dict[str, Any]:
    """A data set of one image with cars and cats."""
    return {
        "images": [{"id": 5, "height": 100, "width": 100}],
        "categories": [{"id": CAR, "name": "car"}, {"id": CAT, "name": "cat"}],
        "annotations": [
            {
                "id": id_,
                "image_id": 5,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(id_ in crowd),
            }
            for id_, (category, box) in enumerate(truths, start=1)
        ],
    }


def found(*detections: tuple[int, float, list[float]]) -> list[dict[str, Any]]:
    return [{"image_id": 5, "category_id": category, "score": s, "bbox": box} for category, s, box in detections]


def breakdown_of(dataset: dict[str, Any], results: Any, *args: Any, **options: Any) -> ErrorBreakdown:
    return error_breakdown(SimpleNamespace(dataset=dataset), results, *args, **options)


_LEFT, _RIGHT = [0.0, 0.0, 20.0, 20.0], [60.0, 60.0, 20.0, 20.0]
_TRUTHS = ((CAR, _LEFT), (CAT, _RIGHT))
_GOOD = ((CAR, 0.9, _LEFT), (CAT, 0.9, _RIGHT))


@pytest.mark.parametrize(
    ("detections", "kind", "ap", "gain"),
    [
        # The cat is called a car, which also costs the cars precision if it comes first.
        ([_GOOD[0], (CAR, 0.8, _RIGHT)], "classification", 0.5, 0.5),
        ([_GOOD[0], (CAR, 0.95, _RIGHT)], "classification", 0.25, 0.75),
        ([_GOOD[0], (CAT, 0.5, [60, 60, 20, 8])], "localisation", 0.5, 0.5),
        # Gone, not mended: the cat stays unfound, and without detections the cats are missed.
        ([_GOOD[0], (CAR, 0.95, [60, 60, 20, 8])], "both", 0.25, 0.25),
        ([*_GOOD, (CAR, 0.8, [0, 0, 20, 19])], "duplicate", 1.0, 0.0),
        ([*_GOOD, (CAR, 0.95, [30, 0, 20, 20])], "background", 0.75, 0.25),
        ([_GOOD[0]], "missed", 0.5, 0.5),
    ],
)
def test_planted_errors(detections: Any, kind: str, ap: float, gain: float) -> None:
    errors = breakdown_of(scene(*_TRUTHS), found(*detections))
    assert errors.ap == pytest.approx(ap)
    wrong = {name: count for name, count in errors.count.items() if count and name != "missed"}
    assert wrong == ({} if kind == "missed" else {kind: 1})
    assert errors.gain[kind] == pytest.approx(gain)
    assert errors.count["missed"] == (kind in ("missed", "both"))


def test_of_several_errors_of_a_truth_the_one_of_the_highest_score_is_mended() -> None:
    near, off = [0.0, 0.0, 20.0, 8.0], [30.0, 30.0, 20.0, 20.0]
    dataset = scene((CAR, _LEFT))
    errors = breakdown_of(dataset, found((CAR, 0.9, near), (CAR, 0.8, near), (CAR, 0.85, off)))
    assert errors.gain["localisation"] == pytest.approx(1.0)
    # A found truth needs no other: the error is taken away.
    errors = breakdown_of(dataset, found((CAR, 0.5, _LEFT), (CAR, 0.9, near)))
    assert (errors.ap, errors.gain["localisation"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_crowds_are_no_errors_and_no_truth() -> None:
    dataset = scene((CAR, _LEFT), (CAR, _RIGHT), crowd=(2,))
    errors = breakdown_of(dataset, found((CAR, 0.9, _LEFT), (CAR, 0.95, [62, 62, 10, 10]), (CAR, 0.95, [62, 62, 9, 9])))
    assert errors.ap == pytest.approx(1.0)
    assert not any(errors.count.values())


def test_nothing_found_is_all_missed_and_nothing_to_find_is_nothing() -> None:
    errors = breakdown_of(scene(*_TRUTHS), [])
    assert (errors.ap, errors.gain["missed"], errors.count["missed"]) == (0.0, 1.0, 2)
    assert errors.gain_without_false_negatives == 1.0
    errors = breakdown_of(scene(), found(*_GOOD))
    assert (errors.ap, sum(errors.gain.values()), errors.count["background"]) == (-1.0, 0.0, 2)


@pytest.mark.parametrize(("iou_type", "make"), [("bbox", box_case), ("segm", mask_case)])
def test_random_cases_equal_the_slow_loop(iou_type: str, make: Any) -> None:
    seen = dict.fromkeys(ERROR_KINDS, 0)
    for seed in range(3000, 3120 if iou_type == "bbox" else 3060):
        case = make(seed)
        dataset = coco_of(case.dataset).dataset
        results = results_of(case.predictions, iou_type)
        if iou_type == "segm":
            _encode_truth(dataset)
        limit = (2, 5, 100)[seed % 3]
        errors = breakdown_of(dataset, results, iou_type, max_detections=limit)
        slow = slow_breakdown(dataset, results, iou_type, limit=limit)
        assert errors.ap == pytest.approx(slow["ap"], abs=1e-12), seed
        if errors.ap < 0:
            continue
        assert errors.count == slow["count"], seed
        assert errors.gain == pytest.approx(slow["gain"], abs=1e-12), seed
        assert errors.gain_without_false_positives == pytest.approx(slow["fp"], abs=1e-12), seed
        assert errors.gain_without_false_negatives == pytest.approx(slow["fn"], abs=1e-12), seed
        seen = {kind: seen[kind] + errors.count[kind] for kind in seen}
    assert min(seen.values()) > 2


def _encode_truth(dataset: dict[str, Any]) -> None:
    sizes = {image["id"]: (image["height"], image["width"]) for image in dataset["images"]}
    index = coco_of(dataset)
    for annotation in dataset["annotations"]:
        if annotation["image_id"] in sizes:
            annotation["segmentation"] = index.annToRLE(annotation)


@pytest.mark.parametrize(("iou_type", "make"), [("bbox", box_case), ("segm", mask_case), ("keypoints", keypoint_case)])
def test_the_average_precision_is_that_of_the_metric(iou_type: str, make: Any) -> None:
    for seed in range(3200, 3230):
        case = make(seed)
        metric = evaluated(case, seed, iou_type, keep_results=True)
        errors = error_breakdown(
            metric.ground_truth, metric.detections(iou_type), iou_type, image_ids=list(case.predictions)
        )
        assert errors.ap == metric.compute()[f"{iou_type}/AP50"], seed


def test_keypoints_off_by_more_than_a_little_are_errors_of_localisation() -> None:
    dataset = scene((CAR, [0.0, 0.0, 40.0, 40.0]))
    points = np.stack([np.linspace(0, 40, 17), np.linspace(0, 40, 17), np.full(17, 2)], axis=1)
    dataset["annotations"][0] |= {"keypoints": points.ravel().tolist(), "num_keypoints": 17}
    results = found((CAR, 0.9, _LEFT))
    results[0]["keypoints"] = (points + np.array([6, 0, 0])).ravel().tolist()
    assert breakdown_of(dataset, results, "keypoints").count["localisation"] == 1
    results[0]["keypoints"] = (points + np.array([1, 0, 0])).ravel().tolist()
    assert not any(breakdown_of(dataset, results, "keypoints").count.values())


def test_it_is_told_as_text_and_json() -> None:
    errors = breakdown_of(scene(*_TRUTHS), found(*_GOOD[:1]))
    assert "missed              50.00         1" in str(errors).splitlines()
    assert errors.to_dict()["gain"]["missed"] == errors.gain["missed"]


@pytest.mark.parametrize("thresholds", [(0.5, 0.0), (0.5, 0.5), (1.5, 0.1)])
def test_thresholds_out_of_order_are_refused(thresholds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="background_iou must be above 0 and below foreground_iou"):
        breakdown_of(scene(), [], foreground_iou=thresholds[0], background_iou=thresholds[1])
