"""Precision, recall and scores at the recall thresholds, from matched detections.

The precision envelope changes at true positives only, and a recall threshold ``r`` is first reached at the ``c``-th
of them, ``c`` the smallest integer with ``c / positives >= r``. So all is sparse work on true positives after one
sort. A *run* is the true positives of one threshold and category, in falling order of score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.candidates import starts_of
from ignite_imgtools.metrics.coco.ordering import rank_in_group, sort_by_group_and_score
from ignite_imgtools.metrics.coco.parameters import Parameters
from ignite_imgtools.metrics.coco.record import Record

__all__ = ["Arrays", "accumulate"]

Arrays = dict[str, NDArray[np.float64]]
"""``precision`` and ``scores`` ``[T, R, K, A, M]`` and ``recall`` ``[T, K, A, M]``, all float64: ``T`` thresholds,
``R`` recall thresholds, ``K`` categories, ``A`` area ranges, ``M`` numbers of detections; -1 where nothing is to be
found."""


@dataclass(frozen=True)
class _Sorted:
    """Detections by category and falling score, ``N`` in all; ``D`` of them match anything.

    Attributes:
        first: int64 ``[K + 1]``, where each category starts.
        first_matched: int64 ``[K + 1]``, where it starts among those that match.
        scores: ``[N]``.
        rank: int32 ``[N]``, within image and category.
        matched: int64 ``[D]``, positions of those that match, ascending.
        inside: bool ``[A, N]``, whether the detection counts if it matches nothing.
        positive: bool ``[A, T, D]``, true positives.
        extra: int8 ``[A, T, D]``, how much more the detection counts than ``inside`` says: 1 for a true positive that
            is not inside, -1 for a match with ignored truth that is, else 0.
    """

    first: NDArray[np.int64]
    first_matched: NDArray[np.int64]
    scores: NDArray[Any]
    rank: NDArray[np.int32]
    matched: NDArray[np.int64]
    inside: NDArray[np.bool_]
    positive: NDArray[np.bool_]
    extra: NDArray[np.int8]


def accumulate(record: Record, positives: NDArray[np.int64], parameters: Parameters) -> Arrays:
    """The arrays of an evaluation.

    Args:
        record: matched detections, images in ascending order.
        positives: int64 ``[K, A]``, how many truths there are to be found.
        parameters: of the evaluation.
    """
    categories = len(positives)
    areas, thresholds = parameters.shape
    recalls, limits = len(parameters.recall_thresholds), len(parameters.max_detections)
    columns = _sort(record, categories, parameters)
    shape = (limits, areas, thresholds, categories)
    # The first column belongs to no recall threshold; see _fill_area.
    precision, scores, recall = np.zeros((*shape, 1 + recalls)), np.zeros((*shape, 1 + recalls)), np.empty(shape)
    most = int(columns.rank.max(initial=0)) + 1
    for m, limit in reversed(list(enumerate(parameters.max_detections))):
        if m + 1 < limits and limit >= most:  # nothing is cut off, so all is as with the next larger limit
            precision[m], scores[m], recall[m] = precision[m + 1], scores[m + 1], recall[m + 1]
            continue
        within = columns.rank < limit
        for a in range(areas):
            own = positives[:, a]
            wanted = _wanted_positives(own, parameters.recall_thresholds)
            found = _fill_area(columns, a, within, wanted, precision[m, a], scores[m, a])
            recall[m, a] = found / np.maximum(own, 1)
    for a, k in zip(*np.nonzero(positives.T == 0), strict=True):
        precision[:, a, :, k] = recall[:, a, :, k] = scores[:, a, :, k] = -1
    return {
        "precision": precision[..., 1:].transpose(2, 4, 3, 1, 0),
        "recall": recall.transpose(2, 3, 1, 0),
        "scores": scores[..., 1:].transpose(2, 4, 3, 1, 0),
    }


def _sort(record: Record, categories: int, parameters: Parameters) -> _Sorted:
    areas, thresholds = parameters.shape
    order = sort_by_group_and_score(record.category, record.scores)
    image = np.repeat(np.arange(len(record.counts), dtype=np.int32), record.counts)
    counts = np.bincount(record.category, minlength=categories)
    matched_counts = np.bincount(record.category[record.matched], minlength=categories)
    matched = np.flatnonzero(record.matched[order])
    flag_rows = (np.cumsum(record.matched, dtype=np.int32) - 1)[order[matched]]
    flags = _bit_rows(record.flags[flag_rows], 2 * areas * thresholds)
    counted, skipped = flags.reshape(2, areas, thresholds, len(matched))
    inside = ~_bit_rows(record.outside[order], areas)
    own_inside = inside[:, None, matched]
    return _Sorted(
        first=np.append(0, np.cumsum(counts)),
        first_matched=np.append(0, np.cumsum(matched_counts)),
        scores=record.scores[order],
        rank=rank_in_group(starts_of(image, record.category))[order],
        matched=matched,
        inside=inside,
        positive=counted,
        extra=(counted & ~own_inside).view(np.int8) - (skipped & own_inside).view(np.int8),
    )


def _bit_rows(packed: NDArray[np.uint8], bits: int) -> NDArray[np.bool_]:
    """Unpack ``[n, ceil(bits / 8)]`` to bool ``[bits, n]``."""
    columns = np.ascontiguousarray(packed.T)
    masks = np.array([128, 64, 32, 16, 8, 4, 2, 1], dtype=np.uint8)
    unpacked = (columns[:, None, :] & masks[:, None]) != 0
    return unpacked.reshape(8 * packed.shape[1], len(packed))[:bits]


def _wanted_positives(positives: NDArray[np.int64], recall_thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    """int64 ``[K, R]``: how many true positives reach each recall threshold, in float64 as the reference divides."""
    total = np.maximum(positives, 1)[:, None]
    wanted = np.maximum(np.ceil(recall_thresholds * total), 0)
    wanted -= (wanted > 0) & ((wanted - 1) / total >= recall_thresholds)
    wanted += wanted / total < recall_thresholds
    return wanted.astype(np.int64)


def _fill_area(
    columns: _Sorted,
    area: int,
    within: NDArray[np.bool_],
    wanted: NDArray[np.int64],
    precision: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Write precision and scores of one area range.

    Args:
        within: bool ``[N]``, the detections to look at.
        wanted: int64 ``[K, R]``, see :func:`_wanted_positives`.
        precision, scores: float64 ``[T, K, 1 + R]``, zeros; the first column, that of the first true positive, keeps
            the segments of neighbouring runs apart.

    Returns:
        The number of true positives, int64 ``[T, K]``.
    """
    places, starts, lengths, counting = _count_at_positives(columns, area, within)
    number = np.arange(1, len(places) + 1) - np.repeat(starts, lengths.ravel())
    precision_here = number / (counting + np.spacing(1))

    cells = np.maximum(np.insert(wanted, 0, 1, axis=1), 1)
    reached = cells <= lengths[:, :, None]
    segments = (starts.reshape(lengths.shape)[:, :, None] + cells - 1)[reached]
    if len(segments):
        precision[reached] = np.maximum.reduceat(precision_here, segments)
        falling = precision[:, :, ::-1]
        np.maximum.accumulate(falling, axis=2, out=falling)
        scores[reached] = columns.scores[columns.matched[places[segments] % len(columns.matched)]]

    # Recall 0 is reached at the first detection, whatever it is.
    at_once = wanted == 0
    if at_once.any():
        present = np.flatnonzero(np.diff(columns.first))
        top = np.zeros(len(wanted))
        top[present] = columns.scores[columns.first[present]]
        np.copyto(scores[:, :, 1:], top[:, None], where=at_once)
    return lengths


def _count_at_positives(
    columns: _Sorted, area: int, within: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """The true positives of one area range, ``P`` in all, run by run.

    Returns:
        Their places in ``[T, D]``, flat, int64 ``[P]``; where each run starts among them, int64 ``[T * K]``; how long
        it is, int64 ``[T, K]``; and the detections of the category that count up to each, itself one, int32 ``[P]``.
    """
    matched, first_matched = columns.matched, columns.first_matched
    thresholds, categories = columns.positive.shape[1], len(first_matched) - 1
    matched_within = within[matched]
    places = np.flatnonzero(columns.positive[area] & matched_within)
    row_starts = np.arange(thresholds)[:, None] * len(matched)
    starts = np.searchsorted(places, (row_starts + first_matched[:-1]).ravel())
    lengths = np.diff(starts, append=len(places)).reshape(thresholds, categories)

    inside = np.cumsum(columns.inside[area] & within, dtype=np.int32)
    before = np.append(np.int32(0), inside)[columns.first[:-1]]
    counting = np.tile(inside[matched] - np.repeat(before, np.diff(first_matched)), (thresholds, 1))
    extra = columns.extra[area] * matched_within.view(np.int8)
    if extra.any():
        running = np.zeros((thresholds, len(matched) + 1), dtype=np.int32)
        np.cumsum(extra, axis=1, out=running[:, 1:])
        counting += running[:, 1:]
        counting = counting.ravel()[places] - np.repeat(running[:, first_matched[:-1]].ravel(), lengths.ravel())
    else:
        counting = counting.ravel()[places]
    return places, starts, lengths, counting
