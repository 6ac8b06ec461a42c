"""Many meters that are fed in every step and read together, with one transfer from the device."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from numbers import Real
from operator import itemgetter
from typing import Any, NamedTuple

import ignite.distributed as idist
import numpy as np
import torch
from torch import Tensor

from ignite_imgtools.distributed import all_gather_arrays

__all__ = ["MeterBank", "MeterMeans", "WindowStatistics"]

# Columns of the sums: value times batch size, since the reset and since the interval began; then batch size likewise.
_TOTALS, _COUNTS, _INTERVAL = slice(0, 2), slice(2, 4), slice(1, 4, 2)
_ROWS_ON_WIRE = 64
_NAN = float("nan")


class WindowStatistics(NamedTuple):
    """What a meter says of this process' newest values, those in its window; nan where there are none."""

    median: float
    avg: float
    max: float
    value: float


class MeterMeans(NamedTuple):
    """Means over all processes, weighted by batch size; nan where there are no values."""

    total: float
    interval: float


_NEVER_UPDATED = WindowStatistics(_NAN, _NAN, _NAN, _NAN)


class _Segment:
    """Consecutive steps that brought the same names; holds references and looks at nothing."""

    def __init__(self, values: Mapping[str, Any]):
        self.width = len(values)
        self.names = tuple(name for name, value in values.items() if name != "batch_size" and _is_scalar(value))
        self.pick = _picker(self.names)
        # What needs a graph or a shape taken off is found out once, for it costs time at every step.
        tensors = [value for value in self.pick(values) if isinstance(value, Tensor)]
        self.clean = any(value.requires_grad or value.ndim for value in tensors)
        self.rows: list[Sequence[Any]] = []
        self.batch_sizes: list[Any] = []


class MeterBank:
    """Meters by name: running windows and exact means of scalars that stay on the device until they are read.

    :meth:`append` keeps references and does nothing else, so a training step never waits. Reading stacks all
    values since the last reading and copies them once. Sums are accumulated in float64 and in the order of the
    steps, whenever the bank is read: reading more often, or stopping and resuming, changes no bit of them.

    Args:
        window: number of newest values of which median, average and maximum are taken.

    Raises:
        ValueError: ``window`` is below 1.

    Example:
        >>> import torch
        >>> bank = MeterBank(window=3)
        >>> for loss in (4.0, 1.0, 2.0, 3.0):
        ...     bank.append({"loss": torch.tensor(loss)}, batch_size=2)
        >>> bank.window_statistics()["loss"]
        WindowStatistics(median=2.0, avg=2.0, max=3.0, value=3.0)
        >>> bank.means()["loss"].total
        2.5
    """

    def __init__(self, window: int = 20):
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        self.window = window
        self.reset()

    def reset(self) -> None:
        """Forget every value and name."""
        self._index: dict[str, int] = {}
        self._sums = np.zeros((0, 4))
        self._values = np.zeros((0, self.window))  # newest last
        self._lengths = np.zeros(0, dtype=np.int64)  # how many of them are there
        self._segments: list[_Segment] = []
        self._segment: _Segment | None = None

    def append(self, values: Mapping[str, Any], batch_size: int | Tensor = 1) -> None:
        """Remember the scalars among ``values``: numbers and tensors of one element.

        The key ``batch_size`` and entries of any other type are passed over.

        Args:
            batch_size: weight of these values in the means.
        """
        segment = self._segment
        if segment is None or len(values) != segment.width:
            segment = self._open_segment(values)
        try:
            row = segment.pick(values)
        except KeyError:
            segment = self._open_segment(values)
            row = segment.pick(values)
        segment.rows.append(tuple(map(_detached_scalar, row)) if segment.clean else row)
        segment.batch_sizes.append(batch_size)

    def _open_segment(self, values: Mapping[str, Any]) -> _Segment:
        self._segment = _Segment(values)
        self._segments.append(self._segment)
        return self._segment

    def flush(self) -> None:
        """Bring all pending values to the host, with one copy for each device, and add them up."""
        pending = [segment for segment in self._segments if segment.rows]
        if not pending:
            return
        columns = [column for s in pending for column in (*zip(*s.rows, strict=True), s.batch_sizes)]
        arrays = iter(_columns_to_host(columns))
        for segment in pending:
            values = [next(arrays) for _ in segment.names]
            batch_sizes = next(arrays)
            if values:
                self._accumulate(segment.names, np.concatenate(values).reshape(len(values), -1), batch_sizes)
            segment.rows, segment.batch_sizes = [], []
        self._segments = [self._segments[-1]]

    def _rows(self, names: Sequence[str]) -> slice | np.ndarray:
        new = [name for name in names if name not in self._index]
        if new:
            self._index.update(zip(new, range(len(self._index), len(self._index) + len(new)), strict=True))
            self._sums = np.concatenate([self._sums, np.zeros((len(new), 4))])
            self._values = np.concatenate([self._values, np.full((len(new), self.window), _NAN)])
            self._lengths = np.concatenate([self._lengths, np.zeros(len(new), dtype=np.int64)])
        if list(names) == list(self._index):  # the usual case, and a view is quicker than a selection
            return slice(None)
        return np.array([self._index[name] for name in names], dtype=np.int64)

    def _accumulate(self, names: Sequence[str], values: np.ndarray, batch_sizes: np.ndarray) -> None:
        """Add ``values`` ``[names, steps]`` with weights ``[steps]``."""
        rows, steps = self._rows(names), len(batch_sizes)
        running = np.empty((len(names), 2, steps + 1))
        running[:, :, 0] = self._sums[rows, _TOTALS]
        running[:, :, 1:] = (values * batch_sizes)[:, None]
        if batch_sizes.min() <= 0:
            # A process without images has no loss: what it reports, often nan, has no weight.
            running[:, :, 1:][:, :, batch_sizes <= 0] = 0.0
        # np.sum adds pairwise, so its bits would depend on when the bank is read; a running sum is sequential.
        self._sums[rows, _TOTALS] = np.add.accumulate(running, axis=2)[:, :, -1]
        self._sums[rows, _COUNTS] += batch_sizes.sum()
        if steps < self.window:
            values = np.concatenate((self._values[rows], values), axis=1)
        self._values[rows] = values[:, -self.window :]
        self._lengths[rows] = np.minimum(self._lengths[rows] + steps, self.window)

    def window_statistics(self) -> dict[str, WindowStatistics]:
        """Median (the lower one, as torch's), average, maximum and newest value of each name's window.

        They are of this process alone; a nan in the window makes them nan.
        """
        self.flush()
        windows = zip(self._values.tolist(), self._lengths.tolist(), strict=True)
        return {
            name: _statistics(row[-length:] if length else [])
            for name, (row, length) in zip(self._index, windows, strict=True)
        }

    def means(self) -> dict[str, MeterMeans]:
        """Means weighted by batch size over all processes. Call it on every process: it is one reduction."""
        self.flush()
        names, sums = _sum_over_processes(list(self._index), self._sums)
        return {
            name: MeterMeans(total / count if count else _NAN, recent / recent_count if recent_count else _NAN)
            for name, (total, recent, count, recent_count) in zip(names, sums.tolist(), strict=True)
        }

    def start_interval(self) -> None:
        """Begin a new interval: :attr:`MeterMeans.interval` tells of what is appended from here on."""
        self.flush()
        self._sums[:, _INTERVAL] = 0.0

    def drop(self, name: str) -> None:
        """Forget the values of one name."""
        self.flush()
        if name in self._index:
            row = self._index[name]
            self._sums[row], self._values[row], self._lengths[row] = 0.0, _NAN, 0

    def state_dict(self) -> dict[str, Any]:
        """The state of every process, by rank, as float64 tensors. Call it on every process."""
        self.flush()
        gathered = all_gather_arrays(
            {
                "names": np.frombuffer("\n".join(self._index).encode(), dtype=np.uint8),
                "sums": self._sums,
                "values": self._values,
                "lengths": self._lengths,
            }
        )
        processes = [
            {
                "names": arrays["names"].tobytes().decode().split("\n") if arrays["lengths"].size else [],
                **{key: torch.from_numpy(arrays[key].copy()) for key in ("sums", "values", "lengths")},
            }
            for arrays in gathered
        ]
        return {"processes": processes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up this process' part of ``state``; one saved by another number of processes goes to the first.

        The sums over all processes are then what they were, and so are the means.
        """
        processes = state["processes"]
        self.reset()
        if len(processes) == idist.get_world_size():
            self._add_process(processes[idist.get_rank()], with_window=True)
        elif idist.get_rank() == 0:
            for rank, process in enumerate(processes):
                self._add_process(process, with_window=rank == 0)

    def _add_process(self, process: Mapping[str, Any], *, with_window: bool) -> None:
        rows = self._rows(process["names"])
        self._sums[rows] += process["sums"].numpy()
        if with_window and process["names"]:
            kept = process["values"].numpy()[:, -self.window :]
            self._values[rows, -kept.shape[1] :] = kept
            self._lengths[rows] = np.minimum(process["lengths"].numpy(), self.window)


def _statistics(newest: list[float]) -> WindowStatistics:
    # Of so few numbers Python finds the median in a third of NumPy's time.
    if not newest:
        return _NEVER_UPDATED
    avg = sum(newest) / len(newest)
    if math.isnan(avg) and any(map(math.isnan, newest)):
        return WindowStatistics(_NAN, _NAN, _NAN, newest[-1])
    ordered = sorted(newest)
    return WindowStatistics(ordered[(len(ordered) - 1) // 2], avg, ordered[-1], newest[-1])


def _is_scalar(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, Real)


def _picker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    # itemgetter is three times quicker than a loop, but gives no tuple for a single name.
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: [values[name] for name in names]


def _detached_scalar(value: Any) -> Any:
    return value.detach().reshape(()) if isinstance(value, Tensor) else value


def _columns_to_host(columns: Sequence[Sequence[Any]]) -> list[np.ndarray]:
    """Columns of numbers or 0-dim tensors as float64 arrays, with one copy for each device that holds tensors."""
    try:
        return _alike_columns_to_host(columns)
    except (TypeError, RuntimeError):  # a column of numbers and tensors in turn, or of two devices: one by one
        return [np.array([float(value) for value in column], dtype=np.float64) for column in columns]


def _alike_columns_to_host(columns: Sequence[Sequence[Any]]) -> list[np.ndarray]:
    # To look at every value costs as much as to copy it: the first stands for its column.
    arrays: list[np.ndarray] = [np.empty(0)] * len(columns)
    by_device: dict[torch.device, dict[torch.dtype, list[int]]] = {}
    for i, column in enumerate(columns):
        first = column[0]
        if isinstance(first, Tensor):
            by_device.setdefault(first.device, {}).setdefault(first.dtype, []).append(i)
        else:
            arrays[i] = np.array(column, dtype=np.float64)
    for device, by_dtype in by_device.items():
        # float64 holds every value of the narrower types; MPS has no float64.
        widest = torch.float32 if device.type == "mps" else torch.float64
        stacked = [
            torch.stack(list(chain.from_iterable(columns[i] for i in group))).to(widest) for group in by_dtype.values()
        ]
        host = (stacked[0] if len(stacked) == 1 else torch.cat(stacked)).cpu().double().numpy()
        start = 0
        for i in chain.from_iterable(by_dtype.values()):
            arrays[i] = host[start : start + len(columns[i])]
            start += len(columns[i])
    return arrays


def _sum_over_processes(names: list[str], rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Sum the rows of all processes by name, in one all-reduce where all processes have the same names."""
    world_size = idist.get_world_size()
    if world_size == 1:
        return names, rows
    # Same number of rows on the wire on all processes, and a fingerprint of the names in front: every process sees
    # when they differ, and only then are names exchanged.
    capacity = max(1, -(-len(names) // _ROWS_ON_WIRE)) * _ROWS_ON_WIRE
    fingerprint = [float(zlib.crc32("\n".join(names).encode())), float(len(names))]
    payload = np.zeros(2 + capacity * rows.shape[1])
    payload[:2] = fingerprint
    payload[2 : 2 + rows.size] = rows.ravel()
    reduced = idist.all_reduce(torch.from_numpy(payload))
    assert isinstance(reduced, Tensor)
    summed = reduced.cpu().numpy()
    if summed[:2].tolist() == [world_size * number for number in fingerprint]:
        return names, summed[2 : 2 + rows.size].reshape(rows.shape)

    gathered = all_gather_arrays({"names": np.frombuffer("\n".join(names).encode(), dtype=np.uint8), "rows": rows})
    sums: dict[str, np.ndarray] = {}
    for arrays in gathered:
        text = arrays["names"].tobytes().decode()
        for name, row in zip(text.split("\n") if len(arrays["rows"]) else [], arrays["rows"], strict=True):
            sums[name] = sums[name] + row if name in sums else row
    return list(sums), np.stack(list(sums.values()))
