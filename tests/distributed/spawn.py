"""Start real processes, joined by gloo, from a test."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch

__all__ = ["run_processes"]


def _run_rank(
    function: Callable[..., Any], rank: int, world_size: int, store: str, args: tuple[Any, ...], pipe: Connection
) -> None:
    # One thread: forked processes must not enter the parent's OpenMP pool, and the cores are few.
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        if world_size > 1:
            idist.initialize("gloo", init_method=f"file://{store}", world_size=world_size, rank=rank)
        answer = pickle.dumps((True, function(*args)))
        if world_size > 1:
            idist.barrier()
            idist.finalize()
    except BaseException:
        answer = pickle.dumps((False, traceback.format_exc()))
    pipe.send_bytes(answer)
    pipe.close()


def _collect(pipes: list[Connection], processes: list[Any], timeout: float) -> list[Any]:
    results: list[Any] = [None] * len(pipes)
    pending = {pipe: rank for rank, pipe in enumerate(pipes)}
    deadline = time.monotonic() + timeout
    while pending:
        ready = wait(list(pending), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"ranks {sorted(pending.values())} of {len(pipes)} did not end within {timeout} s")
        for pipe in ready:
            rank = pending.pop(pipe)
            try:
                succeeded, result = pickle.loads(pipe.recv_bytes())
            except EOFError:
                processes[rank].join(5)
                raise RuntimeError(f"rank {rank} died with exit code {processes[rank].exitcode}") from None
            if not succeeded:
                raise RuntimeError(f"rank {rank} of {len(pipes)} failed:\n{result}")
            results[rank] = result
    return results


def run_processes(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 120) -> list[Any]:
    """Call ``function(*args)`` in ``world_size`` new processes of one gloo process group.

    In the function ``ignite.distributed`` knows rank and world size; with ``world_size=1`` there is no process group,
    as in a run without a launcher. Processes are forked where CUDA is absent, so that the function may be local to
    the test; elsewhere they come from a fork server and the function must be importable.

    Args:
        args: handed to the function on every process.
        timeout: seconds after which all processes are killed.

    Returns:
        What the function returned, by rank; it must pickle.

    Raises:
        RuntimeError: a process failed first; with its traceback. The others are killed.
        TimeoutError: some process did not end in time; names the ranks.
    """
    forked = not torch.cuda.is_available()
    context = multiprocessing.get_context("fork" if forked else "forkserver")
    if not forked:
        context.set_forkserver_preload(["torch", "torchvision", "ignite.distributed"])
    processes, pipes = [], []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, warnings.catch_warnings():
        # Python 3.12 warns of every fork in a process that has threads.
        warnings.filterwarnings("ignore", message=".*use of fork.*", category=DeprecationWarning)
        try:
            for rank in range(world_size):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_run_rank,
                    args=(function, rank, world_size, str(Path(folder) / "store"), args, sender),
                    daemon=False,
                )
                process.start()
                sender.close()
                processes.append(process)
                pipes.append(receiver)
            results = _collect(pipes, processes, timeout)
            for process in processes:
                process.join(10)
            return results
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join(10)
            for pipe in pipes:
                pipe.close()
