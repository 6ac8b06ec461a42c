"""Evaluation in the course of a training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from torch import Tensor

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.formats import TrainerEvents, register_trainer_events
from ignite_imgtools.free_memory import collect_cycles, give_back_free_memory
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.console import Console
from ignite_imgtools.progress import Wait

__all__ = ["attach_evaluation_summary", "evaluate_on_epoch", "flat_metrics"]


def evaluate_on_epoch(
    trainer: Engine, evaluator: Engine, loader: Iterable[Any], *, name: str = "val", every: int = 1
) -> Attachments:
    """Run ``evaluator`` over ``loader`` after every ``every`` epochs of ``trainer``, and after its last.

    A training that ends within an epoch by ``max_iters`` is evaluated there; one that was stopped is not, so that
    whoever stops it need not wait. The numbers among ``evaluator.state.metrics`` go to
    ``trainer.state.evaluations[name]``, and ``TrainerEvents.EVALUATION_COMPLETED`` tells of them. Call it on every
    process; all of them evaluate.

    Args:
        name: of this evaluation, "val" in ``val/bbox/AP``.

    Returns:
        An object whose ``remove()`` or ``detach()`` ends this.

    Raises:
        ValueError: ``every`` is below 1.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    register_trainer_events(trainer)
    waits = _attach_wait(evaluator)
    evaluated_after: int | None = None

    def evaluate() -> None:
        nonlocal evaluated_after
        state: Any = trainer.state
        # An evaluation that an error broke off would else go on where it stopped.
        evaluator.state.max_epochs = evaluator.state.max_iters = evaluator.state.epoch_length = None
        evaluator.state.metrics = {}
        evaluator.run(loader)
        if not hasattr(state, "evaluations"):
            state.evaluations = {}
        state.evaluations[name] = flat_metrics(evaluator.state.metrics)
        state.evaluated = name
        evaluated_after = state.iteration
        trainer.fire_event(TrainerEvents.EVALUATION_COMPLETED)
        # An evaluation leaves more behind than any other part of a training, and in smaller pieces.
        collect_cycles()
        give_back_free_memory()

    def started() -> None:
        nonlocal evaluated_after
        evaluated_after = None

    def iterations_begin() -> None:
        nonlocal evaluated_after
        # What was loaded at a resume was evaluated by the run before, where that was due.
        evaluated_after = trainer.state.iteration if evaluated_after is None else evaluated_after

    def epoch_completed() -> None:
        state = trainer.state
        is_last = state.epoch == state.max_epochs or _reached_max_iters(trainer)
        if state.epoch % every == 0 or is_last:
            evaluate()

    def completed() -> None:
        if _reached_max_iters(trainer) and evaluated_after not in (None, trainer.state.iteration):
            evaluate()

    attachments = waits
    attachments.add(trainer, Events.STARTED, started)
    attachments.add(trainer, Events.EPOCH_STARTED, iterations_begin)
    attachments.add(trainer, Events.EPOCH_COMPLETED, epoch_completed)
    attachments.add(trainer, Events.COMPLETED, completed)
    return attachments


def _reached_max_iters(trainer: Engine) -> bool:
    return trainer.state.max_iters is not None and trainer.state.iteration >= trainer.state.max_iters


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among an evaluator's metrics as floats: arrays, curves and nested dicts are left out.

    >>> flat_metrics({"AP": np.float64(0.5), "loss": 2, "matrix": np.eye(2), "coco": {"AP": 0.5}})
    {'AP': 0.5, 'loss': 2.0}
    """
    flat = {}
    for name, value in metrics.items():
        if isinstance(value, Tensor | np.ndarray):
            if value.ndim == 0:
                flat[name] = float(value)
        elif isinstance(value, Real):
            flat[name] = float(value)
    return flat


def attach_evaluation_summary(evaluator: Engine) -> Attachments:
    """Print the numbers of each evaluation, a line each, on one process; call it on every process.

    Returns:
        An object whose ``remove()`` or ``detach()`` ends this.
    """
    console = Console(bar=False)
    _attach_wait(evaluator)

    def show() -> None:
        values = flat_metrics(evaluator.state.metrics)
        width = max(map(len, values), default=0)
        if is_main_process():
            for name, value in values.items():
                console.write(f"{name:<{width}}  {value:.4f}")

    attachments = Attachments()
    attachments.add(evaluator, Events.COMPLETED, show)
    return attachments


def _attach_wait(evaluator: Engine) -> Attachments:
    """Show how far each evaluation is."""
    wait: Wait | None = None

    def started(engine: Engine) -> None:
        nonlocal wait
        close()  # an evaluation that an error broke off
        wait = Wait("evaluating", engine.state.epoch_length, unit="batches")
        wait.__enter__()

    def advance() -> None:
        if wait is not None:
            wait.advance()

    def close() -> None:
        nonlocal wait
        if wait is not None:
            wait.__exit__()
        wait = None

    attachments = Attachments()
    attachments.add(evaluator, Events.EPOCH_STARTED, started)
    attachments.add(evaluator, Events.ITERATION_COMPLETED, advance)
    attachments.add(evaluator, Events.EPOCH_COMPLETED, close)
    attachments.add(evaluator, Events.TERMINATE, close)
    return attachments
