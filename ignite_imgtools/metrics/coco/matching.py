"""Which detection matches which truth, for every area range and threshold at once.

The rule of COCO is greedy: detections in falling order of score each take, of the truths that are free and overlap
enough, the best one: those that count before those to be ignored, then by overlap, then the one listed last. Since
all truths of a group prefer detections in one order, that of their scores, the result is the only stable matching,
and deferred acceptance (Gale and Shapley, 1962) finds it: all detections propose at once, a truth keeps the best
proposer it has seen, the others go on to their next choice. A few rounds serve all images, ranges and thresholds.

Most truths need no round. If none of a truth's candidates overlaps another truth enough, it goes at each threshold to
the first candidate that reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.ordering import number_among

__all__ = ["Edges", "match"]


@dataclass(frozen=True)
class Edges:
    """Pairs of a detection and a truth of its group that overlap at the lowest threshold or more.

    Attributes:
        detection: int64 ``[E]``, ascending; within a group detections are numbered by falling score.
        truth: int64 ``[E]``, ascending for each detection.
        overlap: float64 ``[E]``.
        passed: int64 ``[E]``, how many of the ascending thresholds the overlap reaches, at least 1.
    """

    detection: NDArray[np.int64]
    truth: NDArray[np.int64]
    overlap: NDArray[np.float64]
    passed: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Edges:
        """Some of the edges."""
        return Edges(self.detection[rows], self.truth[rows], self.overlap[rows], self.passed[rows])

    def __len__(self) -> int:
        return len(self.detection)


def match(
    edges: Edges, ignored: NDArray[np.bool_], crowd: NDArray[np.bool_], thresholds: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Match detections with truth.

    Args:
        edges: the pairs that may match.
        ignored: bool ``[A, G]``, truth to be ignored in each area range.
        crowd: bool ``[G]``, truth that any number of detections may match.
        thresholds: ``T``.

    Returns:
        The detections that match anything, int64 ``[D]`` ascending, and bool ``[D, 2, A, T]``: in ``[:, 0]`` whether
        they match a truth that counts, in ``[:, 1]`` one to be ignored.
    """
    if not len(edges):
        return np.zeros(0, dtype=np.int64), np.zeros((0, 2, len(ignored), thresholds), dtype=bool)
    detections, place = _numbered(edges.detection)
    rivalled = np.zeros(len(crowd), dtype=bool)
    rivalled[edges.truth[np.bincount(place)[place] > 1]] = True
    contested = rivalled[edges.truth]

    flags = np.zeros((len(detections), 2, len(ignored), thresholds), dtype=bool)
    rows = np.flatnonzero(~contested)
    simple = edges.take(rows)
    taken = _match_uncontested(simple, crowd, thresholds)
    skipped = ignored.T[simple.truth]
    flags[place[rows], 0] = taken[:, None, :] & ~skipped[:, :, None]
    flags[place[rows], 1] = taken[:, None, :] & skipped[:, :, None]

    rows = np.flatnonzero(contested)
    edge, area, threshold = _match_contested(edges.take(rows), ignored, crowd, thresholds)
    truth = edges.truth[rows[edge]]
    flags[place[rows[edge]], ignored[area, truth].astype(np.int64), area, threshold] = True
    matched = flags.any(axis=(1, 2, 3))
    return detections[matched], flags[matched]


def _numbered(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct ones of ascending values, and the number of each value among them."""
    starts = np.ones(len(values), dtype=bool)
    starts[1:] = values[1:] != values[:-1]
    return values[starts], np.cumsum(starts) - 1


def _match_uncontested(edges: Edges, crowd: NDArray[np.bool_], thresholds: int) -> NDArray[np.bool_]:
    """bool ``[E, T]``: the thresholds at which each edge is a match, where each detection has only one edge."""
    order = np.argsort(edges.truth, kind="stable")
    truth, passed = edges.truth[order], edges.passed[order]
    # A running maximum within each truth: the rows of a later truth start above everything before them.
    step = thresholds + 1
    highest = np.maximum.accumulate(truth * step + passed)
    before = np.zeros(len(edges), dtype=np.int64)
    np.maximum(highest[:-1] - truth[1:] * step, 0, out=before[1:])
    before[crowd[truth]] = 0
    levels = np.arange(thresholds)
    taken = np.empty((len(edges), thresholds), dtype=bool)
    taken[order] = (levels >= before[:, None]) & (levels < passed[:, None])
    return taken


def _match_contested(
    edges: Edges, ignored: NDArray[np.bool_], crowd: NDArray[np.bool_], thresholds: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The matches of any edges by deferred acceptance: edge, area range and threshold of each, three int64 ``[m]``."""
    areas, count = len(ignored), len(edges)
    truths, place = number_among(edges.truth, len(crowd))
    # The choices of each detection, best first, for each area range; then for each threshold those that pass it.
    area = np.repeat(np.arange(areas), count)
    edge = np.tile(np.arange(count), areas)
    skipped = ignored[:, edges.truth].ravel()
    order = np.lexsort((-place[edge], -edges.overlap[edge], skipped, edges.detection[edge], area))
    area, edge = area[order], edge[order]
    threshold, row = np.nonzero(edges.passed[edge] > np.arange(thresholds)[:, None])
    area, edge = area[row], edge[row]
    if not len(edge):
        return edge, area, threshold

    detection, truth = edges.detection[edge], place[edge]
    slot = (threshold * areas + area) * len(truths) + truth
    open_to_all = crowd[truths][truth]
    nobody = len(edge)
    # Positions rise with the detection within a slot, so the smallest position is the best proposer.
    holder = np.full(areas * thresholds * len(truths), nobody)
    last = np.ones(len(edge), dtype=bool)
    last[:-1] = (detection[1:] != detection[:-1]) | (area[1:] != area[:-1]) | (threshold[1:] != threshold[:-1])
    proposals = np.flatnonzero(np.append(True, last[:-1]))
    accepted = [proposals[open_to_all[proposals]]]
    proposals = proposals[~open_to_all[proposals]]
    while len(proposals):
        slots = slot[proposals]
        previous = holder[slots]
        np.minimum.at(holder, slots, proposals)
        won = holder[slots] == proposals
        displaced = previous[won]
        refused = np.concatenate([proposals[~won], displaced[displaced < nobody]])
        proposals = refused[~last[refused]] + 1
        accepted.append(proposals[open_to_all[proposals]])
        proposals = proposals[~open_to_all[proposals]]
    matches = np.concatenate([*accepted, holder[holder < nobody]])
    return edge[matches], area[matches], threshold[matches]
