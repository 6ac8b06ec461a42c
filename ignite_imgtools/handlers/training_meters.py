"""What a training says of itself every few iterations: smoothed terms of the step's output, and its speed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from numbers import Real
from time import perf_counter
from typing import Any, NamedTuple

from ignite.engine import Engine, Events
from torch import Tensor

from ignite_imgtools.formats import LoggedMetrics, follow_epochs
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.metrics import MeterBank

__all__ = ["TermReading", "TrainingMeters", "TrainingReading"]


class TermReading(NamedTuple):
    """One term of the step's output.

    Attributes:
        median: of this process' newest values, those in the window.
        mean: over the epoch so far and all processes, weighted by batch size.
        interval_mean: likewise, over the iterations since the previous reading; ``None`` where none of them had it.
    """

    median: float
    mean: float
    interval_mean: float | None


class TrainingReading(NamedTuple):
    """A trainer after an iteration; times in seconds of this process.

    Attributes:
        epoch: as in ``trainer.state``, from 1.
        iteration: as in ``trainer.state``, counted over all epochs.
        position: which iteration of this epoch, from 1.
        epoch_length: iterations in an epoch; ``None`` while nobody knows.
        eta: seconds to the end of the epoch; ``None`` likewise.
        lr: learning rate of each parameter group; empty where the trainer does not say.
        terms: in the order of the step's output.
        time: seconds an iteration, mean of those in the window.
        data_time: seconds an iteration of waiting for the batch, likewise.
        interval_time: as ``time``, over the iterations since the previous reading.
        interval_data_time: as ``data_time``, likewise.
    """

    epoch: int
    iteration: int
    position: int
    epoch_length: int | None
    eta: float | None
    lr: list[float]
    terms: dict[str, TermReading]
    time: float
    data_time: float
    interval_time: float
    interval_data_time: float

    def to_logged(self) -> LoggedMetrics:
        """What the reading says of the interval."""
        return {
            "epoch": self.epoch,
            "iteration": self.iteration,
            "lr": self.lr,
            "metrics": {
                name: term.interval_mean for name, term in self.terms.items() if term.interval_mean is not None
            },
            "time": self.interval_time,
            "data_time": self.interval_data_time,
        }


class TrainingMeters:
    """Meters every scalar of the step's output and reads all of them together.

    In an iteration it keeps references and times; nothing waits for the device and nothing is sent to other
    processes. A reading takes place after each ``every`` iterations of an epoch and after its last: one transfer from
    the device, one reduction over processes. A run that ends within an epoch by ``max_iters`` gets a reading too,
    which does not end the interval, so that a longer run reads the same at every other place.

    Args:
        window: number of newest values whose median is taken.
        on_reading: called on every process with the trainer and the reading.
        on_epoch: called at the end of an epoch with the trainer, its seconds and its iterations, both since the
            epoch, or this run, began.
    """

    def __init__(
        self,
        window: int,
        on_reading: Callable[[Engine, TrainingReading], None],
        on_epoch: Callable[[Engine, float, int], None] | None = None,
    ):
        self._bank = MeterBank(window)
        self._on_reading = on_reading
        self._on_epoch = on_epoch
        self._attachments = Attachments()
        self._loaded = False
        self._metered: tuple[int | None, int] | None = None
        self._newest_times: deque[tuple[float, float]] = deque(maxlen=window)
        self._start_epoch(0)

    def attach(self, trainer: Engine, every: int) -> None:
        """Meter ``trainer``.

        Raises:
            ValueError: ``every`` is below 1.
        """
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self._every = every
        follow_epochs(trainer)
        for event, handler in (
            (Events.EPOCH_STARTED, self._epoch_started),
            (Events.GET_BATCH_STARTED, self._batch_awaited),
            (Events.GET_BATCH_COMPLETED, self._batch_arrived),
            (Events.ITERATION_COMPLETED, self._iteration_completed),
            (Events.EPOCH_COMPLETED, self._epoch_completed),
        ):
            self._attachments.add(trainer, event, handler)

    def detach(self) -> None:
        """Stop metering."""
        self._attachments.detach()

    def state_dict(self) -> dict[str, Any]:
        """The meters of every process; call it on every process. Times are not of it: no run repeats them."""
        return self._bank.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`, also with another number of processes."""
        self._bank.load_state_dict(state)
        self._loaded = True

    def _epoch_started(self, trainer: Engine) -> None:
        state: Any = trainer.state
        # Resumed within an epoch, its meters go on from what was loaded; after an error, from what they hold.
        done = state.iteration - state.epoch_began_after
        if not (done and (self._loaded or self._metered == (state.epoch_began_after, state.iteration))):
            self._bank.reset()
        self._loaded = False
        self._start_epoch(state.iteration - done)

    def _start_epoch(self, iteration: int) -> None:
        self._epoch_began_after = iteration
        self._read_after: int | None = None
        self._seconds: list[float] = []
        self._seconds_waited: list[float] = []
        self._epoch_seconds, self._epoch_iterations = 0.0, 0
        self._newest_times.clear()
        self._waited = 0.0
        self._awaited = self._mark = perf_counter()

    def _batch_awaited(self) -> None:
        self._awaited = perf_counter()

    def _batch_arrived(self) -> None:
        self._waited = perf_counter() - self._awaited

    def _iteration_completed(self, trainer: Engine) -> None:
        state = trainer.state
        output: Any = state.output
        if not isinstance(output, dict):
            output = _to_terms(output)
        self._bank.append(output, output.get("batch_size", 1))
        now = perf_counter()
        self._seconds.append(now - self._mark)
        self._seconds_waited.append(self._waited)
        self._mark = now
        self._metered = self._epoch_began_after, state.iteration

        position = state.iteration - self._epoch_began_after
        if position % self._every == 0 or position == state.epoch_length:
            self._read(trainer)
        elif state.iteration == state.max_iters:
            self._read(trainer, ends_interval=False)

    def _epoch_completed(self, trainer: Engine) -> None:
        if self._seconds:  # nobody knew that the iteration was the last one
            self._read(trainer)
        if self._on_epoch is not None and self._epoch_iterations:
            self._on_epoch(trainer, self._epoch_seconds, self._epoch_iterations)

    def _read(self, trainer: Engine, *, ends_interval: bool = True) -> None:
        state = trainer.state
        count, seconds, waited = len(self._seconds), sum(self._seconds), sum(self._seconds_waited)
        self._newest_times.extend(zip(self._seconds, self._seconds_waited, strict=True))
        self._seconds, self._seconds_waited = [], []
        self._epoch_seconds += seconds
        self._epoch_iterations += count

        windows, means = self._bank.window_statistics(), self._bank.means_and_weights()
        if ends_interval:  # before anybody is told, whose error is not to keep these values for the next reading
            self._bank.start_interval()
        position = state.iteration - self._epoch_began_after
        eta = None
        if state.epoch_length is not None:
            eta = self._epoch_seconds / self._epoch_iterations * max(0, state.epoch_length - position)
        in_window = len(self._newest_times)
        self._on_reading(
            trainer,
            TrainingReading(
                epoch=state.epoch,
                iteration=state.iteration,
                position=position,
                epoch_length=state.epoch_length,
                eta=eta,
                lr=list(getattr(state, "lr", ())),
                terms={
                    name: TermReading(
                        windows[name].median if name in windows else math.nan,
                        mean.total,
                        mean.interval if weight else None,
                    )
                    for name, (mean, weight) in means.items()
                },
                time=sum(time for time, _ in self._newest_times) / in_window,
                data_time=sum(waited for _, waited in self._newest_times) / in_window,
                interval_time=seconds / count,
                interval_data_time=waited / count,
            ),
        )


def _to_terms(output: Any) -> Mapping[str, Any]:
    if isinstance(output, Mapping):
        return output
    return {"loss": output} if isinstance(output, Tensor | Real) else {}
