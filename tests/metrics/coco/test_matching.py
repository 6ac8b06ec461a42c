"""Deferred acceptance and the closed form against COCO's greedy rule, written out."""

from __future__ import annotations

import numpy as np
import pytest

from ignite_imgtools.metrics.coco.matching import Edges, match


def _greedy(
    overlap: np.ndarray, passed: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, threshold: int
) -> dict[int, int]:
    """The truth each detection takes, in order: free, not ignored if there is one, the highest overlap, the last."""
    taken: dict[int, int] = {}
    for detection in range(len(overlap)):
        free = [
            truth
            for truth in range(overlap.shape[1])
            if passed[detection, truth] > threshold and (crowd[truth] or truth not in taken.values())
        ]
        if free:
            taken[detection] = max(free, key=lambda t: (not ignored[t], overlap[detection, t], t))
    return taken


@pytest.mark.parametrize("seed", range(60))
def test_any_graph(seed: int) -> None:
    rng = np.random.default_rng(seed)
    detections, truths, areas, thresholds = rng.integers(1, 12), rng.integers(1, 9), 3, 4
    overlap = rng.integers(0, 6, size=(detections, truths)) / 5.0  # coarse, so that many tie
    overlap[rng.random(overlap.shape) < rng.choice([0.2, 0.7])] = 0
    passed = np.searchsorted([0.2, 0.4, 0.6, 1.0], overlap, side="right")
    ignored, crowd = rng.random((areas, truths)) < 0.3, rng.random(truths) < 0.2
    ignored |= crowd
    rows, columns = np.nonzero(passed)
    edges = Edges(rows, columns, overlap[rows, columns], passed[rows, columns])
    matched, flags = match(edges, ignored, crowd, thresholds)

    expected = np.zeros((detections, 2, areas, thresholds), dtype=bool)
    for area in range(areas):
        for threshold in range(thresholds):
            for detection, truth in _greedy(overlap, passed, ignored[area], crowd, threshold).items():
                expected[detection, int(ignored[area, truth]), area, threshold] = True
    assert matched.tolist() == np.flatnonzero(expected.any(axis=(1, 2, 3))).tolist()
    np.testing.assert_array_equal(flags, expected[matched])


def test_a_long_chain_of_displacements() -> None:
    """Each detection prefers the truth that the one before it takes, so all but the first move on by one."""
    count = 50
    rows = np.repeat(np.arange(count), 2)
    columns = np.stack([np.maximum(np.arange(count) - 1, 0), np.arange(count)], axis=1).ravel()
    overlap = np.tile([0.9, 0.8], count)
    keep = np.flatnonzero((np.diff(rows, prepend=-1) != 0) | (np.diff(columns, prepend=-1) != 0))
    edges = Edges(rows[keep], columns[keep], overlap[keep], np.ones(len(keep), dtype=np.int64))
    matched, flags = match(edges, np.zeros((1, count), dtype=bool), np.zeros(count, dtype=bool), 1)
    assert matched.tolist() == list(range(count))
    assert flags[:, 0].all()


def test_no_edges() -> None:
    none = np.zeros(0, dtype=np.int64)
    matched, flags = match(Edges(none, none, np.zeros(0), none), np.zeros((4, 3), bool), np.zeros(3, bool), 10)
    assert matched.shape == (0,)
    assert flags.shape == (0, 2, 4, 10)
