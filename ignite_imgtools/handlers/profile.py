"""Where the time of a training step goes: a table, and a trace for the viewers of browsers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.engine_handlers import move_to_end, move_to_front
from ignite_imgtools.handlers.run_files import WriteGuard, write_atomically

__all__ = ["PHASES", "attach_profile", "phase_table"]

PHASES = ("data wait", "to device", "forward", "loss and backward", "optimizer", "after the step", "handlers")
"""In the order of an iteration. ``to device`` is all of a step before the model is called; ``after the step`` what
follows the optimizer's, as the moving average and the schedule."""

_OPERATORS = 15
_logger = logging.getLogger(__name__)


def attach_profile(
    output_dir: str | Path,
    trainer: Engine,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    warmup: int = 3,
    steps: int = 5,
) -> Attachments:
    """Write ``profile/table.txt`` and ``profile/trace.json`` of a few iterations; call it on every process.

    The table has the mean seconds of each of :data:`PHASES`, and the operators that take longest; the trace is
    Chrome's. While they are taken, every phase waits for the device, so that its work counts where it was asked for;
    before and after that nothing is slower. The main process is profiled.

    Args:
        warmup: iterations of this run before it begins.
        steps: iterations that are profiled.

    Returns:
        An object whose ``remove()`` or ``detach()`` ends this.
    """
    attachments = Attachments()
    if is_main_process():
        _Profile(Path(output_dir) / "profile", warmup, steps, attachments).attach(trainer, model, optimizer)
    return attachments


class _Profile:
    def __init__(self, folder: Path, warmup: int, steps: int, attachments: Attachments):
        self._folder, self._steps, self._left = folder, steps, warmup
        self._attachments = attachments
        self._guard = WriteGuard(f"the profile in {folder}")
        self._times: dict[str, float] = {}
        self._profiler: Any = None
        self._phase: tuple[str, float, Any] | None = None
        self._hooks: list[Any] = []
        self._iterations = 0

    def attach(self, trainer: Engine, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._hooks = [
            model.register_forward_pre_hook(lambda *_: self._to("forward")),
            model.register_forward_hook(lambda *_: self._to("loss and backward")),
            optimizer.register_step_pre_hook(lambda *_: self._to("optimizer")),
            optimizer.register_step_post_hook(lambda *_: self._to("after the step")),
        ]
        for event, handler in (
            (Events.STARTED, self._take_places),
            (Events.GET_BATCH_STARTED, self._batch_awaited),
            (Events.GET_BATCH_COMPLETED, self._handling),
            (Events.ITERATION_STARTED, self._step_begins),
            (Events.ITERATION_COMPLETED, self._handling),
            (Events.ITERATION_COMPLETED, self._iteration_over),
            (Events.EPOCH_COMPLETED, self._pause),
            (Events.COMPLETED, self._finish),
        ):
            self._attachments.add(trainer, event, handler)

    def _take_places(self, trainer: Engine) -> None:
        move_to_front(trainer, Events.GET_BATCH_STARTED, self._batch_awaited)
        move_to_front(trainer, Events.GET_BATCH_COMPLETED, self._handling)
        move_to_end(trainer, Events.ITERATION_STARTED, self._step_begins)
        move_to_front(trainer, Events.ITERATION_COMPLETED, self._handling)
        move_to_end(trainer, Events.ITERATION_COMPLETED, self._iteration_over)
        move_to_front(trainer, Events.EPOCH_COMPLETED, self._pause)

    def _batch_awaited(self) -> None:
        if self._left == 0 and self._profiler is None and self._hooks:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_initialized()
            self._profiler = profile(activities=activities)
            self._profiler.__enter__()
        self._to("data wait")

    def _handling(self) -> None:
        self._to("handlers")

    def _step_begins(self) -> None:
        self._to("to device")

    def _iteration_over(self) -> None:
        if self._profiler is None:
            self._left -= 1
            return
        self._iterations += 1
        if self._iterations == self._steps:
            self._finish()

    def _to(self, name: str | None) -> None:
        """End the phase that there is, and begin another."""
        if self._profiler is None:
            return
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = perf_counter()
        if self._phase is not None:
            ended, begun, recorded = self._phase
            recorded.__exit__(None, None, None)
            self._times[ended] = self._times.get(ended, 0.0) + now - begun
        self._phase = None
        if name is not None:
            recorded = record_function(name)
            recorded.__enter__()
            self._phase = (name, perf_counter(), recorded)

    def _pause(self) -> None:
        # Evaluations and checkpoints at the end of an epoch are no part of a step.
        self._to(None)

    def _finish(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._profiler is None:
            return
        self._to(None)
        profiler, self._profiler = self._profiler, None
        profiler.__exit__(None, None, None)
        self._left = -1
        if self._iterations:
            with self._guard:
                self._write(profiler)

    def _write(self, profiler: Any) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / ".tmp-trace.json"
        profiler.export_chrome_trace(str(temporary))
        temporary.replace(self._folder / "trace.json")
        averages = profiler.key_averages()
        order = "self_device_time_total" if torch.cuda.is_initialized() else "self_cpu_time_total"
        operators = averages.table(sort_by=order, row_limit=_OPERATORS, max_name_column_width=44)
        table = phase_table(self._times, self._iterations)
        write_atomically(self._folder / "table.txt", f"{table}\n\n{operators}\n".encode())
        for line in table.splitlines():
            _logger.info("%s", line)
        with suppress(OSError):
            _logger.info("profile: %s", self._folder / "table.txt")


def phase_table(times: dict[str, float], iterations: int, phases: Sequence[str] = PHASES) -> str:
    """A line for each phase: seconds an iteration, and its share.

    >>> print(phase_table({"forward": 0.3, "data wait": 0.1}, 2, ("data wait", "forward")))
    phase                ms / iteration    share
    data wait                     50.00    25.0%
    forward                      150.00    75.0%
    all, of 2 iterations         200.00   100.0%
    """
    total = sum(times.values())
    rows = [(name, times.get(name, 0.0)) for name in phases]
    rows.append((f"all, of {iterations} iterations", total))
    lines = [f"{'phase':<20}{'ms / iteration':>15}{'share':>9}"]
    lines += [f"{name:<20}{1000 * s / iterations:>15.2f}{s / (total or 1):>9.1%}" for name, s in rows]
    return "\n".join(lines)
