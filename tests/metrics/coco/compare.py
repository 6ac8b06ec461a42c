"""Run CocoMetric on a case and hold it to the answer of pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np

from ignite_imgtools.metrics import CocoMetric
from tests.metrics.coco.cases import Case, batches
from tests.metrics.coco.reference import coco_of, evaluate, results_of

__all__ = ["assert_equal", "check_case", "evaluated"]


def assert_equal(metric: CocoMetric, reference: Any, iou_type: str) -> None:
    """All arrays and numbers are equal, to the last bit."""
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(metric.arrays(iou_type)[name], reference.eval[name], err_msg=name)
    numbers = metric.compute()
    assert [numbers[key] for key in numbers if key.startswith(f"{iou_type}/")] == list(reference.stats)


def evaluated(case: Case, seed: int, *iou_types: str, **options: Any) -> CocoMetric:
    """The metric after all images of the case, in random order and batches."""
    rng = np.random.default_rng([seed, 1])
    metric = CocoMetric(coco_of(case.dataset), iou_types, chunk_images=int(rng.integers(1, 5)), **options)
    for batch in batches(case, rng):
        metric.update(batch)
    return metric


def check_case(case: Case, seed: int, iou_type: str) -> None:
    """The metric equals the reference on the images seen or, for every third seed, on all."""
    images = "all" if seed % 3 == 0 else "seen"
    metric = evaluated(case, seed, iou_type, images=images)
    image_ids = [image["id"] for image in case.dataset["images"]] if images == "all" else list(case.predictions)
    if image_ids:
        reference = evaluate(case.dataset, results_of(case.predictions, iou_type), image_ids, iou_type)
        assert_equal(metric, reference, iou_type)
    else:
        assert set(metric.compute().values()) == {-1.0}
