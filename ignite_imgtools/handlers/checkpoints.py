"""Checkpoints of a training run, and its resume."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ignite.engine import Engine, Events

from ignite_imgtools.distributed import all_gather_strings, is_main_process
from ignite_imgtools.formats import NonFiniteError, follow_epochs
from ignite_imgtools.handlers.background_call import BackgroundCall
from ignite_imgtools.handlers.best_score import BestScore
from ignite_imgtools.handlers.checkpoint_file import CheckpointError
from ignite_imgtools.handlers.checkpoint_folder import CheckpointFolder
from ignite_imgtools.handlers.checkpoint_state import (
    RESERVED,
    HostBuffers,
    collect_state,
    non_finite_parameters,
    to_host,
)
from ignite_imgtools.handlers.engine_handlers import move_to_end, remove_handler
from ignite_imgtools.handlers.non_finite import NonFiniteWatch
from ignite_imgtools.handlers.process_watch import attach_process_watch
from ignite_imgtools.handlers.resume import resume_training
from ignite_imgtools.handlers.run_files import sync_logs

__all__ = ["Checkpoints", "attach_checkpoints", "iterations_left"]

_logger = logging.getLogger(__name__)


def attach_checkpoints(
    trainer: Engine,
    evaluator: Engine | None,
    to_save: Mapping[str, Any],
    output_dir: str | Path,
    *,
    best: str | None = None,
    best_mode: Literal["max", "min"] = "max",
    every: int | None = None,
    keep_last: int = 2,
    resume: str | Path = "auto",
    background: bool = False,
    on_write_error: Literal["stop", "continue"] = "stop",
    before_evaluation: bool = True,
) -> Checkpoints:
    """Write checkpoints of a training run into ``<output_dir>/checkpoints``, and resume from them.

    A checkpoint is taken after each epoch, when all work of its end is done; every ``every`` iterations; before the
    last step of an epoch that ends with an evaluation; and when the run ends. Call it on every process. Loading happens
    when ``trainer.run`` starts.

    A resumed run equals the uninterrupted one where all that it depends on is resumed. A trainer of
    :func:`~ignite_imgtools.engines.create_trainer` over a loader of :func:`~ignite_imgtools.data.create_loader` sees to
    that; of an Engine of one's own it takes the sampler (``loader.batch_sampler.attach(trainer)``; a warning says
    where a loader begins an epoch anew instead), the ``GradientUpdate`` in ``to_save``, and
    :func:`~ignite_imgtools.distributed.seed_step` in the step.

    Args:
        evaluator: the run of it that ended since the last checkpoint gives the score of ``best``.
        to_save: objects with ``state_dict`` and ``load_state_dict`` under names of your choice, which are top-level
            keys of the file. Keys of models are free of the wrappers of DDP and ``torch.compile``. The trainer's
            position and its ``formats.resumables`` are added.
        best: a metric of the evaluator, as ``bbox/AP``: the checkpoint of its best value is kept as ``best.pt``.
        best_mode: whether a larger or a smaller value is better. A value that is not finite never is.
        every: iterations between two checkpoints within an epoch; in the middle of an accumulation window the next
            step boundary is taken.
        keep_last: how many of the newest to keep, ``last.pt`` included.
        resume: ``"auto"`` goes on from the newest file that verifies, and starts anew if there is none; ``"never"``
            starts anew and moves the files of the run before into ``<output_dir>/previous-<n>``; a path goes on from
            that file. A checkpoint that does not fit changes nothing.
        background: write on a thread, from a copy in host memory that is reused. At most one write is under way: the
            next checkpoint waits for it. An error surfaces at the next checkpoint, or at the end of the run.
        on_write_error: ``"stop"`` raises; ``"continue"`` logs a warning and tries again with the next checkpoint.
        before_evaluation: whether a checkpoint is taken before the last step of an epoch where there is an evaluator,
            so that neither a fault nor a signal in a long evaluation costs the epoch.

    Raises:
        ValueError: an argument is out of range; a name is reserved; ``best`` without an evaluator.
        TypeError: ``to_save`` is no dict, or an object of it has no ``state_dict`` and ``load_state_dict``.
        CheckpointError: raised by ``trainer.run``, on every process with the same message, if a checkpoint cannot be
            read, written or loaded.
    """
    checkpoints = Checkpoints(
        trainer,
        evaluator,
        to_save,
        Path(output_dir),
        best=best,
        best_mode=best_mode,
        every=every,
        keep_last=keep_last,
        resume=resume,
        background=background,
        on_write_error=on_write_error,
        before_evaluation=before_evaluation,
    )
    checkpoints.attach()
    return checkpoints


class Checkpoints:
    """What :func:`attach_checkpoints` returns; its arguments are described there.

    Attributes:
        trainer: whose checkpoints these are.
        evaluator: whose metric decides about the best.
        folder: where the files are.
        resumed_from: the file that the run went on from, ``None`` if it started anew.

    After each write ``trainer.state.checkpoint`` is the path of the newest checkpoint that is on disk.
    """

    def __init__(
        self,
        trainer: Engine,
        evaluator: Engine | None,
        to_save: Mapping[str, Any],
        output_dir: Path,
        *,
        best: str | None,
        best_mode: str,
        every: int | None,
        keep_last: int,
        resume: str | Path,
        background: bool,
        on_write_error: str,
        before_evaluation: bool,
    ):
        _check_arguments(to_save, trainer, evaluator, best, best_mode, every, keep_last, on_write_error)
        self.trainer = trainer
        self.evaluator = evaluator
        self.folder = output_dir / "checkpoints"
        self.resumed_from: Path | None = None
        self._output_dir = output_dir
        self._objects = {name: item for name, item in to_save.items() if item is not trainer}
        self._files = CheckpointFolder(self.folder, keep_last)
        self._best = BestScore(best, best_mode)
        self._every = every
        self._resume = resume
        self._background = background
        self._on_write_error = on_write_error
        self._before_evaluation = before_evaluation
        self._buffers = HostBuffers()
        self._writing = BackgroundCall("checkpoint")
        self._started = False
        self._due = False
        self._scored_iteration: int | None = None
        self._finished_iteration = 0
        self._saved_iteration: int | None = None
        self._saved_epoch_began: int | None = None
        self._boundary = 0
        self._boundary_distance = 1

    @property
    def best_score(self) -> float | None:
        """The value of ``best`` that ``best.pt`` was kept for; ``None`` where there is none yet."""
        return self._best.score

    @property
    def best_iteration(self) -> int | None:
        """The iteration of :attr:`best_score`."""
        return self._best.iteration

    # What is attached

    def attach(self) -> None:
        """Save as the trainer runs, and go on from a checkpoint where it starts."""
        trainer = self.trainer
        attach_process_watch(trainer)
        follow_epochs(trainer)
        if getattr(trainer.state, "non_finite_watch", None) is None:
            NonFiniteWatch().attach(trainer)
        for event, handler in self._handlers():
            trainer.add_event_handler(event, handler)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._on_evaluated)

    def detach(self) -> None:
        """Wait for a write under way and leave the trainer.

        Raises:
            CheckpointError: the write failed.
        """
        for event, handler in self._handlers():
            remove_handler(self.trainer, event, handler)
        if self.evaluator is not None:
            remove_handler(self.evaluator, Events.COMPLETED, self._on_evaluated)
        self.wait()

    def _handlers(self) -> list[tuple[Events, Any]]:
        return [
            (Events.STARTED, self._on_started),
            (Events.EPOCH_STARTED, self._on_epoch_started),
            (Events.ITERATION_COMPLETED, self._on_iteration_completed),
            (Events.EPOCH_COMPLETED, self._on_epoch_completed),
            (Events.COMPLETED, self._on_completed),
        ]

    def _take_last_places(self) -> None:
        # A checkpoint holds what all other handlers of the event have done.
        for event, handler in self._handlers():
            if event not in (Events.STARTED, Events.EPOCH_STARTED):
                move_to_end(self.trainer, event, handler)

    # When a checkpoint is taken

    def _on_started(self) -> None:
        self._take_last_places()
        if not self._started:
            self._load()
            self._started = True  # only now: a resume that was refused or broken off is tried again by the next run
        elif self._saved_iteration != self.trainer.state.iteration:
            # A run from the beginning comes by the same iterations again.
            self._saved_iteration = self._saved_epoch_began = self._scored_iteration = None
            self._due = False
        self._finished_iteration = self.trainer.state.iteration

    def _load(self) -> None:
        path = resume_training(self.trainer, self._objects, self._files, self._best, self._resume)
        self.resumed_from = path
        if path is None:
            return
        state: Any = self.trainer.state
        state.checkpoint = path
        if self._files.last.exists() and self._files.last.samefile(path):
            self._saved_iteration = state.iteration

    def _on_epoch_started(self) -> None:
        self._take_last_places()
        self._boundary, self._boundary_distance = self.trainer.state.iteration, 1

    def _on_iteration_completed(self) -> None:
        state: Any = self.trainer.state
        iteration = self._finished_iteration = state.iteration
        if self._every is not None and iteration % self._every == 0:
            self._due = True
        if self._best.metric is not None and self._scored_iteration == iteration:
            self._due = True
        if not getattr(state, "at_step_boundary", True):
            return
        self._boundary_distance, self._boundary = iteration - self._boundary, iteration
        evaluated = self.evaluator is not None and self._before_evaluation
        if not (self._due or evaluated):
            return
        left = iterations_left(self.trainer)
        # The next step boundary is judged by the distance of those before.
        if left and (self._due or left <= self._boundary_distance):
            self._save()

    def _on_epoch_completed(self) -> None:
        if getattr(self.trainer.state, "at_step_boundary", True):
            self._save()

    def _on_completed(self) -> None:
        state: Any = self.trainer.state
        # A run that was terminated between two steps has counted a step that was not made.
        if state.iteration == self._finished_iteration and getattr(state, "at_step_boundary", True):
            self._save()
        self.wait()

    def _on_evaluated(self) -> None:
        self._scored_iteration = self.trainer.state.iteration

    def save_now(self) -> None:
        """Take a checkpoint unless the newest is of this very state; call it on all processes, between two steps.

        With ``background`` it returns before the file is written; :meth:`wait` waits for that.

        Raises:
            RuntimeError: in the middle of an accumulation window, whose gradients a checkpoint does not hold.
        """
        if not getattr(self.trainer.state, "at_step_boundary", True):
            raise RuntimeError("a checkpoint can be taken at a step boundary only, not within an accumulation window")
        self._save()

    def wait(self) -> None:
        """Wait until the newest checkpoint is on disk; call it on all processes.

        Raises:
            CheckpointError: it could not be written, and ``on_write_error`` is ``"stop"``.
        """
        if self._background:
            self._settle(self._writing.wait())

    # How it is written

    def _save(self) -> None:
        state: Any = self.trainer.state
        is_scored = self._best.metric is not None and self._scored_iteration == state.iteration
        if self._saved_iteration == state.iteration and not is_scored and not self._epoch_was_cut():
            return
        watch = getattr(state, "non_finite_watch", None)
        if watch is not None:
            watch.flush()
        self.wait()
        is_best = is_scored and self._best.propose(self.trainer, self.evaluator)
        self._scored_iteration, self._due = None, False
        self._saved_iteration, self._saved_epoch_began = state.iteration, state.epoch_began_after
        content = collect_state(self.trainer, self._objects) | {"checkpoints": self._best.state_dict()}
        if not is_main_process():
            write = None
        elif self._background:
            snapshot = to_host(content, self._buffers)
            self._buffers.mark()
            write = functools.partial(self._write, snapshot, is_best)
        else:
            write = functools.partial(self._write, to_host(content), is_best)
        if self._background:
            if write is not None:
                self._writing.start(write)
            return
        error = None
        if write is not None:
            try:
                write()
            except Exception as raised:
                error = raised
        self._settle(error)

    def _write(self, content: Mapping[str, Any], is_best: bool) -> None:
        self._buffers.wait()
        if names := non_finite_parameters(self._objects, content):
            raise NonFiniteError(
                f"iteration {content['trainer']['iteration']}: not finite after the step: {', '.join(names[:5])}"
                f"{', ...' if len(names) > 5 else ''}; no checkpoint holds this step: lower the learning rate"
            )
        # A checkpoint survives a loss of power only with the log of the steps that it holds.
        sync_logs(self._output_dir)
        path = self._files.save_last(content)
        if is_best:
            self._files.link_best()
        state: Any = self.trainer.state
        state.checkpoint = path

    def _epoch_was_cut(self) -> bool:
        """Whether the epoch of the newest checkpoint has ended with its iteration, which was not its last one then."""
        state: Any = self.trainer.state
        began = self._saved_epoch_began
        if began is None or state.epoch_began_after in (None, began):
            return False
        return state.epoch_length is None or state.iteration - began < state.epoch_length

    def _settle(self, error: BaseException | None) -> None:
        """Deal on all processes with what a write on the main process ended with."""
        told = json.loads(all_gather_strings(json.dumps([type(error).__name__, str(error)] if error else None))[0])
        if told is None:
            if self._saved_iteration is not None:
                state: Any = self.trainer.state
                state.checkpoint = self._files.last
                self._best.commit()
            return
        self._best.roll_back()
        self._saved_iteration = None
        kind, message = told
        if kind == "CheckpointError" and self._on_write_error == "continue":
            # In the background it was said when it happened.
            if is_main_process() and not self._background:
                _logger.warning("%s", message)
            return
        if error is not None:
            raise error
        raise NonFiniteError(message) if kind == "NonFiniteError" else CheckpointError(message)


def iterations_left(trainer: Engine) -> int | None:
    """Iterations until the work at the end of the epoch or of the run begins; 0 where it is next.

    No checkpoint is taken there, since a run that resumes does not make up for that work. ``None`` if nobody knows,
    as in the first epoch over data without a length, where any iteration may be the last.
    """
    state = trainer.state
    if trainer.should_terminate_single_epoch is True:  # of an epoch that ends with its work
        return 0
    if state.epoch_length is None:
        return None
    began = getattr(state, "epoch_began_after", None)
    left = -state.iteration % state.epoch_length if began is None else began + state.epoch_length - state.iteration
    return left if state.max_iters is None else min(left, max(0, state.max_iters - state.iteration))


def _check_arguments(
    to_save: Mapping[str, Any],
    trainer: Engine,
    evaluator: Engine | None,
    best: str | None,
    best_mode: str,
    every: int | None,
    keep_last: int,
    on_write_error: str,
) -> None:
    if not isinstance(to_save, Mapping):
        raise TypeError(f"to_save must be a dict of objects by name, as {{'model': model}}, got {to_save!r:.100}")
    for name, item in to_save.items():
        if item is trainer:
            continue
        if name in RESERVED:
            raise ValueError(f"to_save: the name {name!r} is taken by the checkpoint itself; choose another")
        if not (hasattr(item, "state_dict") and hasattr(item, "load_state_dict")):
            raise TypeError(f"to_save: {name!r} is a {type(item).__name__}, without state_dict and load_state_dict")
    if best is not None and evaluator is None:
        raise ValueError(f"best={best!r} needs the evaluator that computes it, got evaluator=None")
    if best_mode not in ("max", "min"):
        raise ValueError(f"best_mode must be 'max' or 'min', got {best_mode!r}")
    if every is not None and every < 1:
        raise ValueError(f"every must be at least 1 or None, got {every}")
    if keep_last < 1:
        raise ValueError(f"keep_last must be at least 1, got {keep_last}")
    if on_write_error not in ("stop", "continue"):
        raise ValueError(f"on_write_error must be 'stop' or 'continue', got {on_write_error!r}")
