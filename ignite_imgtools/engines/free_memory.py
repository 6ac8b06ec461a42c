"""Memory that is free goes back to the system, so that a process that needs no more does not grow."""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from collections.abc import Callable

__all__ = ["FreeMemory", "release_free_memory"]


class FreeMemory:
    """Called now and then, as at the beginning of each epoch, it releases free memory once in ``seconds``.

    Images of changing sizes leave free pieces between others, which glibc keeps: a detector's process on a CPU grows in
    steps, by 10 to 20 MB an hour, while what is in use stays as it is. To release them takes milliseconds.
    """

    def __init__(self, seconds: float = 60.0):
        self._seconds = seconds
        self._at = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._at >= self._seconds:
            self._at = now
            release_free_memory()


def release_free_memory() -> bool:
    """Give pages that the C allocator has free back to the system; whether there were any.

    It knows glibc's alone (``malloc_trim``); with another nothing is done.
    """
    trim = _malloc_trim()
    return trim is not None and bool(trim(0))


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim.argtypes = (ctypes.c_size_t,)
        trim.restype = ctypes.c_int
    return trim
