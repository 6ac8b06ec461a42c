"""Memory that a process needs no longer goes back to the system, at moments when that costs little."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

__all__ = ["collect_cycles", "give_back_free_memory"]

_PAUSE = 50  # collections take at most a fiftieth of the time
_next_collection = 0.0


def collect_cycles() -> None:
    """Let go of objects that only each other refer to, such as figures and the pixels they hold.

    Python waits with them until they are a quarter of all it has, which beside torch is hundreds of thousands of
    objects, whatever memory hangs on them. Called again soon after, it does nothing: it looks at all objects, which
    takes a tenth of a second or two.
    """
    global _next_collection
    begin = perf_counter()
    if begin >= _next_collection:
        gc.collect()
        end = perf_counter()
        _next_collection = end + _PAUSE * (end - begin)


def give_back_free_memory() -> None:
    """Let the C allocator return the free pages between those in use, where it can (glibc); else nothing is done.

    By itself glibc returns the free end of its heaps alone. It takes milliseconds.
    """
    if (malloc_trim := _malloc_trim()) is not None:
        malloc_trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    # musl, macOS and Windows have none.
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim.argtypes = [ctypes.c_size_t]
    return trim
