"""The numbers of COCO, from the arrays of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.accumulation import Arrays
from ignite_imgtools.metrics.coco.parameters import Parameters

__all__ = ["per_class_precision", "summarize"]

_SUFFIXES = {"small": "s", "medium": "m", "large": "l"}


def summarize(arrays: Arrays, parameters: Parameters) -> dict[str, float]:
    """The numbers people know: ``AP``, ``AP50``, ``AP75``, one for each area range, and the recalls.

    They are taken at the largest number of detections, whatever it is; boxes and masks have a recall for each number
    (``AR1``, ``AR10``, ``AR100``), keypoints have ``AR``, ``AR50`` and ``AR75``. Values in 0..1, or -1 where there is
    nothing to be found or no such threshold.
    """
    precision, recall = arrays["precision"], arrays["recall"]
    ranges = {f"{_suffix(name)}": a for a, name in enumerate(parameters.area_names) if name != "all"}
    everything = parameters.area_names.index("all")

    def average(array: NDArray[np.float64], area: int, threshold: float | None = None, limit: int = -1) -> float:
        # The reference averages in order of threshold, recall, category, and so must we for an equal last bit.
        chosen = slice(None) if threshold is None else parameters.iou_thresholds == threshold
        values = np.ascontiguousarray(array[..., area, limit])[chosen]
        values = values[values > -1]
        return float(np.mean(values)) if len(values) else -1.0

    result = {"AP": average(precision, everything)}
    result |= {f"AP{name}": average(precision, everything, t) for name, t in (("50", 0.5), ("75", 0.75))}
    result |= {f"AP{name}": average(precision, area) for name, area in ranges.items()}
    if parameters.iou_type == "keypoints":
        result["AR"] = average(recall, everything)
        result |= {f"AR{name}": average(recall, everything, t) for name, t in (("50", 0.5), ("75", 0.75))}
    else:
        limits = enumerate(parameters.max_detections)
        result |= {f"AR{limit}": average(recall, everything, limit=m) for m, limit in limits}
    result |= {f"AR{name}": average(recall, area) for name, area in ranges.items()}
    return result


def _suffix(area_name: str) -> str:
    return _SUFFIXES.get(area_name, f"_{area_name}")


def per_class_precision(arrays: Arrays, parameters: Parameters, names: Sequence[str]) -> dict[str, float]:
    """AP of each category by its name, over all areas, at the largest number of detections; -1 without truth."""
    values = arrays["precision"][:, :, :, parameters.area_names.index("all"), -1]
    result = {}
    for k, name in enumerate(names):
        own = np.ascontiguousarray(values[:, :, k])
        own = own[own > -1]
        result[name] = float(np.mean(own)) if len(own) else -1.0
    return result
