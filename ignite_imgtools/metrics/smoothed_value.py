"""The meter people know from training loops: the median of the newest values, and the mean of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ignite.metrics import Metric
from torch import Tensor

from ignite_imgtools.metrics.meter_bank import MeterBank, WindowStatistics

__all__ = ["SmoothedValue"]

_NAN = float("nan")


class SmoothedValue(Metric):
    """A series of scalars and its smoothed values: ``median``, ``avg``, ``global_avg``, ``max`` and ``value``.

    Values stay where they are until one of these is read; a meter that was never updated gives nan. ``median`` (the
    lower one, as torch's), ``avg``, ``max`` and ``value`` are those of this process' newest ``window`` values;
    ``global_avg`` is the mean of all values since the reset, weighted by batch size, over all processes.

    Attached to an engine, its result is ``global_avg``. It is fed one scalar, or a scalar and its batch size.

    Args:
        window: number of newest values to look at.
        output_transform: from the engine's output to a scalar, or to ``(scalar, batch_size)``.
        bank: meters that are to be read together share one; reading them then costs one transfer.
        name: of this meter in the bank.

    Raises:
        ValueError: ``window`` is below 1, or not that of ``bank``.

    Example:
        >>> import torch
        >>> loss = SmoothedValue(window=20)
        >>> for value, batch_size in ((torch.tensor(1.0), 4), (torch.tensor(4.0), 2)):
        ...     loss.update((value, batch_size))
        >>> loss.median, loss.avg, loss.global_avg, loss.max, loss.value
        (1.0, 2.5, 2.0, 4.0, 4.0)
    """

    # The output may be a mapping to the transform, never to update().
    required_output_keys: tuple | None = None

    def __init__(
        self,
        window: int = 20,
        output_transform: Callable[[Any], Any] = lambda output: output,
        *,
        bank: MeterBank | None = None,
        name: str = "value",
    ):
        if bank is not None and bank.window != window:
            raise ValueError(f"window must be that of the bank, {bank.window}, got {window}")
        self._bank = MeterBank(window) if bank is None else bank
        self._name = name
        super().__init__(output_transform, skip_unrolling=True)

    def reset(self) -> None:
        """Forget all values."""
        self._bank.drop(self._name)

    def update(self, output: Tensor | float | tuple[Tensor | float, int]) -> None:
        """Append a scalar, or ``(scalar, batch_size)``; nothing is computed."""
        value, batch_size = output if isinstance(output, tuple | list) else (output, 1)
        self._bank.append({self._name: value}, batch_size)

    def compute(self) -> float:
        """The mean weighted by batch size over all processes; call it on every process."""
        means = self._bank.means()
        return means[self._name].total if self._name in means else _NAN

    @property
    def global_avg(self) -> float:
        """As :meth:`compute`, with several processes to be read on every one of them."""
        return self.compute()

    @property
    def median(self) -> float:
        """Lower median of the window."""
        return self._statistics().median

    @property
    def avg(self) -> float:
        """Mean of the window."""
        return self._statistics().avg

    @property
    def max(self) -> float:
        """Largest value of the window."""
        return self._statistics().max

    @property
    def value(self) -> float:
        """Newest value."""
        return self._statistics().value

    def _statistics(self) -> WindowStatistics:
        return self._bank.window_statistics().get(self._name, WindowStatistics(_NAN, _NAN, _NAN, _NAN))

    def __str__(self) -> str:
        """``median (global_avg)``, as in a log line."""
        return f"{self.median:.4f} ({self.global_avg:.4f})"

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """The state of the bank on every process; call it on every process."""
        return self._bank.state_dict()

    def load_state_dict(self, state_dict: Mapping) -> None:
        """Take up what :meth:`state_dict` gave, also with another number of processes."""
        self._bank.load_state_dict(state_dict)
