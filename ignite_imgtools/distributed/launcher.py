"""Start processes, and end them all together."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.distributed.launcher import Parallel
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ignite_imgtools.distributed.attempts import init_method
from ignite_imgtools.distributed.failures import FAILURE_FILE, ProcessFailure, read_failure, watch_processes
from ignite_imgtools.process_end import end_soon, leave_at_exit

__all__ = ["launch"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LEAVE_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAVE_SIGNALS = (signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()
_SECONDS_TO_END_WELL = 8.0


def _default_backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"


def _limit_threads(processes_here: int) -> None:
    # Processes that share a machine share its cores; torch would start a thread for each core in every process.
    if "OMP_NUM_THREADS" not in os.environ and processes_here > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes_here))


def _start_rank(
    local_rank: int, function: Callable[..., Any], args: tuple[Any, ...], stuck_after: float | None
) -> None:
    # SLURM ends the processes it has started by itself, and which of its threads is their parent is not known.
    if "SLURM_PROCID" not in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        _end_with_parent()
    _limit_threads(idist.get_nproc_per_node())
    with watch_processes(stuck_after):
        function(local_rank, *args)


def _start_spawned_rank(
    local_rank: int, function: Callable[..., Any], args: tuple[Any, ...], stuck_after: float | None
) -> None:
    _start_rank(local_rank, function, args, stuck_after)
    # Nothing is left to do but to take memory apart.
    leave_at_exit(0, unless=torch.distributed.is_initialized)


def _end_with_parent() -> None:
    """Let this process end when the one that started it has gone, be it by kill -9.

    It first gets SIGTERM, to end well; if it is stuck, in a collective perhaps, it is ended some seconds later.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        time.sleep(_SECONDS_TO_END_WELL)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextlib.contextmanager
def _signals_handed_on() -> Iterator[None]:
    """Hand signals on to the processes started in here and wait for these; leave as they do where it is by a signal."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    others = set(multiprocessing.active_children())
    got: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        if number in _LEAVE_SIGNALS:
            got.append(number)
        for process in set(multiprocessing.active_children()) - others:
            if process.pid is not None and (number not in _SAVE_SIGNALS or _catches(process.pid, number)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    saved = {n: signal.signal(n, hand_on) for n in (*_LEAVE_SIGNALS, *_SAVE_SIGNALS)} if in_main_thread else {}
    try:
        yield
    except (ProcessRaisedException, ProcessExitedException) as error:
        if number := _signal_of_end(error, got):
            raise SystemExit(128 + number) from None
        raise
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
    if got:  # some versions of torch let a process that was interrupted end with status 0
        raise SystemExit(128 + got[0])


def _signal_of_end(error: ProcessRaisedException | ProcessExitedException, got: list[int]) -> int:
    """The signal that ended a process, 0 where it was another fault; ``got`` are those that were handed on to it."""
    seen, told = _failure_from(error), read_failure(Path(os.environ[FAILURE_FILE]))
    if isinstance(error, ProcessExitedException):
        number = -error.exit_code if error.exit_code < 0 else error.exit_code - 128
        if number in _LEAVE_SIGNALS:
            return number
        # An interrupt while modules are imported; the process prints its error itself.
        interrupted = error.exit_code == 1 and told is None
    else:
        interrupted = seen.trace.endswith(KeyboardInterrupt.__name__)
    interrupted |= told is not None and told.kind == KeyboardInterrupt.__name__
    return got[0] if got and interrupted else 0


def _catches(process: int, number: int) -> bool:
    """Whether a process has a handler for a signal that would else end it; yes where the system does not tell."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True
    caught = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return not caught or bool(int(caught[0], 16) >> (number - 1) & 1)


@contextlib.contextmanager
def _first_failure_told() -> Iterator[None]:
    """Raise what the process that failed first has said, whichever of them the launcher has seen first."""
    with tempfile.TemporaryDirectory(prefix="ignite_imgtools-") as folder:
        path = Path(folder) / "failure.json"
        os.environ[FAILURE_FILE] = str(path)
        try:
            yield
        except (ProcessRaisedException, ProcessExitedException) as error:
            told, seen = read_failure(path), _failure_from(error)
            # Of a process that was killed the others know nothing but that it has gone.
            killed = isinstance(error, ProcessExitedException) and error.exit_code < 0
            if told is None or (killed and not told.kind and told.rank == seen.rank):
                raise seen from None
            raise told from None
        finally:
            del os.environ[FAILURE_FILE]


@atexit.register
def _end_soon_where_processes_failed() -> None:
    # The error of one of its processes is what this one ends by.
    causes = ProcessFailure | ProcessRaisedException | ProcessExitedException
    if isinstance(getattr(sys, "last_value", None), causes):
        end_soon()


def _failure_from(error: ProcessRaisedException | ProcessExitedException) -> ProcessFailure:
    if isinstance(error, ProcessExitedException):
        if error.exit_code >= 0:
            return ProcessFailure(error.error_index, "", f"ended with exit status {error.exit_code}")
        name = signal.Signals(-error.exit_code).name
        memory = " (is the machine out of memory?)" if name == "SIGKILL" else ""
        return ProcessFailure(error.error_index, "", f"killed by {name}{memory}")
    trace = error.msg.strip()
    name, _, reason = trace.splitlines()[-1].partition(": ")
    return ProcessFailure(error.error_index, name.rpartition(".")[2], reason, trace)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def launch(
    function: Callable[..., Any],
    *args: Any,
    nproc_per_node: int | None = None,
    backend: str | None = None,
    stuck_after: float | None = None,
) -> None:
    """Run ``function(local_rank, *args)`` on every process.

    Under torchrun or SLURM the processes exist already and are joined; else ``nproc_per_node`` of them are started
    on this machine; with one process nothing is started and there is no process group.

    ``torchrun --max-restarts`` starts the processes again when one has failed or was killed; where they resume by
    themselves they go on from the newest checkpoint, and they read nothing that those before left in torchrun's store.

    While ``function`` runs, :func:`watch_processes` lets all processes end when one fails. Those started here get the
    signals SIGTERM and SIGINT that this one gets, and SIGUSR1 once they can deal with it, and this one waits for them;
    where they end by such a signal, it ends with their status. None of them outlives this process.

    Args:
        function: a function of a module, so that another process can import it.
        nproc_per_node: how many processes to start here; not with torchrun, which has started them.
        backend: ``"gloo"`` or ``"nccl"``; by default nccl where CUDA is available.
        stuck_after: of :func:`watch_processes`.

    Raises:
        ProcessFailure: one of several processes has failed; it says which one first and why.
        ValueError: ``nproc_per_node`` is below 1, or given where a launcher has started the processes.
        SystemExit: with status 128 + N, where the started processes ended by signal N.
    """
    if nproc_per_node is not None and nproc_per_node < 1:
        raise ValueError(f"nproc_per_node must be at least 1, got {nproc_per_node}")
    launched = "RANK" in os.environ or "SLURM_PROCID" in os.environ
    if launched and nproc_per_node not in (None, 1):
        raise ValueError(
            f"nproc_per_node={nproc_per_node} with a launcher that has started the processes already: leave it out"
        )
    if launched:
        with Parallel(backend or _default_backend(), init_method=init_method()) as parallel:
            parallel.run(_start_rank, function, args, stuck_after)
    elif nproc_per_node is None or nproc_per_node == 1:
        function(0, *args)
    else:
        # A fixed port would let one run at a time start on a machine.
        port = None if "MASTER_PORT" in os.environ else _free_port()
        parallel = Parallel(backend or _default_backend(), nproc_per_node=nproc_per_node, master_port=port)
        with parallel, _first_failure_told(), _signals_handed_on():
            parallel.run(_start_spawned_rank, function, args, stuck_after)
