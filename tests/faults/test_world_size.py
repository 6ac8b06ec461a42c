"""The short form of evaluating the same images on different numbers of processes, and what it would find."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.faults.world_size import METRICS, Comparison, compare_metrics, table


@pytest.mark.slow
def test_no_metric_depends_on_the_number_of_processes() -> None:
    comparisons = compare_metrics([21], [2, 3])
    assert [fault for comparison in comparisons for fault in comparison.faults] == []
    assert [comparison.name for comparison in comparisons] == list(METRICS)
    assert all(comparison.count >= 1 for comparison in comparisons)
    assert max(difference for comparison in comparisons for difference in comparison.differences.values()) <= 1e-12


def test_differences_are_found() -> None:
    expected = {"AP": 0.5, "count": 3, "curve": np.array([0.25, math.nan]), "names": ["a"]}
    comparison = Comparison("made up")
    comparison.add(21, expected, [expected, expected], exact=True)
    assert comparison.faults == []
    assert comparison.count == 5
    comparison.add(21, expected, [{**expected, "AP": 0.5 + 1e-13}], exact=False)
    assert comparison.faults == []
    comparison.add(22, expected, [{**expected, "AP": 0.5 + 1e-13}], exact=True)
    assert "AP differs by 1" in comparison.faults.pop()
    for other in ({"count": 4}, {"AP": math.nan}, {"curve": np.array([0.25, 0.25])}, {"names": ["b"]}, {"names": []}):
        comparison.add(22, expected, [expected, {**expected, **other}], exact=False)
        assert "22 images, rank 1 of 2" in comparison.faults.pop()
        assert comparison.faults == []
    assert table([comparison]).splitlines()[1].split() == ["made", "up", "5", "1e-13", "inf"]
