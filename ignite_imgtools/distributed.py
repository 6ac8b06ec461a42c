"""Processes: launch them, seed them, stop them together, gather arrays from them.

Every call works the same in a plain single process. Beyond ``ignite.distributed`` this is the only module that
knows of ranks.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import math
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import ignite.distributed as idist
import numpy as np
import torch
from ignite.distributed.launcher import Parallel
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException
from torch.nn.parallel import DistributedDataParallel

from ignite_imgtools.formats import DataError

__all__ = [
    "StopTogether",
    "all_gather_arrays",
    "all_gather_strings",
    "broadcast_buffers",
    "create_parallel_model",
    "is_main_process",
    "keyed_seed",
    "launch",
    "on_main_process",
    "seed_all",
    "seed_step",
    "unwrap_model",
]

_MASK64 = (1 << 64) - 1
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SECONDS_TO_END_WELL = 8.0


def is_main_process() -> bool:
    """Whether this process writes files: the one of rank 0."""
    return idist.get_rank() == 0


def unwrap_model(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel and ``torch.compile`` wrappers, however they are nested."""
    while True:
        if isinstance(model, DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = cast(nn.Module, model._orig_mod)
        else:
            return model


def create_parallel_model(
    model: nn.Module, device: torch.device | str, *, sync_batchnorm: bool = False, **options: Any
) -> nn.Module:
    """Move ``model`` to ``device`` and, with several processes, wrap it in DistributedDataParallel.

    Beside ``idist.auto_model`` it never wraps in DataParallel, which cannot split a list of images, and keeps to the
    CPU where asked to on a machine with GPUs.

    Args:
        sync_batchnorm: replace BatchNorm by SyncBatchNorm; it needs CUDA, and is left out in a single process.
        options: handed to DistributedDataParallel.
    """
    device = torch.device(device)
    model = model.to(device)
    if idist.get_world_size() == 1:
        return model
    if sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    device_ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, **options)


def on_main_process(function: Callable[[], Any]) -> Any:
    """Call ``function`` on the main process while the others wait; call this on all processes.

    Returns:
        What ``function`` returned on the main process, ``None`` elsewhere.

    Raises:
        Exception: what ``function`` raised, on the main process; elsewhere one of the same type and message where it
            is an error for users (``DataError``, ``OSError``, ``ValueError``), else a RuntimeError.
    """
    result, error = None, None
    if is_main_process():
        try:
            result = function()
        except Exception as raised:
            error = raised
    kinds: tuple[type[Exception], ...] = (DataError, ValueError, OSError)
    kind = next((k for k in kinds if isinstance(error, k)), RuntimeError)
    note = "" if error is None else f"{kind.__name__}\n{error}"
    told = all_gather_strings(note)[0]
    if error is not None:
        raise error
    if told:
        name, _, message = told.partition("\n")
        raise {k.__name__: k for k in (*kinds, RuntimeError)}[name](message)
    return result


def keyed_seed(seed: int, *keys: int) -> int:
    """A 63-bit seed that is a pure function of ``seed`` and ``keys``, each combination giving another stream.

    Keys are mixed in with the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), so that neighbouring
    epochs, indices and ranks share nothing.

    >>> keyed_seed(0, 1, 2) == keyed_seed(0, 1, 2), keyed_seed(0, 1, 2) == keyed_seed(0, 2, 1)
    (True, False)
    """
    state = 0
    for key in (seed, *keys):
        state = (state + key + 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state >> 1


def seed_all(seed: int) -> None:
    """Seed torch's generators of the CPU and the current device, ``random`` and ``numpy.random``.

    Unlike ``torch.manual_seed`` it touches the current CUDA device alone, and nothing of CUDA before its first use.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available() and torch.cuda.is_initialized() and not torch.cuda._is_in_bad_fork():
        torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  # users' data sets draw from it


def seed_step(seed: int, iteration: int) -> None:
    """Seed what a training step draws (dropout, the sampling of proposals) by (seed, iteration, rank).

    Nothing then depends on what was drawn before, so a resumed run draws what the uninterrupted one would have.
    """
    seed_all(keyed_seed(seed, iteration, idist.get_rank()))


def broadcast_buffers(model: nn.Module) -> None:
    """Give every process the buffers (running statistics) of the main process; call it on all processes."""
    if idist.get_world_size() == 1:
        return
    with torch.no_grad():
        for buffer in unwrap_model(model).buffers():
            torch.distributed.broadcast(buffer, src=0)


def all_gather_strings(text: str) -> list[str]:
    """``text`` of every process, by rank. Call it on all processes."""
    gathered = all_gather_arrays({"text": np.frombuffer(text.encode(), dtype=np.uint8)})
    return [arrays["text"].tobytes().decode() for arrays in gathered]


def all_gather_arrays(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The named arrays of every process, by rank; shapes may differ between processes, nothing is pickled.

    Two collectives whatever the number of arrays: the sizes, then all bytes in one padded buffer.

    Args:
        arrays: the same names, dtypes and numbers of dimensions on every process; sorted by name on the wire.

    Returns:
        One dict for each process, in order of rank.
    """
    own = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    if idist.get_world_size() == 1:
        return [own]
    # NCCL moves device memory only; gloo is quicker from the host.
    device = idist.device() if idist.backend() == "nccl" else torch.device("cpu")
    shapes = torch.tensor([size for array in own.values() for size in array.shape], dtype=torch.int64, device=device)
    all_shapes = [torch.empty_like(shapes) for _ in range(idist.get_world_size())]
    torch.distributed.all_gather(all_shapes, shapes)

    layouts: list[list[tuple[str, tuple[int, ...], int]]] = []
    for row in all_shapes:
        sizes, layout = iter(row.tolist()), []
        for name, array in own.items():
            shape = tuple(next(sizes) for _ in range(array.ndim))
            layout.append((name, shape, math.prod(shape) * array.itemsize))
        layouts.append(layout)
    capacity = max(sum(nbytes for *_, nbytes in layout) for layout in layouts)

    buffer = np.zeros(capacity, dtype=np.uint8)
    payload = b"".join(array.tobytes() for array in own.values())
    buffer[: len(payload)] = np.frombuffer(payload, dtype=np.uint8)
    sent = torch.from_numpy(buffer).to(device)
    received = [torch.empty_like(sent) for _ in layouts]
    torch.distributed.all_gather(received, sent)

    gathered = []
    for layout, tensor in zip(layouts, received, strict=True):
        raw, offset, unpacked = tensor.cpu().numpy(), 0, {}
        for name, shape, nbytes in layout:
            unpacked[name] = raw[offset : offset + nbytes].view(own[name].dtype).reshape(shape)
            offset += nbytes
        gathered.append(unpacked)
    return gathered


class StopTogether:
    """Lets any process ask for a stop, and all of them stop after the same step.

    No collective is spent: a request is a note in the process group's key-value store. Who finds it first writes
    down the number of the step after the next. No process can pass that step unawares: gradients are reduced in
    each step, so nobody ends step ``n + 1`` before all have begun it, that is, have looked for a note after step
    ``n``; on a GPU, where the host runs ahead of the reduction, each look waits until the device has done the step
    before.

    Call :meth:`should_stop` on every process once for each optimizer step, counted alike on all of them.

    Args:
        name: the same on every process; another one for each loop that is to be stopped.
    """

    def __init__(self, name: str = "training"):
        self.reason = 0
        self._requested = 0
        self._agreed: tuple[int, int] | None = None
        self._round = 0
        self._store = None
        self._device_done: torch.cuda.Event | None = None
        if idist.get_world_size() > 1:
            store = torch.distributed.distributed_c10d._get_default_store()
            self._store = torch.distributed.distributed_c10d.PrefixStore(f"ignite_imgtools/stop/{name}", store)

    def request(self, reason: int = 1) -> None:
        """Ask for a stop; safe in a signal handler.

        Args:
            reason: above 0; all processes find it in ``reason`` when they stop.
        """
        self._requested = reason

    def should_stop(self, step: int) -> bool:
        """Whether to stop now that ``step`` is finished; the same answer for the same step on every process."""
        if self._store is None:
            self.reason = self._requested
            return self.reason != 0
        self._wait_for_step_before()
        note = f"note/{self._round}"
        if self._agreed is None:
            if self._requested:
                # Some stores put an empty expected value for "no value yet"; the first to write wins.
                told = self._store.compare_set(note, "", f"{step + 2} {self._requested}")
                self._agreed = _read_note(told)
            elif self._store.check([note]):
                self._agreed = _read_note(self._store.get(note))
        if self._agreed is None or step < self._agreed[0]:
            return False
        self.reason = self._agreed[1]
        return True

    def reset(self) -> None:
        """Go on after a stop; a request of another reason that was made meanwhile stays."""
        if self._requested == self.reason:
            self._requested = 0
        self.reason, self._agreed = 0, None
        self._round += 1

    def announce(self) -> None:
        """Let :meth:`announced` be true on all processes soon, for loops without a common step."""
        if self._store is not None:
            self._store.set("announced", "1")

    def announced(self) -> bool:
        """Whether a process has announced a stop; not at the same moment on all of them."""
        return self._store is not None and self._store.check(["announced"])

    def _wait_for_step_before(self) -> None:
        if idist.backend() != "nccl":
            return
        before, self._device_done = self._device_done, torch.cuda.Event()
        self._device_done.record()
        if before is not None:
            before.synchronize()


def _read_note(note: bytes | str) -> tuple[int, int]:
    step, reason = (note.decode() if isinstance(note, bytes) else note).split()
    return int(step), int(reason)


def _default_backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"


def _limit_threads(processes_here: int) -> None:
    # Processes that share a machine share its cores; torch would start a thread for each core in every process.
    if "OMP_NUM_THREADS" not in os.environ and processes_here > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes_here))


def _start_rank(local_rank: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    # SLURM ends the processes it has started by itself, and which of its threads is their parent is not known.
    if "SLURM_PROCID" not in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        _end_with_parent()
    _limit_threads(idist.get_nproc_per_node())
    function(local_rank, *args)


def _start_spawned_rank(local_rank: int, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    _start_rank(local_rank, function, args)
    atexit.register(_leave)


def _leave() -> None:
    """End a process whose work is done without taking the interpreter down piece by piece.

    Threads of the process group may outlive the group. Where one of them asks for the interpreter while that is being
    taken down, the process aborts ("terminate called without an active exception"), and a finished run has failed.
    """
    if torch.distributed.is_initialized():
        return
    atexit.unregister(_leave)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


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
    """Hand SIGTERM and SIGINT on to the processes started in here and wait for these, then leave as they do."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    others = set(multiprocessing.active_children())

    def hand_on(number: int, frame: Any) -> None:
        for process in set(multiprocessing.active_children()) - others:
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    saved = {n: signal.signal(n, hand_on) for n in (signal.SIGTERM, signal.SIGINT)} if in_main_thread else {}
    try:
        yield
    except ProcessExitedException as error:
        number = -error.exit_code if error.exit_code < 0 else error.exit_code - 128
        if number in (signal.SIGTERM, signal.SIGINT):
            raise SystemExit(128 + number) from None
        raise
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def launch(
    function: Callable[..., Any], *args: Any, nproc_per_node: int | None = None, backend: str | None = None
) -> None:
    """Run ``function(local_rank, *args)`` on every process.

    Under torchrun or SLURM the processes exist already and are joined; else ``nproc_per_node`` of them are started
    on this machine; with one process nothing is started and there is no process group.

    Started processes get the signals SIGTERM and SIGINT that this one gets, and this one waits for them; where they
    end by such a signal, it ends with their status. None of them outlives this process.

    Args:
        function: a function of a module, so that another process can import it.
        nproc_per_node: how many processes to start here; not with torchrun, which has started them.
        backend: ``"gloo"`` or ``"nccl"``; by default nccl where CUDA is available.

    Raises:
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
        with Parallel(backend=backend or _default_backend()) as parallel:
            parallel.run(_start_rank, function, args)
    elif nproc_per_node is None or nproc_per_node == 1:
        function(0, *args)
    else:
        # A fixed port would let one run at a time start on a machine.
        port = None if "MASTER_PORT" in os.environ else _free_port()
        parallel = Parallel(backend or _default_backend(), nproc_per_node=nproc_per_node, master_port=port)
        with parallel, _signals_handed_on():
            parallel.run(_start_spawned_rank, function, args)
