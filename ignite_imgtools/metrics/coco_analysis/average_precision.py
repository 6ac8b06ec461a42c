"""COCO's average precision at one threshold, from which detections are right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.ordering import sort_by_group_and_score

__all__ = ["precision_at_recalls"]


def precision_at_recalls(
    category: NDArray[np.int64], scores: NDArray[Any], right: NDArray[np.bool_], positives: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The precision that pycocotools' ``accumulate`` has at each of COCO's recalls 0, 0.01, ..., 1.

    Args:
        category: int64 ``[n]`` in ``0..K-1`` of detections that are right or wrong; those of equal score stay as
            they are.
        scores: float32 or float64 ``[n]``.
        right: bool ``[n]``.
        positives: int64 ``[K]``, how many truths there are to be found.

    Returns:
        float64 ``[101, K]`` in 0..1, the mean of a column being the average precision of a category; -1 where there
        are no positives.
    """
    recalls = np.linspace(0.0, 1.0, 101)
    order = sort_by_group_and_score(category, scores)
    category, right = category[order], right[order]
    ends = np.searchsorted(category, np.arange(len(positives) + 1))
    table = np.full((len(recalls), len(positives)), -1.0)
    for k in np.flatnonzero(positives).tolist():
        own = right[ends[k] : ends[k + 1]]
        found = np.cumsum(own)
        # The envelope changes, and a recall is first reached, at detections that are right.
        places = np.flatnonzero(own)
        precision = found[places] / (places + 1 + np.spacing(1))
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        table[:, k] = envelope[np.searchsorted(found[places] / positives[k], recalls, side="left")]
    return table
