"""Curves and pictures for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.formats import LoggedMetrics, TrainerEvents, register_trainer_events
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.evaluation import flat_metrics
from ignite_imgtools.handlers.event_file import EventFile
from ignite_imgtools.handlers.figures import figure_to_array
from ignite_imgtools.handlers.run_files import WriteGuard
from ignite_imgtools.handlers.training_meters import TrainingMeters, TrainingReading

__all__ = ["TensorBoardWriter", "attach_tensorboard"]

_EVERY = 50


def attach_tensorboard(
    output_dir: str | Path,
    trainer: Engine,
    optimizer: torch.optim.Optimizer | None = None,
    evaluators: Mapping[str, Engine] | None = None,
    *,
    every: int | None = None,
) -> TensorBoardWriter:
    """Write what trainer and evaluators tell into ``<output_dir>/tensorboard/``.

    Tags: ``train/<term>`` of the step's output, ``train/lr/group_<i>``, ``train/time`` and ``train/data_time`` in
    seconds an iteration, all means over the iterations since the previous point; ``<name>/<metric>`` of each
    evaluator, its pictures (``val/predictions``) and figures (``val/pr_curve``). The x axis is the trainer's
    iteration. One process writes; call it on every process. After a resume the points of the run that broke off give
    way to new ones. If the files cannot be written there is one warning, and training goes on.

    Args:
        optimizer: where the learning rates are read if ``trainer.state.lr`` does not hold them.
        evaluators: by the name their tags begin with.
        every: iterations between two points. By default those of the trainer's MetricLogger, whose values are then
            used as they are, at no further transfer from the device; without a logger 50.

    Raises:
        ValueError: ``every`` is below 1.
        TypeError: ``evaluators`` is no dict.
    """
    if every is not None and every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    if not isinstance(evaluators, Mapping | None):
        raise TypeError(
            f"evaluators must be a dict of engines by name, as {{'val': evaluator}}, got {evaluators!r:.100}"
        )
    writer = TensorBoardWriter(Path(output_dir) / "tensorboard", optimizer, every)
    writer.attach(trainer, evaluators or {})
    return writer


class TensorBoardWriter:
    """What :func:`attach_tensorboard` returns: ``close()`` or ``detach()`` ends the writing."""

    def __init__(self, folder: Path, optimizer: torch.optim.Optimizer | None, every: int | None):
        self._folder = folder
        self._optimizer = optimizer
        self._every = every
        self._guard = WriteGuard(f"TensorBoard's events in {folder}")
        self._attachments = Attachments()
        self._meters: TrainingMeters | None = None
        self._file: EventFile | None = None
        self._run_begins = True
        self._begun_after = 0

    def attach(self, trainer: Engine, evaluators: Mapping[str, Engine]) -> None:
        """Listen to ``trainer`` and, by name, to ``evaluators``."""
        register_trainer_events(trainer)
        self._attachments.add(trainer, Events.STARTED, self._started)
        self._attachments.add(trainer, Events.EPOCH_STARTED, self._epoch_started)
        self._attachments.add(trainer, TrainerEvents.METRICS_LOGGED, self._logged)
        for name, evaluator in evaluators.items():
            self._attachments.add(evaluator, Events.COMPLETED, partial(self._evaluated, trainer, name))

    def detach(self) -> None:
        """Stop writing; done twice, the second time nothing happens. What was written is in the file."""
        self._attachments.detach()
        if self._meters is not None:
            self._meters.detach()
            self._meters = None

    close = detach

    def _started(self, trainer: Engine) -> None:
        self._run_begins, self._file = True, None
        # Only now is it certain whether a MetricLogger is attached, and how often it reads.
        if not self._shares_readings(trainer) and self._meters is None:
            self._meters = TrainingMeters(1, self._read)
            self._meters.attach(trainer, self._every or _EVERY)

    def _shares_readings(self, trainer: Engine) -> bool:
        log_every = getattr(trainer.state, "log_every", None)
        return log_every is not None and self._every in (None, log_every)

    def _epoch_started(self, trainer: Engine) -> None:
        if self._run_begins:
            self._begun_after = trainer.state.iteration
        self._run_begins = False

    def _logged(self, trainer: Engine) -> None:
        if self._meters is None:
            state: Any = trainer.state
            self._write_training(state.logged)

    def _read(self, trainer: Engine, reading: TrainingReading) -> None:
        self._write_training(reading.to_logged())

    def _write_training(self, logged: LoggedMetrics) -> None:
        scalars = {f"train/{term}": value for term, value in logged["metrics"].items()}
        lr = logged["lr"]
        if not lr and self._optimizer is not None:
            lr = [float(group["lr"]) for group in self._optimizer.param_groups]
        scalars |= {f"train/lr/group_{i}": value for i, value in enumerate(lr)}
        scalars |= {"train/time": logged["time"], "train/data_time": logged["data_time"]}
        self._write(lambda file: file.add_scalars(scalars, logged["iteration"]))

    def _evaluated(self, trainer: Engine, name: str, evaluator: Engine) -> None:
        state: Any = evaluator.state
        step = trainer.state.iteration

        def write(file: EventFile) -> None:
            file.add_scalars({f"{name}/{metric}": v for metric, v in flat_metrics(state.metrics).items()}, step)
            for tag, image in getattr(state, "images", {}).items():
                file.add_image(f"{name}/{tag}", image, step, encoding="JPEG")
            for tag, figure in getattr(state, "figures", {}).items():
                file.add_image(f"{name}/{tag}", figure_to_array(figure), step)

        self._write(write)

    def _write(self, write: Callable[[EventFile], None]) -> None:
        if self._guard.off or not is_main_process():
            return
        with self._guard:
            if self._file is None:
                resumed = any(self._folder.glob("events.out.tfevents.*"))
                self._file = EventFile(self._folder, self._begun_after + 1 if resumed else None)
            write(self._file)
