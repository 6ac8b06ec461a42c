"""Precision, recall and scores at the recall thresholds, from matched detections.

The precision envelope changes at true positives only, and a recall threshold ``r`` is first reached at the ``c``-th
of them, ``c`` the smallest integer with ``c / positives >= r``. So all is sparse work on true positives after one
sort. A *run* is the true positives of one area range, threshold and category, in falling order of score.
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
    """Detections by category and falling score. ``N`` in all, ``D`` of them match anything."""

    first: NDArray[np.int64]  # [K + 1], where each category starts
    scores: NDArray[Any]  # [N]
    rank: NDArray[np.int32]  # [N], within image and category
    outside: NDArray[np.uint8]  # [A, N], 0 or 1
    matched: NDArray[np.int64]  # [D], positions in [N], ascending
    first_matched: NDArray[np.int64]  # [K + 1], where each category starts among them
    flags: NDArray[np.uint8]  # [2, A, T, D], 0 or 1


@dataclass(frozen=True)
class _Changes:
    """Where the number of detections that count departs from those inside the range; ``V`` places, by run.

    A true positive counts even if its own area is outside; a match with ignored truth does not even if inside.
    """

    run_row: NDArray[np.int64]  # [V], area range * T + threshold
    detection: NDArray[np.int64]  # [V], position among the D matched ones
    positive: NDArray[np.bool_]  # [V], whether it is a true positive
    extra: NDArray[np.int8]  # [V], how much more it counts than its area says: -1, 0 or 1


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
    changes = _changes(columns)
    wanted = _wanted_positives(positives, parameters.recall_thresholds)

    shape = (limits, areas, thresholds, categories)
    precision, scores, recall = np.empty((*shape, recalls)), np.empty((*shape, recalls)), np.empty(shape)
    results = None
    for m, limit in reversed(list(enumerate(parameters.max_detections))):
        if results is None or (columns.rank >= limit).any():
            results = _accumulate_limit(columns, changes, limit, positives, wanted)
        precision[m], recall[m], scores[m] = results
    absent = np.broadcast_to((positives == 0).T[None, :, None, :], shape)
    for array in (precision, recall, scores):
        array[absent] = -1
    return {
        "precision": precision.transpose(2, 4, 3, 1, 0),
        "recall": recall.transpose(2, 3, 1, 0),
        "scores": scores.transpose(2, 4, 3, 1, 0),
    }


def _sort(record: Record, categories: int, parameters: Parameters) -> _Sorted:
    areas, thresholds = parameters.shape
    order = sort_by_group_and_score(record.category, record.scores)
    image = np.repeat(np.arange(len(record.counts)), record.counts)
    rank = rank_in_group(starts_of(image, record.category))
    counts = np.bincount(record.category, minlength=categories)
    matched = np.flatnonzero(record.matched[order])
    matched_counts = np.bincount(record.category[record.matched], minlength=categories)
    flag_rows = (np.cumsum(record.matched) - 1)[order[matched]]
    return _Sorted(
        first=np.append(0, np.cumsum(counts)),
        scores=record.scores[order],
        rank=rank[order],
        outside=_bit_rows(record.outside[order], areas),
        matched=matched,
        first_matched=np.append(0, np.cumsum(matched_counts)),
        flags=_bit_rows(record.flags[flag_rows], 2 * areas * thresholds).reshape(2, areas, thresholds, -1),
    )


def _bit_rows(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Unpack ``[n, ceil(bits / 8)]`` to ``[bits, n]``."""
    columns = np.ascontiguousarray(packed.T)
    shifts = np.arange(7, -1, -1, dtype=np.uint8)
    unpacked = (columns[:, None, :] >> shifts[:, None]) & np.uint8(1)
    return unpacked.reshape(8 * packed.shape[1], len(packed))[:bits]


def _changes(columns: _Sorted) -> _Changes:
    counted, skipped = columns.flags
    thresholds, detections = counted.shape[1:]
    outside = columns.outside[:, None, columns.matched]
    places = np.flatnonzero(counted | (skipped & (outside ^ 1)))
    row, detection = np.divmod(places, max(detections, 1))
    positive = counted.ravel()[places].astype(bool)
    own_outside = columns.outside[row // thresholds, columns.matched[detection]]
    return _Changes(row, detection, positive, np.where(positive, own_outside, -1).astype(np.int8))


def _wanted_positives(positives: NDArray[np.int64], recall_thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    """int64 ``[A, K, R]``: how many true positives reach each recall threshold, in float64 as the reference divides."""
    total = np.maximum(positives.T, 1)[:, :, None]
    wanted = np.maximum(np.ceil(recall_thresholds * total), 0)
    wanted -= (wanted > 0) & ((wanted - 1) / total >= recall_thresholds)
    wanted += wanted / total < recall_thresholds
    return wanted.astype(np.int64)


def _accumulate_limit(
    columns: _Sorted, changes: _Changes, limit: int, positives: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision ``[A, T, K, R]``, recall ``[A, T, K]`` and scores ``[A, T, K, R]`` with ``limit`` detections for each
    image and category."""
    areas, thresholds, detections = columns.flags.shape[1:]
    categories = len(positives)
    run_row, detection, positive, extra = changes.run_row, changes.detection, changes.positive, changes.extra
    within = columns.rank < limit
    if not within.all():
        kept = within[columns.matched][detection]
        run_row, detection, positive, extra = run_row[kept], detection[kept], positive[kept], extra[kept]

    # Where each run starts among the changes, and how many true positives and extras precede it.
    rows = np.arange(areas * thresholds)[:, None]
    starts = np.searchsorted(run_row * detections + detection, rows * detections + columns.first_matched[:-1]).ravel()
    positives_before = np.append(0, np.cumsum(positive))
    extra_before = np.append(0, np.cumsum(extra, dtype=np.int64))
    run_start = positives_before[starts]
    run_length = np.diff(run_start, append=positives_before[-1])

    # At each true positive: its number in the run, and how many detections count up to it.
    chosen = np.flatnonzero(positive)
    number = np.arange(len(chosen)) - np.repeat(run_start, run_length) + 1
    inside = np.cumsum((columns.outside == 0) & within, axis=1)
    inside_before = np.concatenate([np.zeros((areas, 1), dtype=np.int64), inside], axis=1)[:, columns.first[:-1]]
    category_sizes = np.diff(columns.first_matched)
    inside_here = inside[:, columns.matched] - np.repeat(inside_before, category_sizes, axis=1)
    counting = inside_here[run_row[chosen] // thresholds, detection[chosen]]
    counting += extra_before[chosen + 1] - np.repeat(extra_before[starts], run_length)
    precision_here = number / (counting + np.spacing(1))

    shape = (areas, thresholds, categories)
    run_start, run_length = run_start.reshape(shape), run_length.reshape(shape)
    recall = run_length / np.maximum(positives.T, 1)[:, None, :]
    # The first column, the first true positive, keeps the segments of neighbouring runs apart.
    cells = np.concatenate([np.ones((areas, categories, 1), dtype=np.int64), np.maximum(wanted, 1)], axis=2)
    reached = cells[:, None] <= run_length[..., None]
    segments = (run_start[..., None] + cells[:, None] - 1)[reached]
    precision, scores = np.zeros(reached.shape), np.zeros(reached.shape)
    if len(segments):
        precision[reached] = np.maximum.reduceat(precision_here, segments)
        scores[reached] = columns.scores[columns.matched[detection[chosen[segments]]]]
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]

    # Recall 0 is reached at the first detection, whatever it is.
    present = np.diff(columns.first) > 0
    top = np.zeros(categories)
    top[present] = columns.scores[columns.first[:-1][present]]
    scores = np.where((wanted == 0)[:, None], top[:, None], scores[..., 1:])
    return envelope[..., 1:], recall, scores
