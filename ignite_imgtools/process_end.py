"""Ends of processes that do not take their memory apart object by object, which with torch takes a second or two."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from collections.abc import Callable

__all__ = ["end_soon", "leave_at_exit"]

_LOST_OUTPUT = 120  # CPython's
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


# At the first import, so that it is called after what others register.
atexit.register(_take_nothing_apart)
