"""Run a function in a forked process of a session of its own, to send signals to."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch


class Forked:
    """The process, and the file that its output goes to."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], output: Path):
        self._output = output
        output.touch()
        self.process = multiprocessing.get_context("fork").Process(target=self._run, args=(function, args))
        with warnings.catch_warnings():
            # Python 3.12 warns of every fork in a process that has threads.
            warnings.filterwarnings("ignore", message=".*use of fork.*", category=DeprecationWarning)
            self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        os.setsid()
        descriptor = os.open(self._output, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        logging.basicConfig(stream=os.fdopen(descriptor, "w", buffering=1), level=logging.WARNING, force=True)
        # One thread: a forked process must not enter its parent's OpenMP pool.
        torch.set_num_threads(1)
        function(*args)

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for_output(self, text: str, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while text not in self.output:
            assert self.process.is_alive(), self.output
            assert time.monotonic() < deadline, f"no {text!r} within {timeout} s: {self.output}"
            time.sleep(0.005)

    def wait(self, timeout: float = 60) -> int:
        """The exit code, or minus the number of the signal that ended it."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"not ended within {timeout} s: {self.output}"
        return self.process.exitcode


@contextlib.contextmanager
def forked(function: Callable[..., Any], *args: Any, output: Path) -> Iterator[Forked]:
    """Start ``function(*args)``; the process is killed at the end."""
    process = Forked(function, args, output)
    try:
        yield process
    finally:
        if process.process.is_alive():
            process.process.kill()
        process.process.join(10)
        process.process.close()
