"""Reading a file of text whose name came with the data: never a pipe, never without an end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["MAX_BYTES", "exists", "read_regular_file"]

MAX_BYTES = 1 << 28
"""Largest file of text that is read, in bytes: lists of a million faces are as large. COCO's json may be larger."""


def read_regular_file(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read, is not a regular file, or has more than ``max_bytes``; ``strerror`` says which.
    """
    try:
        # Without O_NONBLOCK opening a named pipe would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a null character in the name
        raise OSError(errno.EINVAL, "no name of a file", os.fspath(path)) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, more than {max_bytes:,}", os.fspath(path))
        return file.read()


def exists(path: Path) -> bool:
    """``path.exists()``, ``False`` too where the name is longer than a file system takes."""
    try:
        return path.exists()
    except OSError:
        return False
