"""Overlaps of boxes, in the order of operations of the reference implementation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["BoxColumns", "box_columns", "box_edges"]

BoxColumns = tuple[
    NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]
]
"""x1, y1, x2, y2 and the area of boxes, each float64 ``[n]``."""


def box_columns(boxes_xywh: NDArray[np.float64]) -> BoxColumns:
    """Columns of boxes ``[n, 4]`` given as x, y, width, height."""
    x, y, width, height = np.ascontiguousarray(boxes_xywh.T)
    return x, y, x + width, y + height, width * height


def box_edges(
    detections: BoxColumns,
    truth: BoxColumns,
    crowd: NDArray[np.bool_],
    rows: NDArray[np.int64],
    truth_rows: NDArray[np.int64],
    lowest: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The pairs that overlap enough, and how much.

    The overlap is the intersection over the union or, with a crowd, over the detection; each rounding is that of
    ``bbIou`` in pycocotools' ``maskApi.c``.

    Args:
        detections, truth: columns of the boxes; ``crowd`` bool ``[G]`` belongs to the truth.
        rows, truth_rows: int64 ``[P]``, the pairs.
        lowest: the overlap a pair must reach.

    Returns:
        Which of the pairs do, int64 ``[E]`` ascending, and their overlaps, float64 ``[E]``.
    """
    x1, y1, x2, y2, area = detections
    truth_x1, truth_y1, truth_x2, truth_y2, truth_area = truth
    width = np.minimum(x2[rows], truth_x2[truth_rows])
    width -= np.maximum(x1[rows], truth_x1[truth_rows])
    height = np.minimum(y2[rows], truth_y2[truth_rows])
    height -= np.maximum(y1[rows], truth_y1[truth_rows])
    touching = np.flatnonzero((width > 0) & (height > 0))
    overlap = width[touching] * height[touching]
    rows, truth_rows = rows[touching], truth_rows[touching]
    own_area = area[rows]
    union = own_area + truth_area[truth_rows]
    union -= overlap
    overlap /= np.where(crowd[truth_rows], own_area, union)
    if lowest <= 0:  # then boxes apart, whose overlap is 0, are pairs as well
        every = np.zeros(len(width))
        every[touching] = overlap
        touching, overlap = np.arange(len(width)), every
    enough = overlap >= lowest
    return touching[enough], overlap[enough]
