"""Recall thresholds are reached where the reference finds them, and many detections accumulate as few do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ignite_imgtools.metrics import CocoMetric
from ignite_imgtools.metrics.coco.accumulation import _wanted_positives
from tests.metrics.coco.compare import assert_equal
from tests.metrics.coco.reference import coco_of, evaluate, results_of


@pytest.mark.parametrize("thresholds", [np.linspace(0, 1, 101), np.linspace(0, 1, 11), np.array([0.07, 0.55, 1.5])])
def test_how_many_positives_reach_a_recall(thresholds: np.ndarray) -> None:
    totals = np.arange(1, 700)
    wanted = _wanted_positives(totals, thresholds)
    for total, row in zip(totals.tolist(), wanted.tolist(), strict=True):
        recall = np.arange(total + 1) / total
        expected = np.searchsorted(recall, thresholds, side="left")
        assert np.minimum(row, total + 1).tolist() == expected.tolist()


@pytest.mark.parametrize(("chunk_images", "dtype"), [(16, torch.float32), (1000, torch.float64)])
def test_hundreds_of_positives(chunk_images: int, dtype: torch.dtype) -> None:
    """400 objects of 2 categories and of all sizes, 1,200 detections, many of equal score."""
    rng = np.random.default_rng(0)
    annotations, predictions = [], {}
    for image in range(60):
        count = int(rng.integers(3, 11))
        size = np.exp(rng.uniform(2, 6, size=(count, 2)))
        boxes = np.concatenate([rng.uniform(0, 300, size=(count, 2)), size], axis=1)
        for box in boxes.tolist():
            place = {"id": len(annotations) + 1, "image_id": image, "category_id": int(rng.integers(2))}
            annotations.append({**place, "bbox": box, "area": box[2] * box[3], "iscrowd": int(rng.random() < 0.05)})
        found = boxes[rng.integers(count, size=3 * count)]
        found = found + rng.normal(0, 0.08, size=found.shape) * np.tile(found[:, 2:], 2)
        found[:, 2:] += found[:, :2]
        predictions[image] = {
            "boxes": torch.from_numpy(found).to(dtype),
            "labels": torch.from_numpy(rng.integers(2, size=3 * count)),
            "scores": torch.from_numpy(rng.random(3 * count).round(2)).to(dtype),
        }
    dataset = {
        "images": [{"id": image} for image in range(60)],
        "categories": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}],
        "annotations": annotations,
    }
    metric = CocoMetric(coco_of(dataset), chunk_images=chunk_images)
    for image, prediction in predictions.items():
        metric.update(([prediction], [{"image_id": image}]))
    assert_equal(metric, evaluate(dataset, results_of(predictions, "bbox"), list(predictions)), "bbox")
    assert metric.compute()["bbox/AP"] > 0.1
