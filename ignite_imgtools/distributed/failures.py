"""When one process fails, all of them end, and say which one failed first and why."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import ignite.distributed as idist
import torch

from ignite_imgtools.distributed.attempts import new_token
from ignite_imgtools.formats import one_line
from ignite_imgtools.process_end import end_soon

__all__ = ["STUCK_AFTER", "ProcessFailure", "failure_of", "watch_processes"]

STUCK_AFTER = 1800.0
"""Seconds without progress after which a process is taken to be stuck: as long as gloo and NCCL wait by default."""

FAILURE_FILE = "IGNITE_IMGTOOLS_FAILURE_FILE"
"""Environment variable: where the first of the processes that :func:`launch` has started says why it failed."""
_TORCHRUN_FILE = "TORCHELASTIC_ERROR_FILE"  # torchrun's own such variable, of each process

_logger = logging.getLogger(__name__)

_INTERVAL = 0.25
# What a process that has failed gets to clean up, before it is ended; all are to be gone within ten seconds.
_SECONDS_TO_END = 3.0
# An error that the failure of another process may have caused waits so long for word of that.
_SECONDS_TO_HEAR = 3.0
# The one that failed first ends this much later than it says so, and before the others: these lose their connection
# to it, and a launcher takes the first that it sees for the cause.
_HEAD_START = 0.3
_STUCK = "no progress"


class ProcessFailure(RuntimeError):
    """One of several processes has failed; the message says which one first and why.

    Attributes:
        rank: of the process, -1 where it is not known.
        kind: name of the type of its error, ``""`` where it had none: it was killed, or is stuck.
        reason: what it said.
        trace: its traceback, or ``""``.
    """

    def __init__(self, rank: int, kind: str, reason: str, trace: str = ""):
        who = f"rank {rank}" if rank >= 0 else "a process"
        super().__init__(f"{who} failed first: {kind + ': ' if kind else ''}{' '.join(reason.split())}")
        self.rank, self.kind, self.reason, self.trace = rank, kind, reason, trace

    def to_json(self) -> str:
        """What :meth:`from_json` reads."""
        return json.dumps({"rank": self.rank, "kind": self.kind, "reason": self.reason, "trace": self.trace})

    @classmethod
    def from_json(cls, text: str | bytes) -> ProcessFailure:
        """The inverse of :meth:`to_json`."""
        values = json.loads(text)
        return cls(int(values["rank"]), str(values["kind"]), str(values["reason"]), str(values["trace"]))


@contextlib.contextmanager
def watch_processes(stuck_after: float | None = None) -> Iterator[None]:
    """While in here, this process ends when another one has failed; in a single process nothing is done.

    A thread looks into the process group's store, four times a second. Whichever process fails first, by an error, by
    being killed, by leaving before its work is done, or because it makes no progress, all others hear of it, and end
    within ten seconds, even where they wait in a collective. Use it on all processes; within another one it only
    changes ``stuck_after``.

    Args:
        stuck_after: seconds in which the Python code of the main thread makes no progress at all before the process is
            taken to be stuck; 0 waits for ever, ``None`` is :data:`STUCK_AFTER`, or what was said further out.

    Raises:
        ProcessFailure: in place of an error that the failure of another process has caused.
    """
    if idist.get_world_size() == 1:
        yield
        return
    global _watch
    outer = _watch
    if outer is not None and outer.process == os.getpid():
        saved, outer.stuck_after = outer.stuck_after, outer.stuck_after if stuck_after is None else stuck_after
        try:
            yield
        finally:
            outer.stuck_after = saved
        return
    _watch = watch = _Watch(STUCK_AFTER if stuck_after is None else stuck_after)
    watch.start()
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:  # all that was to be done is done
            told = None
            watch.stop()
        else:
            told = failure_of(error)
        _watch = None
        if told is None or told is error:
            raise
        raise told from None
    else:
        _watch = None
        watch.stop()


def failure_of(error: BaseException) -> BaseException | None:
    """The error that is to end this process in place of ``error``, which it then is told to the other processes.

    Returns:
        A :class:`ProcessFailure` if another process has failed first; an error for a ``SystemExit`` that leaves the
        others alone; else ``error`` itself, or ``None`` where nobody watches or all leave together by a signal.
    """
    watch = _watch
    if watch is None or watch.process != os.getpid():
        return None
    if isinstance(error, SystemExit):
        if error.code in (128 + signal.SIGTERM, 128 + signal.SIGINT):
            watch.stop()
            return None
        error = RuntimeError(f"left with exit status {error.code or 0} before the end of the run")
        error.__suppress_context__ = True
    return watch.report(error)


def begin_again() -> None:
    """Where an error of their own has ended the work of all processes, and they go on; call it on all of them.

    Raises:
        ProcessFailure: this process has ended its work because another one had failed.
    """
    watch = _watch
    if watch is not None and watch.process == os.getpid():
        watch.begin_again()


_watch: _Watch | None = None


class _Watch:
    def __init__(self, stuck_after: float):
        self.stuck_after = stuck_after
        self.process = os.getpid()
        self._rank, self._world_size = idist.get_rank(), idist.get_world_size()
        self._main = threading.main_thread().ident
        self._host = f"host/{socket.gethostname()}"
        store = torch.distributed.distributed_c10d._get_default_store()
        # A connection of its own: the main thread may hold the other one while it waits.
        self._whole_store = store.clone() if hasattr(store, "clone") else store
        self._renew()

    def _renew(self) -> None:
        # What an earlier one has told is over, be it of processes that a launcher has started again.
        prefix = f"ignite_imgtools/watch/{new_token()}"
        self._store = torch.distributed.distributed_c10d.PrefixStore(prefix, self._whole_store)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="processes", daemon=True)
        self._reported: tuple[BaseException, BaseException] | None = None
        self._told: ProcessFailure | None = None
        self._told_at = 0.0
        self._progress: tuple[int, float] = (0, time.monotonic())
        self._here: dict[int, int] = {}  # process ids on this machine, by rank
        self._done: set[int] = set()

    # Called by the main thread

    def start(self) -> None:
        self._store.set(f"done/{self._rank}", "0")
        place = self._store.add(self._host, 1)
        self._store.set(f"{self._host}/{place}", f"{self._rank} {os.getpid()}")
        self._thread.start()

    def stop(self) -> None:
        """Say that this process is done; the thread ends."""
        with contextlib.suppress(Exception):
            self._store.set(f"done/{self._rank}", "1")
            if self._rank == 0:  # which may keep the store: the others must hear that it is done before it is gone
                others = [f"done/{rank}" for rank in range(1, self._world_size)]
                deadline = time.monotonic() + 4 * _INTERVAL
                while time.monotonic() < deadline and any(value != b"1" for value in map(self._store.get, others)):
                    time.sleep(0.02)
        self._ended.set()
        # A thread that comes back from the store while the interpreter is taken down aborts the process ("terminate
        # called without an active exception"), and a finished run has failed.
        self._thread.join(_SECONDS_TO_END)

    def begin_again(self) -> None:
        if self._reported is None:
            return
        error, instead = self._reported
        if instead is not error:
            raise instead
        self._ended.set()
        self._thread.join(_SECONDS_TO_END)
        # Else a launcher would tell this error, whatever ends the run later.
        for variable in (FAILURE_FILE, _TORCHRUN_FILE):
            with contextlib.suppress(KeyError, OSError):
                Path(os.environ[variable]).unlink()
        self._renew()  # waits for all, so none of them removes what another one has told since
        self.start()

    def report(self, error: BaseException) -> BaseException:
        """Tell the others, unless one of them has failed before; the error to go on with."""
        if self._reported is not None and error in self._reported:
            return self._reported[1]
        consequence = _may_be_caused_by_another(error)
        if self._told is None and consequence:
            deadline = time.monotonic() + _SECONDS_TO_HEAR
            while self._told is None and time.monotonic() < deadline:
                time.sleep(0.05)
        end_soon()
        trace = "".join(traceback.format_exception(error))
        told = self._told or self._claim(ProcessFailure(self._rank, _name(error), str(error), trace))
        if told.rank == self._rank:
            _add_note(error, str(told))
            _tell_torchrun(error)
            time.sleep(_HEAD_START)
            self._reported = (error, error)
        else:
            time.sleep(max(0.0, self._told_at + 2 * _HEAD_START - time.monotonic()))
            self._let_go_first(told)
            self._reported = (error, told if consequence else error)
        return self._reported[1]

    def _let_go_first(self, told: ProcessFailure) -> None:
        """Wait for the process that failed first to be gone: on a busy machine it takes longer than its head start."""
        process = self._here.get(told.rank)
        # One that is stuck is ended by its watch as soon as that has heard.
        deadline = self._told_at + (_SECONDS_TO_END - _INTERVAL if told.kind else 4 * _INTERVAL)
        while process is not None and _is_alive(process) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _claim(self, failure: ProcessFailure) -> ProcessFailure:
        """``failure``, or the one that was claimed before; whose is the first is written down."""
        told = failure
        with contextlib.suppress(Exception):  # the store has gone with the process that kept it
            told = ProcessFailure.from_json(self._store.compare_set("failure", "", failure.to_json()))
        if self._told is None:
            self._told, self._told_at = told, time.monotonic()
        if told.to_json() == failure.to_json() and (path := os.environ.get(FAILURE_FILE)):
            with contextlib.suppress(OSError), Path(path).open("x") as file:
                file.write(failure.to_json())
        return told

    # Called by the thread

    def _run(self) -> None:
        turns, ended = 0, self._ended  # that of a watch that begins again is another one's
        while not ended.wait(self._until_next_look()):
            turns += 1
            try:
                self._look(turns)
            except Exception as error:
                if 0 in self._done or ended.wait(2 * _INTERVAL):
                    return
                self._look_again(turns, _in_a_line(error))
            if self._told is None or time.monotonic() - self._told_at <= self._patience(self._told):
                continue
            # One that has an error of its own may be at work on it; one that has not heard by now will not hear.
            if self._reported is None or self._still() > self._patience(self._told):
                self._end()

    def _look_again(self, turns: int, failed: str) -> None:
        """Look after a look that an error has ended: one alone is no reason to end a training."""
        try:
            self._look(turns)
            _logger.warning("rank %d could not look after the other processes once: %s", self._rank, failed)
        except Exception as error:  # of the store, whatever its kind: it has gone
            if self._told is None:
                reason = f"it has ended without a word, or the launcher has ({_in_a_line(error)})"
                trace = "".join(traceback.format_exception(error))
                self._claim(ProcessFailure(0, "", reason, trace))

    def _until_next_look(self) -> float:
        left = self.stuck_after - (time.monotonic() - self._progress[1])
        return min(_INTERVAL, left + 0.01) if self.stuck_after and left > 0 else _INTERVAL

    def _patience(self, told: ProcessFailure) -> float:
        return 0.0 if told.reason.startswith(_STUCK) else _SECONDS_TO_END  # nothing will come of waiting for the stuck

    def _look(self, turns: int) -> None:
        if self._told is None and self._store.check(["failure"]):
            self._told = ProcessFailure.from_json(self._store.get("failure"))
            self._told_at = time.monotonic()
        if self._told is not None:
            self._still()
            return
        if turns % 4 == 0:
            self._look_for_the_dead()
        self._look_for_the_stuck()

    def _look_for_the_dead(self) -> None:
        # Each process looks after those of its own machine: what all ask the store does not grow with their square.
        if 0 not in self._done and self._store.check(["done/0"]) and self._store.get("done/0") == b"1":
            self._done.add(0)
        self._find_neighbours()
        for rank, process in self._here.items():
            if rank == self._rank or _is_alive(process) or self._store.get(f"done/{rank}") == b"1":
                continue
            time.sleep(2 * _INTERVAL)  # it may have said why
            if not self._store.check(["failure"]) and self._store.get(f"done/{rank}") != b"1":
                reason = f"process {process} has ended without a word: killed, perhaps for lack of memory"
                self._claim(ProcessFailure(rank, "", reason))
            return

    def _find_neighbours(self) -> None:
        """Learn of the processes of this machine that have begun since the last look."""
        for place in range(len(self._here) + 1, self._store.add(self._host, 0) + 1):
            if not self._store.check([f"{self._host}/{place}"]):
                return  # it is about to say so
            rank, process = self._store.get(f"{self._host}/{place}").decode().split()
            self._here[int(rank)] = int(process)

    def _look_for_the_stuck(self) -> None:
        frame, limit, still = self._frame(), self.stuck_after, self._still()
        if limit and still > limit:
            self._store.compare_set("stuck", "", str(self._rank))
        if not self._store.check(["stuck"]):
            return
        self._store.set(f"place/{self._rank}", f"{int(_waits_for_others(frame))} {still:.0f} {_place(frame)}")
        if self._store.get("stuck") == str(self._rank).encode():
            self._accuse(limit)

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._main or 0)

    def _still(self) -> float:
        """For how many seconds the main thread has been where it is now."""
        where, now = _fingerprint(self._frame()), time.monotonic()
        if where != self._progress[0]:
            self._progress = (where, now)
        return now - self._progress[1]

    def _accuse(self, limit: float) -> None:
        """Claim the failure for the process that the others wait for."""
        deadline = time.monotonic() + 3 * _INTERVAL  # until all who can have said where they are
        while time.monotonic() < deadline and not self._store.check([f"place/{r}" for r in range(self._world_size)]):
            time.sleep(0.02)
        places = {}
        for rank in range(self._world_size):
            if self._store.check([f"place/{rank}"]):
                waits, seconds, place = self._store.get(f"place/{rank}").decode().split(" ", 2)
                places[rank] = (waits == "1", float(seconds), place)
        silent = [rank for rank in range(self._world_size) if rank not in places]
        busy = [rank for rank, (waits, _, _) in places.items() if not waits]
        culprit = (silent or sorted(busy, key=lambda rank: -places[rank][1]) or [self._rank])[0]
        at = places[culprit][2] if culprit in places else "an unknown place"
        others = f"; the others wait in {places[self._rank][2]}" if culprit != self._rank else ""
        reason = f"{_STUCK} for {limit:g} s (stuck_after): it is in {at}{others}"
        self._claim(ProcessFailure(culprit, "", reason))

    def _end(self) -> None:
        """End this process, whatever its main thread does."""
        told = self._told
        if told is not None and told.rank != self._rank:
            _write(f"[rank {self._rank}] stopped: {told}\n")
            time.sleep(_HEAD_START)
            self._let_go_first(told)
        elif told is not None and not told.kind:  # stuck: nobody has said so yet
            _write(f"[rank {self._rank}] {told}\n")
            _tell_torchrun(told)
        for child in multiprocessing.active_children():
            child.kill()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(1)


def read_failure(path: Path) -> ProcessFailure | None:
    """What the first process that failed has written to :data:`FAILURE_FILE`, if any did."""
    try:
        return ProcessFailure.from_json(path.read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


def _name(error: BaseException) -> str:
    return type(error).__name__


def _in_a_line(error: BaseException) -> str:
    return f"{_name(error)}: {one_line(str(error))}"


def _add_note(error: BaseException, note: str) -> None:
    # What a launcher prints of an error ends with its notes, and so with the rank.
    if hasattr(error, "add_note"):
        error.add_note(note)


def _tell_torchrun(error: BaseException) -> None:
    if _TORCHRUN_FILE in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        try:
            raise error  # what is written down is the error that is being handled
        except BaseException:
            with contextlib.suppress(Exception):
                get_error_handler().record_exception(error)


def _may_be_caused_by_another(error: BaseException) -> bool:
    if isinstance(error, torch.distributed.DistError):
        return True
    told = str(error).lower()
    words = ("gloo", "nccl", "connection", "peer", "broken pipe", "socket", "process group", "timed out")
    return isinstance(error, RuntimeError | OSError) and any(word in told for word in words)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):  # where there is /proc, one that nobody has waited for is known too
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _fingerprint(frame: FrameType | None) -> int:
    return hash(tuple((id(each.f_code), each.f_lasti) for each in _frames(frame)))


def _waits_for_others(frame: FrameType | None) -> bool:
    parts = ("torch/distributed/", "torch/autograd/", "torch/nn/parallel/")
    names = (each.f_code.co_filename.replace(os.sep, "/") for each in _frames(frame))
    return any(part in name for name in list(names)[:3] for part in parts)


def _place(frame: FrameType | None) -> str:
    """File, line and function of the innermost frame that is not of a library."""
    frames = list(_frames(frame))
    own = [each for each in frames if not any(p in each.f_code.co_filename for p in ("site-packages", "lib/python"))]
    if not frames:
        return "an unknown place"
    code = (own or frames)[0].f_code
    return f"{code.co_filename}:{(own or frames)[0].f_lineno} ({code.co_name})"
