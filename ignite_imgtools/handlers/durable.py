"""Files that are either there in whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "TEMPORARY_PREFIX",
    "durable_file",
    "link_or_copy",
    "make_folder_durably",
    "replace_durably",
    "sync_file",
    "sync_folder",
]

TEMPORARY_PREFIX = ".tmp-"
_UNSUPPORTED = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}


@contextlib.contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """A new binary file that takes the place of ``path`` once all of it is on disk.

    The order is: write ``.tmp-<name>`` in the same folder, fsync it, rename it, fsync the folder. If anything fails,
    the temporary file is removed and what ``path`` held before is as it was.

    Raises:
        OSError: as the system has it.
    """
    temporary = path.with_name(TEMPORARY_PREFIX + path.name)
    try:
        # Unlinked first and then created: whatever is in its place, a link too, is not written through.
        temporary.unlink(missing_ok=True)
        with temporary.open("xb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace_durably(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def replace_durably(source: Path, target: Path) -> None:
    """Rename ``source`` over ``target`` and wait until the folder's new content is on disk."""
    source.replace(target)
    sync_folder(target.parent)


def make_folder_durably(folder: Path) -> None:
    """Make ``folder`` and those above it that are not there, and wait until their names are on disk.

    Raises:
        OSError: as the system has it.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        # A folder that may be written but not read cannot be opened, and so not synchronised.
        with contextlib.suppress(PermissionError):
            sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Wait until what was written to ``path``, by whomever, is on disk.

    Raises:
        OSError: as the system has it.
    """
    with path.open("ab") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until names that were made, changed or removed in ``folder`` are on disk, where the system can tell."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and user-space file systems have no fsync of folders.
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def link_or_copy(source: Path, target: Path, *, sync: bool = True) -> None:
    """Give ``source`` the second name ``target``; a copy where the file system has no hard links.

    Args:
        sync: wait until the name is on disk; ``False`` where the folder is synchronised soon after.
    """
    if target.exists() and target.samefile(source):
        return
    temporary = target.with_name(TEMPORARY_PREFIX + target.name)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        with source.open("rb") as original, durable_file(target) as copy:
            shutil.copyfileobj(original, copy, 1 << 20)
    else:
        temporary.replace(target)
        if sync:
            sync_folder(target.parent)
