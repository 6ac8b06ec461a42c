"""Who may match whom: detections in the order they are looked at, and the truth of their group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.ordering import find_sorted, rank_in_group, sort_by_group_and_score

__all__ = ["TruthGroups", "candidate_pairs", "order_detections", "starts_of"]


@dataclass(frozen=True)
class TruthGroups:
    """Where the truth of each group lies, for truth sorted by group.

    Attributes:
        keys: int64 ``[N]``, the groups that have truth, ascending.
        starts, counts: int64 ``[N]``, the rows of each.
    """

    keys: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, group: NDArray[np.int64]) -> TruthGroups:
        """Groups of the sorted column ``group``, int64 ``[G]``."""
        return cls(*np.unique(group, return_index=True, return_counts=True))

    def find(self, group: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First row and number of rows of the truth of each ``group``, int64 ``[n]``; the number may be 0."""
        if not len(self.keys):
            return np.zeros_like(group), np.zeros_like(group)
        found, known = find_sorted(self.keys, group)
        return self.starts[found], np.where(known, self.counts[found], 0)


def order_detections(group: NDArray[np.int64], scores: NDArray[Any], limit: int) -> NDArray[np.int64]:
    """Rows sorted by group and falling score, those of equal score as they came, ``limit`` of each group.

    Args:
        group: int64 ``[n]`` from 0.
        scores: float32 or float64 ``[n]``.
        limit: the largest number of detections for each image and category.
    """
    order = sort_by_group_and_score(group, scores)
    starts = starts_of(group[order])
    sizes = np.diff(np.flatnonzero(starts), append=len(order))
    if (sizes <= limit).all():
        return order
    return order[rank_in_group(starts) < limit]


def starts_of(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """bool ``[n]``: the rows where any of the columns ``[n]`` differs from the row before."""
    starts = np.ones(len(columns[0]), dtype=bool)
    starts[1:] = False
    for column in columns:
        starts[1:] |= column[1:] != column[:-1]
    return starts


def candidate_pairs(group: NDArray[np.int64], truth: TruthGroups) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of a detection and a truth of one group.

    Args:
        group: int64 ``[n]``, the group of each detection; equal ones are neighbours.
        truth: where the truth of each group lies.

    Returns:
        Rows of detections, ascending, and rows of truth, ascending for each detection: two int64 ``[P]``.
    """
    heads = np.flatnonzero(starts_of(group))
    starts, counts = truth.find(group[heads])
    sizes = np.diff(heads, append=len(group))
    starts, counts = np.repeat(starts, sizes), np.repeat(counts, sizes)
    rows = np.repeat(np.arange(len(group)), counts)
    ends = np.cumsum(counts)
    truth_rows = np.arange(len(rows)) + np.repeat(starts - ends + counts, counts)
    return rows, truth_rows
