"""Says from inside each process of a soak how much of its memory is in use; Python runs it where it starts.

Resident memory alone does not tell a leak from free pieces that the C allocator keeps between others. A thread asks
the allocator (``mallinfo2`` of glibc, 2.33 or newer) every few seconds, and writes what it says, in MB, to a file of
the process in the folder that the environment names. With another allocator, or without the folder, nothing is done.
Loader workers are forks, which have no such thread.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path

__all__: list[str] = []

_FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


def _watch(path: Path, every: float) -> None:
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    temporary = path.with_suffix(".tmp")
    while True:
        found = mallinfo2()
        temporary.write_text(f"{(found.uordblks + found.hblkhd) / 2**20:.3f}")
        temporary.replace(path)
        time.sleep(every)


def _start() -> None:
    folder, every = os.environ.get("SOAK_INSIDE"), os.environ.get("SOAK_INSIDE_EVERY", "5")
    if folder and hasattr(ctypes.CDLL(None), "mallinfo2"):
        path = Path(folder) / f"{os.getpid()}.txt"
        threading.Thread(target=_watch, args=(path, float(every)), daemon=True).start()


_start()
