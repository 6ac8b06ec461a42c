"""Precision over recall, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.accumulation import Arrays
from ignite_imgtools.metrics.coco.parameters import Parameters

__all__ = ["PrecisionRecallCurve", "precision_recall_curves"]


class PrecisionRecallCurve(NamedTuple):
    """A curve at ``R`` recalls, each a float64 ``[R]``.

    Attributes:
        recall: the thresholds in 0..1, ascending.
        precision: the highest precision in 0..1 at this recall or more; 0 where it is not reached.
        scores: the score down to which detections are needed for this recall; 0 where it is not reached.
    """

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    scores: NDArray[np.float64]


def precision_recall_curves(
    arrays: Arrays,
    parameters: Parameters,
    class_names: Sequence[str],
    *,
    iou_threshold: float = 0.5,
    area: str = "all",
    max_detections: int | None = None,
) -> dict[str, PrecisionRecallCurve]:
    """The curves of all classes that have truth, by name.

    Args:
        arrays: of an evaluation, as ``CocoMetric.arrays`` gives them.
        parameters: of the same evaluation, as ``CocoMetric.parameters`` gives them.
        class_names: along the category axis.
        iou_threshold: one of the evaluation's.
        area: the name of one of its area ranges.
        max_detections: one of its numbers of detections, by default the largest.

    Raises:
        ValueError: the evaluation has no such threshold, area range or number of detections.
    """
    limit = parameters.max_detections[-1] if max_detections is None else max_detections
    place = []
    for name, value, known in (
        ("iou_threshold", iou_threshold, parameters.iou_thresholds.tolist()),
        ("area", area, parameters.area_names),
        ("max_detections", limit, parameters.max_detections),
    ):
        found = [
            i for i, own in enumerate(known) if own == value or (name == "iou_threshold" and np.isclose(own, value))
        ]
        if not found:
            raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {value}")
        place.append(found[0])
    t, a, m = place
    precision, scores = arrays["precision"][t, :, :, a, m], arrays["scores"][t, :, :, a, m]
    return {
        name: PrecisionRecallCurve(parameters.recall_thresholds, precision[:, k].copy(), scores[:, k].copy())
        for k, name in enumerate(class_names)
        if (precision[:, k] > -1).any()
    }
