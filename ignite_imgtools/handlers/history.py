"""What was logged of a run so far, kept small enough to stay in memory for as long as a run goes on."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

__all__ = ["History", "thinned"]

_LARGEST = 2**63


class History:
    """Numbers by name over the iterations: losses, learning rates and metrics.

    They lie in arrays of 16 bytes an entry; records as dicts take eight times as much, and leave the memory of
    a process in pieces.

    Args:
        records: see :meth:`add`.
        until: records of later iterations are left out.

    Attributes:
        epoch: the last one of a record; 0 before the first.
        iteration: the last one of a record; 0 before the first.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]] = (), *, until: int | None = None):
        self.epoch = 0
        self.iteration = 0
        self._series: dict[str, tuple[array[int], array[float]]] = {}
        for record in records:
            iteration = record.get("iteration")
            if until is None or not isinstance(iteration, int) or iteration <= until:
                self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take an object of a ``metrics.jsonl``; without an ``iteration`` it tells nothing and is passed over."""
        iteration, epoch = record.get("iteration"), record.get("epoch")
        if not isinstance(iteration, int) or not -_LARGEST <= iteration < _LARGEST:
            return
        self.iteration = max(self.iteration, iteration)
        if isinstance(epoch, int):
            self.epoch = max(self.epoch, epoch)
        for name, value in record.items():
            if name not in ("epoch", "iteration"):
                series = self._series.get(name)
                if series is None:
                    series = self._series[name] = (array("q"), array("d"))
                series[0].append(iteration)
                series[1].append(_number(value))

    @property
    def names(self) -> list[str]:
        """The names, in the order in which they came first."""
        return list(self._series)

    def points(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Iterations, int64, and the values there, float64, NaN for what is no number; empty for an unknown name."""
        iterations, values = self._series.get(name, (array("q"), array("d")))
        return np.array(iterations, dtype=np.int64), np.array(values, dtype=np.float64)

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`points`, a training's means over equal numbers of iterations.

        The line at the end of an epoch is often one of few iterations, whose mean jumps: it is taken into the line
        before it, if it has less than half as many as that one and the next one.
        """
        iterations, values = self.points(name)
        if not name.startswith("train/") or len(values) < 3:
            return iterations, values
        spans = np.maximum(np.diff(iterations, prepend=0), 1)
        # Not by what is usual in all of the run, a later part of which may log more often.
        around = np.minimum(spans[:-1], np.append(spans[2:], np.inf))
        begins = np.append(True, spans[1:] >= around / 2)
        starts = np.flatnonzero(begins)
        weights = np.where(np.isfinite(values), spans, 0)
        sums, counts = (np.add.reduceat(part, starts) for part in (np.where(weights, values, 0.0) * weights, weights))
        means = np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)
        return iterations[np.append(starts[1:] - 1, len(values) - 1)], means

    def __bool__(self) -> bool:
        return bool(self._series)


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # null, or what a file from elsewhere may hold
        return math.nan
    return math.nan if number == -1 else number  # -1 is COCO's word for nothing to be found


def thinned(iterations: np.ndarray, values: np.ndarray, stretches: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Of a long curve the smallest and the largest value of each stretch and the last of all: it looks the same.

    Args:
        iterations: ``[N]``.
        values: float ``[N]``; NaN, where there is none, stays only where a whole stretch is.
        stretches: about how many; as many as there are pixels.

    Returns:
        At most ``2 * stretches + 1`` of the iterations, and their values.
    """
    count = len(values)
    if count <= 2 * stretches:
        return iterations, values
    length = math.ceil(count / stretches)
    rows = np.full((math.ceil(count / length), length), np.nan)
    rows.flat[:count] = values
    missing, begin = np.isnan(rows), np.arange(len(rows)) * length
    lowest = np.where(missing, np.inf, rows).argmin(1)
    highest = np.where(missing, -np.inf, rows).argmax(1)
    chosen = np.unique(np.concatenate([begin + lowest, begin + highest, [count - 1]]))
    return iterations[chosen], values[chosen]
