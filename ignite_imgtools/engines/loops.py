"""What trainers and evaluators of every task have in common: a step function becomes an Engine."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events, State
from ignite.metrics import Metric
from torch import nn

from ignite_imgtools.distributed import broadcast_buffers, unwrap_model
from ignite_imgtools.distributed.seeds import HostGenerators, look_up_again
from ignite_imgtools.engines.ema import ExponentialMovingAverage
from ignite_imgtools.engines.gradient_update import GradientUpdate
from ignite_imgtools.formats import follow_epochs, register_resumable, register_trainer_events, resumables

__all__ = ["create_evaluator", "create_trainer", "evaluation_mode", "model_device"]

Step = Callable[[Engine, Any], Any]


_ITERATION_STARTED, _ITERATION_COMPLETED = Events.ITERATION_STARTED, Events.ITERATION_COMPLETED
_STARTED, _EPOCH_STARTED = Events.STARTED, Events.EPOCH_STARTED


class _Engine(Engine):
    """An Engine that runs again after an error has ended a run; ignite's would do nothing, and return ``None``."""

    _failed_at: tuple[int, int] | None = None
    _passes_error_on = False

    def _handle_exception(self, e: BaseException) -> None:
        # ignite brings an error in a step here twice; what has handled it before may have set another place.
        if not self._passes_error_on:
            self._failed_at = (self.state.epoch, self.state.iteration)
        self._passes_error_on = True
        super()._handle_exception(e)
        self._passes_error_on = False

    def run(self, *args: Any, **kwargs: Any) -> State:
        failed_at, self._failed_at, self._passes_error_on = self._failed_at, None, False
        if failed_at is not None:
            self._internal_run_generator = None
            # Whoever has set another place since then says by that where to go on.
            if failed_at == (self.state.epoch, self.state.iteration):
                self._after_error()
        return super().run(*args, **kwargs)

    def _after_error(self) -> None:
        # An evaluation is of no use in part: it begins anew, with whatever data it is given.
        self.state.max_epochs = self.state.max_iters = self.state.epoch_length = None


class _Trainer(_Engine):
    """An Engine that goes on after an error, and spends nothing in an iteration on what is seldom asked for.

    ignite composes a message for each event, whatever the level of its logger, and makes a generator to look whether
    the run is to end.
    """

    _tells_events = False
    _in_step = False  # an iteration that is counted has not completed

    def _after_error(self) -> None:
        state: Any = self.state
        if not state.epoch_is_open:
            return
        # ignite has counted the epoch, and the step that failed, and would count the former once more.
        state.iteration -= int(self._in_step)
        if self.should_terminate:  # ignite begins another epoch then
            return
        done = state.iteration - state.epoch_began_after
        if done != state.epoch_length:  # else all its steps were made, and what failed is not done again
            state.epoch -= 1
        # Data without a length begin anew.
        self._init_iter = 0 if state.epoch_length in (None, done) else done

    def _fire_event(self, event_name: Any, *event_args: Any, **event_kwargs: Any) -> None:
        if event_name is _ITERATION_STARTED:
            self._in_step = True
        elif event_name is _ITERATION_COMPLETED:
            self._in_step = False
        elif event_name is _EPOCH_STARTED or event_name is _STARTED:
            self._in_step = False  # if it is still set, that was of a run before
            self._tells_events = self.logger.isEnabledFor(logging.DEBUG)
        if event_kwargs or self._tells_events:
            super()._fire_event(event_name, *event_args, **event_kwargs)
            return
        self.last_event_name = event_name
        for function, args, kwargs in self._event_handlers[event_name]:
            if args and isinstance(args[0], weakref.ref):
                # A handler that takes the engine, which ignite holds weakly; it is alive, being here.
                function(self, *event_args, *args[1:], **kwargs)
            else:
                function(*event_args, *args, **kwargs)

    def _maybe_terminate_or_interrupt(self) -> Any:
        if self.should_terminate or self.should_terminate_single_epoch or self.should_interrupt:
            return super()._maybe_terminate_or_interrupt()
        return ()


def create_trainer(step: Step, model: nn.Module, update: GradientUpdate | None = None) -> Engine:
    """An Engine that trains ``model`` with ``step(engine, batch)``.

    It puts the model into training mode before each epoch, lets the batch sampler of the loader it is given follow
    its epochs (``sampler.attach(trainer)``), makes ``update`` and the states of ``random`` and ``numpy.random`` part of
    its checkpoints, and knows :class:`~ignite_imgtools.formats.TrainerEvents`.
    """
    trainer = _Trainer(step)
    register_trainer_events(trainer)
    follow_epochs(trainer)
    generators = HostGenerators()
    register_resumable(trainer, "host_generators", generators)
    if update is not None:
        register_resumable(trainer, "update", update)
    # The first handler of STARTED: a later one resumes, and the sampler must be there to be resumed.
    trainer.add_event_handler(Events.STARTED, _attach_sampler)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: model.train())
    trainer.add_event_handler(Events.EPOCH_STARTED, look_up_again)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: _restore(trainer, generators))
    return trainer


def create_evaluator(
    step: Step,
    model: nn.Module,
    metrics: Mapping[str, Metric] | None = None,
    *,
    ema: ExponentialMovingAverage | None = None,
) -> Engine:
    """An Engine that evaluates ``model``, or its average ``ema``, with ``step(engine, batch)``.

    Before each run the buffers (running statistics) of the main process are given to all, so that all processes
    evaluate the same model; so it is run on all of them.

    Args:
        metrics: attached under their names.
    """
    evaluator = _Engine(step)
    evaluated = unwrap_model(model) if ema is None else ema.module
    evaluator.add_event_handler(Events.STARTED, lambda: broadcast_buffers(evaluated))
    for name, metric in (metrics or {}).items():
        metric.attach(evaluator, name)
    return evaluator


def model_device(model: nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU for a model without any."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """All of ``model`` in evaluation mode; each of its modules then gets back the mode that it had."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _restore(trainer: Engine, generators: HostGenerators) -> None:
    """Let a resumed run draw as the one before would have, which has seen this epoch begin if it was within it."""
    state: Any = trainer.state
    if state.iteration == state.epoch_began_after:
        generators.restore()
        return

    # A run without data has no batches to get.
    event = _ITERATION_STARTED if state.dataloader is None else Events.GET_BATCH_STARTED

    def before_the_batch() -> None:
        generators.restore()
        trainer.remove_event_handler(before_the_batch, event)

    trainer.add_event_handler(event, before_the_batch)
    known = trainer._event_handlers[event]
    trainer._event_handlers[event] = known[-1:] + known[:-1]  # before others that draw


def _attach_sampler(trainer: Engine) -> None:
    sampler: Any = getattr(trainer.state.dataloader, "batch_sampler", None)
    if hasattr(sampler, "attach") and resumables(trainer).get("sampler") is not sampler:
        sampler.attach(trainer)
