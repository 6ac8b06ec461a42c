"""The table of classes against pycocotools on one class at a time."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from ignite_imgtools.metrics.coco_analysis import (
    count_truths,
    per_class_table,
    precision_recall_curves,
    table_to_csv,
    table_to_text,
)
from tests.metrics.coco.cases import box_case, keypoint_case
from tests.metrics.coco.compare import evaluated
from tests.metrics.coco.reference import evaluate, results_of


def test_a_row_is_what_pycocotools_has_for_the_class_alone() -> None:
    for seed in (51, 53, 55):
        case = box_case(seed)
        metric = evaluated(case, seed, "bbox")
        truth, images = metric.ground_truth, list(case.predictions)
        rows = per_class_table(
            metric.arrays("bbox"), metric.parameters("bbox"), truth.category_names, count_truths(truth, "bbox", images)
        )
        assert [row["class"] for row in rows] == list(truth.category_names)
        for row, category in zip(rows, truth.category_ids.tolist(), strict=True):
            annotations = [a for a in case.dataset["annotations"] if a["category_id"] == category]
            results = [r for r in results_of(case.predictions, "bbox") if r["category_id"] == category]
            categories = [{"id": category, "name": "x"}]
            alone = {**case.dataset, "annotations": annotations, "categories": categories}
            stats = evaluate(alone, results, images).stats
            assert list(row.values())[2:] == [*stats[:6], stats[8]]
            assert row["truths"] == sum(not a["iscrowd"] and a["image_id"] in images for a in annotations)


def test_keypoints_have_their_own_columns() -> None:
    metric = evaluated(keypoint_case(7), 7, "keypoints")
    names = metric.ground_truth.category_names
    counts = count_truths(metric.ground_truth, "keypoints")
    rows = per_class_table(metric.arrays("keypoints"), metric.parameters("keypoints"), names, counts)
    assert list(rows[0]) == ["class", "truths", "AP", "AP50", "AP75", "APm", "APl", "AR"]


def test_csv_reads_back_and_text_is_aligned() -> None:
    rows = [{"class": "a, b", "truths": 3, "AP": 1 / 3}, {"class": "long name", "truths": 0, "AP": -1.0}]
    read = list(csv.DictReader(io.StringIO(table_to_csv(rows))))
    assert [(row["class"], int(row["truths"]), float(row["AP"])) for row in read] == [
        ("a, b", 3, 1 / 3),
        ("long name", 0, -1.0),
    ]
    assert table_to_text(rows).splitlines() == [
        "class      truths    AP",
        "a, b            3  33.3",
        "long name       0     -",
    ]


def test_curves_are_columns_of_the_arrays() -> None:
    metric = evaluated(box_case(45), 45, "bbox")
    arrays, parameters = metric.arrays("bbox"), metric.parameters("bbox")
    names = metric.ground_truth.category_names
    curves = precision_recall_curves(arrays, parameters, names, iou_threshold=0.75, area="small", max_detections=10)
    present = [k for k in range(len(names)) if arrays["precision"][5, 0, k, 1, 1] > -1]
    assert present
    assert list(curves) == [names[k] for k in present]
    for k in present:
        curve = curves[names[k]]
        np.testing.assert_array_equal(curve.precision, arrays["precision"][5, :, k, 1, 1])
        np.testing.assert_array_equal(curve.scores, arrays["scores"][5, :, k, 1, 1])
        np.testing.assert_array_equal(curve.recall, parameters.recall_thresholds)
    with pytest.raises(ValueError, match="area must be one of all, small, medium, large, got tiny"):
        precision_recall_curves(arrays, parameters, names, area="tiny")
