"""Let no process train on, or wait for ever, where another one has failed."""

from __future__ import annotations

import contextlib
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ignite_imgtools.distributed import all_gather_strings, watch_processes
from ignite_imgtools.distributed.failures import begin_again
from ignite_imgtools.handlers.engine_handlers import attach_error_guard, move_to_front

__all__ = ["attach_process_watch"]


def attach_process_watch(trainer: Engine, stuck_after: float | None = None) -> None:
    """While ``trainer`` runs on several processes, let all of them end when one fails; call it on all of them.

    Processes that would train for another number of batches are refused before the first step. For the rest see
    :func:`ignite_imgtools.distributed.watch_processes`. :func:`attach_checkpoints` and :func:`attach_signals` call it;
    a second call only changes ``stuck_after``.

    Args:
        stuck_after: seconds without progress, of ``watch_processes``.

    Raises:
        ValueError: by ``trainer.run``, on all processes: they have different numbers of batches or epochs.
        ProcessFailure: by ``trainer.run``: another process has failed first; whoever runs again nonetheless is told so
            again. After an error that was raised on all of them all may run again.
    """
    state: Any = trainer.state
    watch = getattr(state, "process_watch", None)
    if watch is None:
        watch = state.process_watch = _ProcessWatch()
        attach_error_guard(trainer)
        trainer.add_event_handler(Events.STARTED, watch.start)
        trainer.add_event_handler(Events.COMPLETED, watch.stop)
        trainer.add_event_handler(Events.EXCEPTION_RAISED, watch.leave_open)
        trainer.add_event_handler(Events.TERMINATE, watch.stop_where_nothing_follows)
    if stuck_after is not None:
        watch.stuck_after = stuck_after


# What runs that failed have left under watch: whichever trainer goes on ends it. If it were let go of with a trainer
# that is not used again, the other processes would take that for a failure.
_left_open: list[contextlib.ExitStack] = []


class _ProcessWatch:
    def __init__(self) -> None:
        self.stuck_after: float | None = None
        self._under_watch = contextlib.ExitStack()
        self._limit = contextlib.ExitStack()

    def start(self, trainer: Engine) -> None:
        # Before handlers that raise the error again, after which no other one is called.
        move_to_front(trainer, Events.EXCEPTION_RAISED, self.leave_open)
        begin_again()
        while _left_open:
            self._under_watch.push(_left_open.pop())
        self._under_watch.enter_context(watch_processes())
        self._limit.enter_context(watch_processes(self.stuck_after))
        _refuse_unequal_lengths(trainer)

    def leave_open(self, error: BaseException) -> None:
        self._limit.close()
        _left_open.append(self._under_watch.pop_all())

    def stop(self) -> None:
        self._limit.close()
        self._under_watch.close()

    def stop_where_nothing_follows(self, trainer: Engine) -> None:
        if trainer.should_terminate == "skip_completed":  # COMPLETED does not come
            self.stop()


def _refuse_unequal_lengths(trainer: Engine) -> None:
    if idist.get_world_size() == 1:
        return
    state = trainer.state
    told = all_gather_strings(f"{state.epoch_length} batches in each of {state.max_epochs} epochs")
    for rank, text in enumerate(told):
        if text != told[0]:
            raise ValueError(f"rank {rank} has {text}, rank 0 has {told[0]}: all processes need equally many")
