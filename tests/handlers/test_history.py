"""What is kept of the records of a run, and which points of a long curve are drawn."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ignite_imgtools.handlers.history import History, thinned
from ignite_imgtools.handlers.run_files import MetricsFile, read_metrics

_RECORDS: list[dict[str, Any]] = [
    {"epoch": 1, "iteration": 5, "lr": 0.1, "train/loss": 9.0},
    {"epoch": 1, "iteration": 10, "lr": 0.2, "train/loss": None},
    {"epoch": 2, "iteration": 10, "val/AP": np.float32(0.25), "val/APs": -1},
]


def test_points_by_name() -> None:
    history = History(_RECORDS)
    assert (history.epoch, history.iteration) == (2, 10)
    assert history.names == ["lr", "train/loss", "val/AP", "val/APs"]
    assert [points.tolist() for points in history.points("lr")] == [[5, 10], [0.1, 0.2]]
    iterations, losses = history.points("train/loss")
    assert (iterations.dtype, losses.dtype) == (np.int64, np.float64)
    assert losses[0] == 9
    assert math.isnan(losses[1])
    assert history.points("val/AP")[1].tolist() == [0.25]
    assert np.isnan(history.points("val/APs")[1]).all()
    assert [len(points) for points in history.points("unknown")] == [0, 0]
    before = history.points("lr")
    history.add({"iteration": 15, "lr": 0.3})
    assert len(before[0]) == 2
    assert history.points("lr")[0].tolist() == [5, 10, 15]


@pytest.mark.parametrize("value", ["text", [1], {}, 10**400])
def test_what_is_no_number_is_missing(value: Any) -> None:
    assert np.isnan(History([{"iteration": 1, "train/loss": value}]).points("train/loss")[1]).all()


@pytest.mark.parametrize("iteration", ["7", None, 1.5, 2**70])
def test_a_record_without_its_iteration_is_passed_over(iteration: Any) -> None:
    history = History([{"iteration": iteration, "train/loss": 1.0}, {"train/loss": 1.0}])
    assert not history
    assert history.iteration == 0


def test_a_long_run_takes_a_few_bytes_an_entry() -> None:
    names = [f"train/{number}" for number in range(10)]
    tracemalloc.start()
    history = History({"epoch": 1, "iteration": i, **dict.fromkeys(names, i / 7)} for i in range(5000))
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert history.iteration == 4999
    assert size < 5000 * len(names) * 20  # records as dicts: 26 for the number alone, and 60 for its place


def test_a_file_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"iteration": 1}\n[3]\n{"iteration": "2"}\n{"iter\n{"iteration": 3}\n{"iteration": 4}')
    assert list(read_metrics(path)) == [{"iteration": 1}, {"iteration": "2"}, {"iteration": 3}]
    assert History(read_metrics(path), until=2).iteration == 1


def test_lines_of_others_outlive_a_resume(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    lines = [{"iteration": 1}, {"iteration": 2.0, "mine": 3}, {"iteration": "7"}, {"iteration": None}, {"note": "x"}]
    for record in [*lines, {"iteration": 6}, {"iteration": 6.5}]:
        file.append(record)
    file.cut(5)
    assert list(read_metrics(file.path)) == lines
    assert History(read_metrics(file.path), until=5).iteration == 1


def _slowly_thinned(values: np.ndarray, length: int) -> set[int]:
    kept = {len(values) - 1}
    for begin in range(0, len(values), length):
        places = [place for place in range(begin, min(begin + length, len(values))) if not math.isnan(values[place])]
        if places:
            kept |= {min(places, key=lambda place: values[place]), max(places, key=lambda place: values[place])}
        else:
            kept.add(begin)
    return kept


def test_a_short_line_at_the_end_of_an_epoch_is_part_of_the_one_before() -> None:
    every, epoch_length, losses = 50, 52, np.random.default_rng(0).random(156)
    ends = sorted({first + end for first in (0, 52, 104) for end in (every, epoch_length)})
    history, means = History(), []
    for begin, end in zip([0, *ends], ends, strict=False):
        history.add({"iteration": end, "lr": end, "train/loss": losses[begin:end].mean(), "val/loss": 1.0})
    means = [losses[first : first + 52].mean() for first in (0, 52, 104)]
    iterations, values = history.curve("train/loss")
    assert iterations.tolist() == [52, 104, 156]
    assert values.tolist() == pytest.approx(means, rel=1e-12)
    for name in ("lr", "val/loss"):  # no means over these iterations
        assert [part.tolist() for part in history.curve(name)] == [part.tolist() for part in history.points(name)]


@pytest.mark.parametrize("lines", [5, 6])
def test_epochs_of_a_long_line_and_a_short_one_are_drawn_alike_whenever_that_is(lines: int) -> None:
    ends = [50, 70, 120, 140, 190, 210][:lines]
    history = History({"iteration": end, "train/loss": end} for end in ends)
    assert history.curve("train/loss")[0].tolist() == [70, 140, ends[-1]]


def test_a_part_of_a_run_that_logged_more_often_is_drawn_as_it_is() -> None:
    ends = [*range(50, 501, 50), 510, 520, 530]
    history = History({"iteration": end, "train/loss": end} for end in ends)
    assert history.curve("train/loss")[0].tolist() == ends


def test_lines_of_like_lengths_are_drawn_as_they_are() -> None:
    history = History({"iteration": end, "train/loss": end} for end in (5, 10, 15, 18, 23, 28, 33, 36))
    assert [part.tolist() for part in history.curve("train/loss")] == [
        part.tolist() for part in history.points("train/loss")
    ]
    assert [len(part) for part in history.curve("unknown")] == [0, 0]


def test_a_curve_without_some_of_its_numbers() -> None:
    values = [math.nan, 3.0, 1.0, math.nan, math.nan, 2.0]
    history = History({"iteration": i, "train/x": v} for i, v in zip((10, 20, 22, 32, 34, 44), values, strict=True))
    iterations, means = history.curve("train/x")
    assert iterations.tolist() == [10, 22, 34, 44]
    assert means[1] == pytest.approx((10 * 3 + 2 * 1) / 12)
    assert np.isnan(means[[0, 2]]).all()
    assert means[3] == 2


@pytest.mark.parametrize("count", [21, 22, 100, 101, 109])
def test_of_a_long_curve_the_ends_of_each_stretch_are_drawn(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    values[3:5] = math.nan
    values[8:20] = math.nan
    values[7] = math.inf
    values[count - 2 :] = math.nan
    iterations = np.arange(count) * 10
    shown, kept = thinned(iterations, values, 10)
    expected = sorted(_slowly_thinned(values, math.ceil(count / 10)))
    assert shown.tolist() == [10 * place for place in expected]
    np.testing.assert_array_equal(kept, values[expected])


def test_a_short_curve_is_drawn_whole() -> None:
    iterations, values = np.arange(20), np.arange(20.0)
    assert thinned(iterations, values, 10)[1] is values
