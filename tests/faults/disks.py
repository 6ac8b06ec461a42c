"""Small disks that can be full, unwritable or cut off: they need root, and a kernel that mounts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["IN_MEMORY", "CannotMount", "Ext4Image", "tmpfs"]

IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""The parent of folders of which nothing has to survive: waiting for a disk is what takes the time there."""

_EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
_NO_LOG_FLUSH = 2  # what the journal has not written is gone, as with the power


class CannotMount(RuntimeError):
    """This machine does not let us: one line with what it said."""


def _call(*command: str) -> None:
    if shutil.which(command[0]) is None:
        raise CannotMount(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise CannotMount(f"`{' '.join(command)}` failed with status {done.returncode}: {said}")


@contextlib.contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes in memory, mounted at ``folder``.

    Raises:
        CannotMount: not as root, or not here.
    """
    folder.mkdir(parents=True)
    _call("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


class Ext4Image:
    """An ext4 file system in a file, which loses its power.

    Raises:
        CannotMount: not as root, or not here.
    """

    def __init__(self, folder: Path, megabytes: int = 256):
        self._image = folder / "disk.img"
        self.path = folder / "disk"
        self.path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(megabytes << 20)
        _call("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", str(self._image))
        self.mount()

    def mount(self) -> None:
        """Mount it, and do again what is in its journal."""
        _call("mount", "-o", "loop", str(self._image), str(self.path))

    def cut(self) -> None:
        """From now on nothing reaches the disk: each write and fsync fails."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        except OSError as error:
            raise CannotMount(f"EXT4_IOC_SHUTDOWN: {error}") from error
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Let go of it; no process may use it any more."""
        _call("umount", str(self.path))

    def close(self) -> None:
        """Unmount it, if it is mounted, and remove it."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=False, capture_output=True)
        self._image.unlink(missing_ok=True)
