"""Leave a training run by signal without losing a step."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
import weakref
from collections.abc import Sequence
from types import FrameType
from typing import Any, ClassVar

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ignite_imgtools.distributed import StopTogether, all_gather_strings, is_main_process
from ignite_imgtools.handlers.checkpoints import Checkpoints, iterations_left
from ignite_imgtools.handlers.engine_handlers import attach_error_guard, move_to_end, move_to_front, remove_handler
from ignite_imgtools.handlers.process_watch import attach_process_watch

__all__ = ["SignalHandlers", "attach_signals"]

# A terminal signals the launcher and the processes it started, and the launcher passes the signal on: what arrives
# within this many seconds is one request.
_SAME_REQUEST = 0.3
_SAVE_SIGNAL: int | None = getattr(signal, "SIGUSR1", None)

_logger = logging.getLogger(__name__)


def attach_signals(
    trainer: Engine,
    checkpoints: Checkpoints | None = None,
    signals: Sequence[int] = (signal.SIGTERM, signal.SIGINT),
    evaluators: Sequence[Engine] = (),
) -> SignalHandlers:
    """Let the run of ``trainer`` end well by signal; call it on every process, after the other handlers.

    The first of ``signals`` lets the step finish, takes a checkpoint and leaves by ``SystemExit`` with status 128 + N;
    a second one, at least 0.3 s later, ends the process at once. SIGUSR1, where the system has it, takes a checkpoint
    and the run goes on. Whichever process gets the signal, all stop after the same step.

    During an evaluation no checkpoint can be taken: the work at the end of the epoch is under way. The evaluation is
    broken off, and the newest checkpoint, from before the last step (``before_evaluation`` of
    :func:`attach_checkpoints`), is what a resume goes on from; it does the last step and the evaluation again.

    A launcher has its own ways. :func:`ignite_imgtools.distributed.launch` hands all three signals on, and leaves with
    the same status. ``torchrun`` hands SIGTERM and SIGINT on, and the processes end as said, but its own status is then
    1; a SIGUSR1 would end it, so send that to one of the processes.

    Before leaving, handlers of ``Events.TERMINATE`` are called, to finish their files. While no run is under way, and
    in threads other than the main one, signals do what they did before.

    Args:
        evaluators: those beside ``checkpoints.evaluator`` that run while ``trainer`` does.
    """
    handlers = SignalHandlers(trainer, checkpoints, signals, evaluators)
    handlers.attach()
    return handlers


class SignalHandlers:
    """What :func:`attach_signals` returns; its arguments are described there."""

    def __init__(
        self,
        trainer: Engine,
        checkpoints: Checkpoints | None,
        signals: Sequence[int],
        evaluators: Sequence[Engine],
    ):
        self._trainer = trainer
        self._checkpoints = checkpoints
        self._signals = tuple(signals)
        own = [] if checkpoints is None or checkpoints.evaluator is None else [checkpoints.evaluator]
        self._evaluators = list(dict.fromkeys([*own, *evaluators]))
        self._request = _Request(self._signals)
        self._stop: StopTogether | None = None
        self._step = 0
        self._agreed = 0

    def attach(self) -> None:
        """Answer signals while the trainer runs."""
        attach_process_watch(self._trainer)
        for evaluator in self._evaluators:
            attach_error_guard(evaluator)
        for engine, event, handler in self._handlers():
            engine.add_event_handler(event, handler)

    def detach(self) -> None:
        """Let signals do what they did before."""
        self._request.restore()
        self._stop = None
        for engine, event, handler in self._handlers():
            remove_handler(engine, event, handler)

    def _handlers(self) -> list[tuple[Engine, Events, Any]]:
        trainer = self._trainer
        return [
            (trainer, Events.STARTED, self._on_started),
            (trainer, Events.EPOCH_STARTED, self._take_places),
            (trainer, Events.ITERATION_COMPLETED, self._on_iteration_completed),
            (trainer, Events.EPOCH_COMPLETED, self._on_end),
            (trainer, Events.COMPLETED, self._on_completed),
            (trainer, Events.EXCEPTION_RAISED, self._on_exception),
            *((evaluator, Events.ITERATION_COMPLETED, self._on_evaluation_step) for evaluator in self._evaluators),
            *((evaluator, Events.EPOCH_COMPLETED, self._on_evaluation_end) for evaluator in self._evaluators),
        ]

    def _take_places(self) -> None:
        for engine, event, handler in self._handlers():
            if event == Events.EXCEPTION_RAISED:
                # Before handlers that raise the error again, after which no other one is called.
                move_to_front(engine, event, handler)
            elif engine is self._trainer and event not in (Events.STARTED, Events.EPOCH_STARTED):
                move_to_end(engine, event, handler)
            elif engine is not self._trainer and event == Events.EPOCH_COMPLETED:
                # Before the metrics, which would be computed of a part of the images.
                move_to_front(engine, event, handler)

    def _on_started(self) -> None:
        self._take_places()
        self._stop = StopTogether("signals")
        self._step = self._agreed = 0
        self._request.install()

    # While training

    def _on_iteration_completed(self) -> None:
        if self._stop is None or not getattr(self._trainer.state, "at_step_boundary", True):
            return
        self._step += 1
        if self._request.number:
            self._stop.request(self._request.number)
        if not self._agreed and self._stop.should_stop(self._step):
            self._agreed = self._stop.reason
        # At the end of an epoch its work comes first.
        if self._agreed and iterations_left(self._trainer) != 0:
            self._act(self._agreed)

    def _on_end(self) -> None:
        if self._stop is None:
            return
        number = self._ask_all()
        if number or self._agreed:
            self._act(number or self._agreed)

    def _on_completed(self) -> None:
        self._on_end()
        self._request.restore()
        self._stop = None

    def _act(self, number: int) -> None:
        """Do on all processes what they have agreed on, at a place where a checkpoint can be taken."""
        if self._checkpoints is not None:
            self._checkpoints.save_now()
        if number in self._signals:
            self._leave(number)
        self._agreed = 0
        self._request.answered(number)
        if self._stop is not None and self._stop.reason:
            self._stop.reset()

    # While evaluating

    def _on_evaluation_step(self, evaluator: Engine) -> None:
        if self._stop is None:
            return
        if self._agreed in self._signals:
            self._leave(self._agreed)
        if idist.get_world_size() == 1:
            if self._request.number in self._signals:
                self._leave(self._request.number)
            return
        if self._request.number in self._signals:
            self._stop.announce()
        if self._stop.announced():
            # The others may wait for this process where the metrics are computed; there all leave together.
            evaluator.terminate_epoch()

    def _on_evaluation_end(self) -> None:
        if self._stop is not None and (number := self._ask_all()):
            self._leave(number)

    # Leaving

    def _ask_all(self) -> int:
        """The signal to leave by that any process has got, 0 if none has; a collective."""
        own = self._request.number if self._request.number in self._signals else 0
        return max(map(int, all_gather_strings(str(own))))

    def _leave(self, number: int) -> None:
        if self._checkpoints is not None:
            self._checkpoints.wait()
        self._stop = None
        self._trainer.fire_event(Events.TERMINATE)
        # Nobody leaves before the main process has finished its files: a launcher may end all when the first is gone.
        all_gather_strings("")
        if is_main_process():
            state = self._trainer.state
            where = getattr(state, "checkpoint", None)
            kept = f"resume from {where}" if where is not None else "no checkpoint was written"
            _logger.warning("%s: stopped after iteration %d; %s", signal.Signals(number).name, state.iteration, kept)
        self._request.restore()
        # ignite logs every exception that ends a run as an error.
        self._trainer.logger.addFilter(lambda record: not record.getMessage().endswith(f"exception: {128 + number}"))
        raise SystemExit(128 + number)

    def _on_exception(self, trainer: Engine, error: BaseException) -> None:
        self._request.restore()
        self._stop = None


class _Request:
    """The signal that this process has got, and the handlers that note it.

    Python runs its handlers between two instructions of the main thread, so a process that waits within a collective
    would not hear the second signal: a thread listens to the bytes that Python's C handler writes on each signal.
    """

    _installed: ClassVar[weakref.WeakSet[_Request]] = weakref.WeakSet()

    def __init__(self, leave_signals: Sequence[int]):
        self.number = 0
        self._leave_signals = tuple(leave_signals)
        self._saved: dict[int, Any] = {}
        self._saved_wakeup = -1
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._process = 0

    def install(self) -> None:
        """Note signals from now on."""
        self.number = 0
        if self._saved or threading.current_thread() is not threading.main_thread():
            return
        self._process = os.getpid()
        self._ends = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)
        self._saved_wakeup = signal.set_wakeup_fd(self._ends[1].fileno(), warn_on_full_buffer=False)
        for number in self._leave_signals:
            self._saved[number] = signal.signal(number, self._note)
        if _SAVE_SIGNAL is not None:
            self._saved[_SAVE_SIGNAL] = signal.signal(_SAVE_SIGNAL, self._note)
        self._installed.add(self)
        self._ends[0].setblocking(True)
        threading.Thread(target=self._listen, args=(self._ends[0],), name="signals", daemon=True).start()

    def restore(self) -> None:
        """Let signals do what they did before; done twice, the second time nothing happens."""
        if not self._saved or threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._saved.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._saved = {}
        self._installed.discard(self)
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(self._saved_wakeup)
        if self._ends is not None:
            self._ends[1].close()  # the thread reads the end and goes
            self._ends = None

    def answered(self, number: int) -> None:
        """Forget the request, unless another one has come meanwhile."""
        if self.number == number:
            self.number = 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in self._leave_signals:
            if self.number not in self._leave_signals:
                self.number = number
                os.write(2, f"{signal.Signals(number).name}: finishing the step; once more leaves at once\n".encode())
        elif not self.number:
            self.number = number

    def _listen(self, end: socket.socket) -> None:
        first: float | None = None
        with end:
            while numbers := end.recv(64):
                for number in numbers:
                    now = time.monotonic()
                    if number not in self._leave_signals:
                        continue
                    if first is None:
                        first = now
                    elif now - first > _SAME_REQUEST:
                        os._exit(128 + number)

    @classmethod
    def _reset_in_child(cls) -> None:
        # A loader worker is ended by its parent, not by the signal a terminal sends to all; it must not tell the
        # parent of signals of its own either.
        for request in list(cls._installed):
            signal.set_wakeup_fd(-1)
            for number, handler in request._saved.items():
                ignored = number in (signal.SIGINT, _SAVE_SIGNAL)
                signal.signal(number, signal.SIG_IGN if ignored else handler or signal.SIG_DFL)
            request._saved = {}
            for end in request._ends or ():
                end.close()
            request._ends = None
        cls._installed.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Request._reset_in_child)
