"""The log of a training: lines for people, one JSON object a line for programs."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from ignite.engine import Engine, Events

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.formats import TrainerEvents, register_resumable, register_trainer_events, resumables
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.console import Console
from ignite_imgtools.handlers.run_files import MetricsFile, WriteGuard, append_bytes
from ignite_imgtools.handlers.training_meters import TrainingMeters, TrainingReading

__all__ = ["MetricLogger", "evaluation_line", "training_line"]

_RESUMABLE = "metric_logger"
_logger = logging.getLogger(__name__)


class MetricLogger:
    """Logs what the step returns: every scalar of it, smoothed, with the speed of the training.

    The line is ``Epoch: [1]  [ 10/25]  eta: 0:01:12  lr: 0.001000  loss: 0.0909 (0.2745)  time: 0.0103  data: 0.0002
    max mem: 1212``: epoch and iteration count from 1; of each term the median of the newest values of this process
    and, in brackets, the mean of the epoch so far over all processes, weighted by batch size; ``time`` of an
    iteration and the part of it spent waiting for ``data`` in seconds; with CUDA the most memory used in MB.

    One process writes ``log.txt`` (the lines) and ``metrics.jsonl`` in ``output_dir``. A line of the latter is
    ``{"epoch": 1, "iteration": 10, "lr": 0.001, "train/loss": 0.31}``, means over the iterations since the line
    before, or the result of an evaluation, ``{"epoch": 1, "iteration": 25, "val/bbox/AP": 0.42}``; a number that is not
    finite is ``null``. What a run writes again after a resume replaces what was there, with the same bits. If a file
    cannot be written there is one warning, and training goes on.

    The step's output may be a dict, a tensor of one element or a number; of a dict its numbers are logged, and what
    has none, as a tuple, is told once. The values stay on the device until a line is due. What a line says is also in
    ``trainer.state.logged`` and told by ``TrainerEvents.METRICS_LOGGED``.

    Args:
        output_dir: the run folder; ``None`` for no files.
        window: number of newest values of which medians and times are taken.
        bar: a bar of the epoch's iterations: ``"auto"`` on a terminal only.
        console: whether to print the lines.
    """

    def __init__(
        self,
        output_dir: str | Path | None = None,
        *,
        window: int = 20,
        bar: bool | Literal["auto"] = "auto",
        console: bool = True,
    ):
        self._folder = None if output_dir is None else Path(output_dir)
        folder = self._folder or Path()  # no file is written where there is none
        self._lines, self._metrics = folder / "log.txt", MetricsFile(folder / "metrics.jsonl")
        self._guard = WriteGuard(f"log.txt and metrics.jsonl in {self._folder}")
        self._meters = TrainingMeters(window, self._log, self._log_epoch)
        self._console_options: dict[str, Any] = {"lines": console, "bar": bar}
        self._console: Console | None = None
        self._attachments = Attachments()
        self._trainer: Engine | None = None
        self._uncut = True
        self._told = False

    def attach(self, trainer: Engine, every: int = 50) -> MetricLogger:
        """Log ``trainer``: a line after every ``every`` iterations of an epoch, and after its last.

        Call it on every process. The meters become part of the trainer's checkpoints.

        Raises:
            ValueError: ``every`` is below 1, or a logger is attached to the trainer already.
        """
        if self._trainer is not None:
            raise ValueError("this MetricLogger is attached already: detach it first")
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        register_resumable(trainer, _RESUMABLE, self._meters)
        self._trainer = trainer
        self._console = Console(**self._console_options) if is_main_process() else None
        register_trainer_events(trainer)
        state: Any = trainer.state
        state.log_every = every
        self._attachments.add(trainer, Events.STARTED, self._started)
        self._attachments.add(trainer, Events.EPOCH_STARTED, self._epoch_started)
        self._attachments.add(trainer, Events.COMPLETED, self._completed)
        self._meters.attach(trainer, every)
        if self._console is not None and self._console.shows_bar:
            self._attachments.add(trainer, Events.EPOCH_STARTED, self._start_bar)
            self._attachments.add(trainer, Events.ITERATION_COMPLETED, self._console.advance)
            for event in (Events.EPOCH_COMPLETED, Events.TERMINATE, Events.COMPLETED):
                self._attachments.add(trainer, event, self._console.close_bar)
        self._attachments.add(trainer, TrainerEvents.EVALUATION_COMPLETED, self._log_evaluation)
        return self

    def detach(self) -> None:
        """Stop logging; done twice, the second time nothing happens."""
        trainer, self._trainer = self._trainer, None
        if trainer is None:
            return
        self._attachments.detach()
        self._meters.detach()
        resumables(trainer).pop(_RESUMABLE, None)
        state: Any = trainer.state
        del state.log_every
        if self._console is not None:
            self._console.close_bar()

    def _started(self) -> None:
        # A resume may follow in another handler of this event: no file is touched before the epoch begins.
        self._uncut = True

    def _epoch_started(self, trainer: Engine) -> None:
        if self._uncut and self._folder is not None and is_main_process() and not self._guard.off:
            with self._guard:
                self._metrics.cut(trainer.state.iteration)
        self._uncut = False

    def _completed(self, trainer: Engine) -> None:
        state = trainer.state
        if self._uncut and state.iteration and is_main_process():
            self._write(f"Nothing to do: the run has all its iterations, {state.iteration} in {state.epoch} epochs")

    def _start_bar(self, trainer: Engine) -> None:
        state: Any = trainer.state
        assert self._console is not None
        done = state.iteration - state.epoch_began_after
        self._console.start_bar(f"Epoch [{state.epoch}]", state.epoch_length, done)

    def _log(self, trainer: Engine, reading: TrainingReading) -> None:
        logged = reading.to_logged()
        if not (reading.terms or self._told or trainer.state.output is None):
            self._told = True
            if is_main_process():
                _logger.warning(
                    "the step returns a %s without a number, so that no loss is logged: return a number, or a dict of "
                    "them as {'loss': ...}",
                    type(trainer.state.output).__name__,
                )
        if is_main_process():
            line = training_line(reading)
            if torch.cuda.is_initialized():
                line += f"  max mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}"
            lr = {"lr": reading.lr[0]} if reading.lr else {}
            terms = {f"train/{name}": value for name, value in logged["metrics"].items()}
            self._write(line, {"epoch": reading.epoch, "iteration": reading.iteration, **lr, **terms})
        state: Any = trainer.state
        state.logged = logged
        trainer.fire_event(TrainerEvents.METRICS_LOGGED)

    def _log_epoch(self, trainer: Engine, seconds: float, iterations: int) -> None:
        if is_main_process():
            each = seconds / iterations
            self._write(f"Epoch: [{trainer.state.epoch}]  Total time: {_clock(seconds)} ({each:.4f} s / it)")

    def _log_evaluation(self, trainer: Engine) -> None:
        if is_main_process():
            state: Any = trainer.state
            values = state.evaluations[state.evaluated]
            record = {f"{state.evaluated}/{name}": value for name, value in values.items()}
            line = evaluation_line(state.evaluated, state.epoch, values)
            self._write(line, {"epoch": state.epoch, "iteration": state.iteration, **record})

    def _write(self, line: str, record: Mapping[str, Any] | None = None) -> None:
        if self._console is not None:
            self._console.write(line)
        if self._folder is None or self._guard.off:
            return
        with self._guard:
            append_bytes(self._lines, f"{line}\n".encode())
            if record is not None:
                self._metrics.append(record)


def training_line(reading: TrainingReading) -> str:
    """The line of the log for one reading, without the memory."""
    if reading.epoch_length is None:
        position, eta = f"[{reading.position}/?]", "?"
    else:
        width = len(str(reading.epoch_length))
        position = f"[{reading.position:{width}d}/{reading.epoch_length}]"
        eta = _clock(math.nan if reading.eta is None else reading.eta)
    parts = [f"Epoch: [{reading.epoch}]", position, f"eta: {eta}"]
    parts += [f"lr: {reading.lr[0]:.6f}"] if reading.lr else []
    parts += [f"{name}: {term.median:.4f} ({term.mean:.4f})" for name, term in reading.terms.items()]
    parts += [f"time: {reading.time:.4f}", f"data: {reading.data_time:.4f}"]
    return "  ".join(parts)


def evaluation_line(name: str, epoch: int, values: Mapping[str, float]) -> str:
    """The line of the log for the result of an evaluation; what is told of single classes is left out.

    >>> evaluation_line("val", 3, {"bbox/AP": 0.25, "bbox/AP/cat": 0.5})
    'Evaluation: [3]  val/bbox/AP: 0.2500'
    """
    shown = [f"{name}/{metric}: {value:.4f}" for metric, value in values.items() if metric.count("/") < 2]
    return "  ".join([f"Evaluation: [{epoch}]", *shown])


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds))) if math.isfinite(seconds) else "?"
