"""Ends of processes: without taking memory apart object by object, which with torch takes a second or two, and without
a crash where threads of a process group are still there.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["end_soon", "leave_at_exit"]

_LOST_OUTPUT = 120  # CPython's
_GLOO_THREAD = "pt_gloo_runloop"
_SECONDS_TO_LET_GO = 0.1
_soon = False


def leave_at_exit(status: int, unless: Callable[[], bool] = lambda: False) -> None:
    """Let this process end with ``status`` as soon as all functions registered with ``atexit`` are done.

    Call it last: what is registered later is called twice.

    Args:
        unless: asked when the process exits; where it is true the process ends as it would have.
    """
    atexit.register(_leave, status, unless)


def _leave(status: int, unless: Callable[[], bool]) -> None:
    if unless():
        return
    atexit.unregister(_leave)
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        # As Python itself would end: what was to be told is lost.
        status = status or _LOST_OUTPUT
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"standard output: {error}\n")
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status)


def end_soon() -> None:
    """Let this process, which has failed, end quickly, with whatever status it is going to have.

    Others wait for it to be gone. What it prints after all functions registered with ``atexit`` since this module was
    imported is lost.
    """
    global _soon
    _soon = True


def _take_nothing_apart() -> None:
    if not _soon:
        return
    gc.freeze()  # the search for garbage, which goes through all objects several times, finds none
    # Some C++ libraries then tell at length, on the file itself, that not all of their objects are gone.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _let_group_threads_finish() -> None:
    """Let the threads of gloo's process groups, which may outlive their group, let go of what they have reduced.

    For that they need the interpreter. One that gets to ask for it only while that is being taken down is made to exit
    inside of a C++ destructor, which aborts the process ("terminate called without an active exception"), and a
    finished run has failed: https://github.com/pytorch/pytorch/issues/190489
    """
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            names.append(path.read_text().strip())
    if _GLOO_THREAD in names:
        time.sleep(_SECONDS_TO_LET_GO)  # this thread leaves the interpreter to them


# At the first import, so that they are called after what others register.
atexit.register(_let_group_threads_finish)
atexit.register(_take_nothing_apart)
