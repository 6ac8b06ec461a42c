"""Stable sorting by group and falling score, the order in which COCO looks at detections."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_sorted", "number_among", "rank_in_group", "sort_by_group_and_score"]


def sort_by_group_and_score(group: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.int64]:
    """The permutation that sorts by group, then by falling score, then by position.

    Args:
        group: integers ``[n]`` from 0.
        scores: float32 or float64 ``[n]``, no NaN.

    Returns:
        int64 ``[n]``.
    """
    count = len(group)
    place_bits = max(count - 1, 0).bit_length()
    group_bits = int(group.max()).bit_length() if count else 0
    if scores.dtype != np.float32 or group_bits + 32 + place_bits > 64:
        return np.lexsort((-scores, group)).astype(np.int64)
    # One integer holds the three keys; plain sorting of integers is several times faster than an indirect sort.
    keys = group.astype(np.uint64) << np.uint64(32 + place_bits)
    keys |= _falling_bits(scores).astype(np.uint64) << np.uint64(place_bits)
    keys |= np.arange(count, dtype=np.uint64)
    keys.sort()
    keys &= np.uint64((1 << place_bits) - 1)
    return keys.view(np.int64)


def _falling_bits(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    # The bits of a float, read as an integer, order the positive numbers; negative ones are reversed below them.
    bits = (scores + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0, which it ties with
    rising = bits ^ ((bits >> 31) | np.int32(-(1 << 31)))
    return ~rising.view(np.uint32)


def rank_in_group(starts: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The position of each row within its group, int32 ``[n]``, where ``starts`` marks the first row of each."""
    rows = np.arange(len(starts), dtype=np.int32)
    return rows - np.maximum.accumulate(np.where(starts, rows, 0), dtype=np.int32)


def find_sorted(known: NDArray[np.int64], values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Positions of ``values`` ``[n]`` in the ascending ``known``, and whether they are there; if not, any position."""
    if not len(known):
        return np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=bool)
    positions = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return positions, known[positions] == values


def number_among(values: NDArray[np.int64], limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct ones of values in 0..``limit``, ascending, and the number of each value ``[n]`` among them.

    As ``numpy.unique`` with ``return_inverse``, without its sorting.
    """
    present = np.zeros(limit, dtype=bool)
    present[values] = True
    distinct = np.flatnonzero(present)
    numbers = np.empty(limit, dtype=np.int64)
    numbers[distinct] = np.arange(len(distinct))
    return distinct, numbers[values]
