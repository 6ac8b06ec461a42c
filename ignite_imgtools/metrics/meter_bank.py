"""Many meters that are fed in every step and read together, with one transfer from the device."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import chain, islice
from numbers import Real
from operator import add, itemgetter, mul
from typing import Any, NamedTuple

import ignite.distributed as idist
import numpy as np
import torch
from torch import Tensor

from ignite_imgtools.distributed import all_gather_arrays
from ignite_imgtools.formats import StepTerms, sum_terms

__all__ = ["MeterBank", "MeterMeans", "WindowStatistics"]

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
        self.has_batch_size = "batch_size" in values
        self.terms = values.terms if isinstance(values, StepTerms) else ()
        # The loss of such values is the sum of their terms.
        in_vector = {"loss", *self.terms} if self.terms else set()
        self.names = [k for k in values if k in in_vector or (k != "batch_size" and _is_scalar(values[k]))]
        # What is no number in this step may be one in the next.
        self.passed_over = tuple(k for k in values if k != "batch_size" and k not in self.names)
        others = tuple(name for name in self.names if name not in in_vector)
        self.pick = _picker(others)
        # What needs a graph or a shape taken off is found out once, for it costs time at every step.
        tensors = [value for value in self.pick(values) if isinstance(value, Tensor)]
        self.clean = any(value.requires_grad or value.ndim for value in tensors)
        self.others = others
        self.rows: list[Sequence[Any]] = []
        self.vectors: list[Tensor] = []
        self.batch_sizes: list[Any] = []

    def has_place_for(self, values: Mapping[str, Any]) -> bool:
        """Whether what this segment passes over is there in ``values`` and still no number."""
        return all(name in values and not _is_scalar(values[name]) for name in self.passed_over)

    def columns(self) -> list[tuple[tuple[str, ...], Sequence[Any]]]:
        """The values of all steps by name, vectors under the names of their elements, batch sizes under none."""
        columns: list[tuple[tuple[str, ...], Sequence[Any]]] = [
            ((name,), column) for name, column in zip(self.others, zip(*self.rows, strict=True), strict=True)
        ]
        return [*columns, *([(self.terms, self.vectors)] if self.terms else []), ((), self.batch_sizes)]

    def forget(self) -> None:
        self.rows, self.vectors, self.batch_sizes = [], [], []


class _Meter:
    """The sums of one name and its newest values; of so few numbers plain Python makes less work than NumPy."""

    __slots__ = ("newest", "sums")

    def __init__(self) -> None:
        # Value times batch size, since the reset and since the interval began; then batch size likewise.
        self.sums = [0.0, 0.0, 0.0, 0.0]
        self.newest: list[float] = []

    def add(self, values: list[float], weights: list[float], window: int) -> None:
        if not values:  # no numbers in any step since the last reading
            return
        products = list(map(mul, values, weights))
        if min(weights) <= 0:
            # A process without images has no loss: what it reports, often nan, has no weight.
            products = [product if weight > 0 else 0.0 for product, weight in zip(products, weights, strict=True)]
        total, recent, total_count, recent_count = self.sums
        # From left to right: built-in sum() has been more exact since Python 3.12, so that its bits depend on when
        # the bank is read.
        self.sums = [reduce(add, products, total), reduce(add, products, recent)]
        self.sums += [reduce(add, weights, total_count), reduce(add, weights, recent_count)]
        self.newest = (self.newest + values)[-window:]

    def start_interval(self) -> None:
        self.sums[1] = self.sums[3] = 0.0


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
        self._meters: dict[str, _Meter] = {}
        self._segments: list[_Segment] = []
        self._segment: _Segment | None = None

    def append(self, values: Mapping[str, Any], batch_size: int | Tensor = 1) -> None:
        """Remember the scalars among ``values``: numbers and tensors of one element.

        The key ``batch_size`` and entries of any other type are passed over.

        Args:
            batch_size: weight of these values in the means.
        """
        if hasattr(values, "__missing__"):  # a defaultdict would make up what is not there
            values = dict(values)
        terms, vector = (values.terms, values.vector) if isinstance(values, StepTerms) else ((), None)
        segment = self._segment
        if (
            segment is None
            or len(values) != segment.width
            or ("batch_size" in values) != segment.has_batch_size
            or terms != segment.terms
            or (segment.passed_over and not segment.has_place_for(values))
        ):
            segment = self._open_segment(values)
        try:
            row = segment.pick(values)
        except KeyError:
            segment = self._open_segment(values)
            row = segment.pick(values)
        segment.rows.append(tuple(map(_detached_scalar, row)) if segment.clean else row)
        if vector is not None:
            segment.vectors.append(vector)
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
        named = [segment.columns() for segment in pending]
        lists = iter(_columns_to_host([column for columns in named for _, column in columns]))
        found: list[tuple[str, list[float], list[float]]] = []
        for segment, columns in zip(pending, named, strict=True):
            *values, weights = [next(lists) for _ in columns]
            if len(weights) != len(segment.batch_sizes):
                raise ValueError("batch_size: expected one number in each step, there is none in some")
            apart: dict[str, list[float]] = {}
            for (names, column), numbers in zip(columns, values, strict=False):
                if len(numbers) == len(names) * len(weights):
                    # Of a vector the elements of a step are next to each other.
                    apart |= {name: numbers[place :: len(names)] for place, name in enumerate(names)}
                    continue
                # Else some were no numbers: those that were have their weights.
                own_weights = [weight for value, weight in zip(column, weights, strict=True) if _is_numeric(value)]
                if len(own_weights) == len(weights) or len(numbers) != len(own_weights):
                    wrong = " or ".join(names)
                    raise ValueError(
                        f"{wrong}: was one number in a step, several or none in another; return one in each"
                    )
                found += [(names[0], numbers, own_weights)]
            if segment.terms:
                rows = torch.tensor([apart[name] for name in segment.terms], dtype=segment.vectors[0].dtype)
                apart["loss"] = sum_terms(rows.unbind()).tolist()
            found += [(name, numbers, weights) for name, numbers in apart.items()]
        for segment in pending:
            segment.forget()
            for name in segment.names:  # in the order in which they came
                self._meters.setdefault(name, _Meter())
        for name, numbers, weights in found:
            self._meters[name].add(numbers, weights, self.window)
        self._segments = [self._segments[-1]]

    def window_statistics(self) -> dict[str, WindowStatistics]:
        """Median (the lower one, as torch's), average, maximum and newest value of each name's window.

        They are of this process alone; a nan in the window makes them nan.
        """
        self.flush()
        return {name: _statistics(meter.newest) for name, meter in self._meters.items()}

    def means(self) -> dict[str, MeterMeans]:
        """Means weighted by batch size over all processes. Call it on every process: it is one reduction."""
        return {name: means for name, (means, _) in self.means_and_weights().items()}

    def means_and_weights(self) -> dict[str, tuple[MeterMeans, float]]:
        """As :meth:`means`, each with the weight of its interval: 0 where that has no values, and its mean is nan."""
        self.flush()
        sums = _sum_over_processes({name: meter.sums for name, meter in self._meters.items()})
        return {
            name: (
                MeterMeans(total / count if count else _NAN, recent / recent_count if recent_count else _NAN),
                recent_count,
            )
            for name, (total, recent, count, recent_count) in sums.items()
        }

    def start_interval(self) -> None:
        """Begin a new interval: :attr:`MeterMeans.interval` tells of what is appended from here on."""
        self.flush()
        for meter in self._meters.values():
            meter.start_interval()

    def drop(self, name: str) -> None:
        """Forget the values of one name."""
        self.flush()
        if name in self._meters:
            self._meters[name] = _Meter()

    def state_dict(self) -> dict[str, Any]:
        """The state of every process, by rank, as float64 tensors. Call it on every process."""
        self.flush()
        meters = list(self._meters.values())
        values = np.full((len(meters), self.window), _NAN)  # newest last
        for row, meter in zip(values, meters, strict=True):
            row[self.window - len(meter.newest) :] = meter.newest
        gathered = all_gather_arrays(
            {
                "names": _as_bytes(self._meters),
                "sums": np.array([meter.sums for meter in meters], dtype=np.float64).reshape(-1, 4),
                "values": values,
                "lengths": np.array([len(meter.newest) for meter in meters], dtype=np.int64),
            }
        )
        processes = [
            {
                "names": _from_bytes(arrays["names"]) if arrays["lengths"].size else [],
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
        columns = (process["sums"].tolist(), process["values"].tolist(), process["lengths"].tolist())
        for name, sums, values, length in zip(process["names"], *columns, strict=True):
            meter = self._meters.setdefault(name, _Meter())
            meter.sums = list(map(add, meter.sums, sums))
            if with_window:
                meter.newest = values[len(values) - length :][-self.window :]


def _statistics(newest: list[float]) -> WindowStatistics:
    if not newest:
        return _NEVER_UPDATED
    avg = sum(newest) / len(newest)
    if math.isnan(avg) and any(map(math.isnan, newest)):
        return WindowStatistics(_NAN, _NAN, _NAN, newest[-1])
    ordered = sorted(newest)
    return WindowStatistics(ordered[(len(ordered) - 1) // 2], avg, ordered[-1], newest[-1])


def _is_scalar(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, Real)


def _is_numeric(value: Any) -> bool:
    return isinstance(value, Tensor | Real)


def _picker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    # itemgetter is three times quicker than a loop, but gives no tuple for a single name.
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: [values[name] for name in names]


def _detached_scalar(value: Any) -> Any:
    return value.detach().reshape(()) if isinstance(value, Tensor) else value


def _columns_to_host(columns: Sequence[Sequence[Any]]) -> list[list[float]]:
    """Columns of numbers, or of tensors of one size, as lists, with one copy for each device that holds tensors."""
    try:
        return _alike_columns_to_host(columns)
    except (TypeError, ValueError, RuntimeError):
        # A column of numbers and tensors in turn, or of two devices, or with values that are no numbers.
        odd = [not _is_uniform(column) for column in columns]
        if not any(odd):
            return list(map(_one_by_one, columns))
        others = iter(_columns_to_host([column for column, is_odd in zip(columns, odd, strict=True) if not is_odd]))
        return [_one_by_one(column) if is_odd else next(others) for column, is_odd in zip(columns, odd, strict=True)]


def _is_uniform(column: Sequence[Any]) -> bool:
    first = column[0]
    if not isinstance(first, Tensor):
        return all(isinstance(value, Real) for value in column)
    like = first.device, first.dtype, first.shape
    return all(isinstance(value, Tensor) and (value.device, value.dtype, value.shape) == like for value in column)


def _one_by_one(column: Sequence[Any]) -> list[float]:
    """The numbers of a column without what is none; nothing where values are not as long as the first."""
    # Not all devices have float64.
    rows = [
        value.cpu().double().ravel().tolist() if isinstance(value, Tensor) else [float(value)]
        for value in filter(_is_numeric, column)
    ]
    return list(chain.from_iterable(rows)) if len(set(map(len, rows))) == 1 else []


def _alike_columns_to_host(columns: Sequence[Sequence[Any]]) -> list[list[float]]:
    # To look at every value costs as much as to copy it: the first stands for its column.
    lists: list[list[float]] = [[] for _ in columns]
    by_device: dict[torch.device, dict[tuple[torch.dtype, torch.Size], list[int]]] = {}
    for place, column in enumerate(columns):
        first = column[0]
        if isinstance(first, Tensor):
            by_device.setdefault(first.device, {}).setdefault((first.dtype, first.shape), []).append(place)
        else:
            lists[place] = list(map(float, column))
    for device, alike in by_device.items():
        groups = list(alike.values())
        parts = [torch.stack(list(chain.from_iterable(columns[i] for i in group))).ravel() for group in groups]
        if len({part.dtype for part in parts}) > 1:
            # float64 holds every value of the narrower types; MPS has no float64.
            parts = [part.to(torch.float32 if device.type == "mps" else torch.float64) for part in parts]
        numbers = iter(map(float, (parts[0] if len(parts) == 1 else torch.cat(parts)).tolist()))
        for place in chain.from_iterable(groups):
            count = len(columns[place]) * columns[place][0].numel()
            lists[place] = list(islice(numbers, count))
    return lists


def _as_bytes(names: Iterable[str]) -> np.ndarray:
    return np.frombuffer("\n".join(names).encode(), dtype=np.uint8)


def _from_bytes(names: np.ndarray) -> list[str]:
    return names.tobytes().decode().split("\n")


def _all_reduced(numbers: np.ndarray) -> np.ndarray:
    reduced = idist.all_reduce(torch.from_numpy(numbers))
    assert isinstance(reduced, Tensor)
    return reduced.cpu().numpy()


def _sum_over_processes(sums: dict[str, list[float]]) -> dict[str, list[float]]:
    """Sum the rows of all processes by name, in one all-reduce where all processes have the same names."""
    world_size = idist.get_world_size()
    if world_size == 1:
        return sums
    # First so many rows on all processes, and a fingerprint of the names in front: every process sees when they
    # differ, and only then are names exchanged.
    rows = np.array(list(sums.values()), dtype=np.float64).reshape(-1, 4)
    fingerprint = [float(zlib.crc32(_as_bytes(sums).tobytes())), float(len(sums))]
    payload = np.zeros(2 + 4 * _ROWS_ON_WIRE)
    payload[:2] = fingerprint
    payload[2 : 2 + rows[:_ROWS_ON_WIRE].size] = rows[:_ROWS_ON_WIRE].ravel()
    summed = _all_reduced(payload)
    if summed[:2].tolist() == [world_size * number for number in fingerprint]:
        whole = summed[2 : 2 + rows[:_ROWS_ON_WIRE].size]
        if len(rows) > _ROWS_ON_WIRE:
            whole = np.concatenate((whole, _all_reduced(rows[_ROWS_ON_WIRE:].ravel())))
        return dict(zip(sums, whole.reshape(rows.shape).tolist(), strict=True))

    found: dict[str, list[float]] = {}
    for arrays in all_gather_arrays({"names": _as_bytes(sums), "rows": rows}):
        names = _from_bytes(arrays["names"]) if len(arrays["rows"]) else []
        for name, row in zip(names, arrays["rows"].tolist(), strict=True):
            found[name] = list(map(add, found[name], row)) if name in found else row
    return found
