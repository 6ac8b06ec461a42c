"""Sorting by group and falling score against numpy's stable sorting."""

from __future__ import annotations

import numpy as np
import pytest

from ignite_imgtools.metrics.coco.floats import compact_floats, join_double, split_double
from ignite_imgtools.metrics.coco.ordering import (
    find_sorted,
    number_among,
    rank_in_group,
    sort_by_group_and_score,
)

_SCORES = [-np.inf, -3.0, -0.5, -0.0, 0.0, 1e-40, 0.25, 0.5, 1.0, 1e30, np.inf]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("groups", [1, 7, 1 << 30])
@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_equal_scores_stay_in_order(dtype: type, groups: int, count: int) -> None:
    rng = np.random.default_rng(count)
    group = rng.integers(groups, size=count) if groups < 100 else rng.choice([0, groups - 1], size=count)
    scores = rng.choice(np.array(_SCORES, dtype=dtype), size=count)
    expected = np.lexsort((np.arange(count), -scores, group))
    assert sort_by_group_and_score(group, scores).tolist() == expected.tolist()


def test_a_group_that_does_not_fit_into_the_key() -> None:
    group = np.array([1 << 40, 3, 1 << 40])
    assert sort_by_group_and_score(group, np.array([0.1, 0.2, 0.3], dtype=np.float32)).tolist() == [1, 2, 0]


def test_ranks_and_numbers() -> None:
    assert rank_in_group(np.array([True, False, False, True, True, False])).tolist() == [0, 1, 2, 0, 0, 1]
    values = np.array([7, 2, 7, 5])
    distinct, numbers = number_among(values, 9)
    assert (distinct.tolist(), numbers.tolist()) == ([2, 5, 7], [2, 0, 2, 1])
    positions, found = find_sorted(np.array([2, 5, 7]), np.array([5, 6, 99, -1]))
    assert found.tolist() == [True, False, False, False]
    assert positions[0] == 1
    assert not find_sorted(np.zeros(0, dtype=np.int64), values)[1].any()


def test_floats_are_single_precision_where_that_loses_nothing() -> None:
    assert compact_floats(np.array([0.5, 2.0**-149, np.inf])).dtype == np.float32
    for values in ([0.1], [1e300], [16777217.0]):
        assert compact_floats(np.array(values)).dtype == np.float64
    for values in (np.zeros((2, 3), dtype=np.float32), np.full((2, 3), 0.1), np.zeros((0, 3))):
        arrays = split_double("x", compact_floats(values))
        assert [arrays["x"].dtype, arrays["x_double"].dtype] == [np.float32, np.float64]
        np.testing.assert_array_equal(join_double("x", arrays), values)
