"""The file format of checkpoints: written whole or not at all, never loaded when damaged, never executed.

A checkpoint is the zip archive of ``torch.save``, so ``torch.load(path, weights_only=True)`` and ``zipfile`` read it.
The comment at the very end of the archive is ours: the CRC-32 of every byte of the file before it. (The CRCs inside the
archive leave out its headers, and torch does not look at them.) It finds every single flipped bit, every run of up to
32 damaged bits, and all but one in 2^32 of other damages, at a third of the price of a cryptographic digest.
"""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ignite_imgtools.handlers.durable import durable_file

__all__ = ["CheckpointError", "load_checkpoint", "save_checkpoint"]

FORMAT = "ignite_imgtools.checkpoint"
VERSION = 1

_COMMENT = b"ignite_imgtools crc32 "
_CHECKSUM_SIZE = 8  # hexadecimal digits
_COMMENT_SIZE = len(_COMMENT) + _CHECKSUM_SIZE
_END_RECORD_SIZE = 22  # "end of central directory" of the zip format: the last record, when there is no comment
_END_RECORD = b"PK\x05\x06"
_CHUNK = 1 << 20


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read or used: one line with the file's name and what to do.

    Args:
        damaged: the bytes are not those that were written, so that an older file may be taken instead.
        foreign: the file is whole, and something else than a checkpoint that this version reads: an older file may be
            taken, but this one must not be overwritten.
    """

    def __init__(self, message: str, *, damaged: bool = False, foreign: bool = False):
        super().__init__(message)
        self.damaged = damaged
        self.foreign = foreign


def save_checkpoint(state: Mapping[str, Any], path: str | Path) -> None:
    """Write ``state`` to ``path``: all of it, on disk when this returns, or nothing.

    Args:
        state: of tensors, numbers, strings, lists and dicts; the format's name and version are added.
        path: what it held before stays untouched until the new file is on disk.

    Raises:
        CheckpointError: it cannot be written, as for a full disk; names the space needed and free.
    """
    path = Path(path)
    state = {"format": FORMAT, "version": VERSION, **state}
    failures: list[OSError] = []
    try:
        with durable_file(path) as file:
            archive: Any = _ChecksummedArchive(file, failures)
            torch.save(state, archive)
            archive.finish()
    except Exception as error:
        # torch wraps an OSError of a write into errors of its own, which say nothing of the cause.
        cause = failures[0] if failures else error
        if isinstance(cause, OSError):
            raise CheckpointError(_cannot_write(path, state, cause)) from error
        raise


def load_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint, verified; no code of the file is executed, whoever wrote it.

    Raises:
        CheckpointError: there is no such regular file, it is damaged, or it is not a checkpoint of this format.
    """
    path = Path(path)
    with _open_regular(path) as file:
        has_checksum = _verify(file, path)
        file.seek(0)
        try:
            state = torch.load(file, map_location=map_location, weights_only=True)
        except Exception as error:
            # Unpickling foreign bytes may raise anything.
            raise CheckpointError(
                f"{path}: cannot be read as tensors, and nothing else is read: {_line(error)}", foreign=True
            ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint of ignite_imgtools; to start from the weights in it, give it as --weights",
            foreign=True,
        )
    version = state.get("version")
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"{path}: a checkpoint of version {version!r}, this ignite_imgtools reads up to {VERSION}: upgrade it",
            foreign=True,
        )
    if not has_checksum:
        raise CheckpointError(_damaged(path, "its checksum is missing"), damaged=True)
    return state


class _ChecksummedArchive:
    """The file that ``torch.save`` writes to: sums up its bytes, and holds back the end record to add our comment."""

    def __init__(self, file: BinaryIO, failures: list[OSError]):
        self._file = file
        self._failures = failures
        self._checksum = 0
        self._held_back = b""

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        if size < _END_RECORD_SIZE:
            joined = self._held_back + bytes(view)
            self._held_back = joined[-_END_RECORD_SIZE:]
            self._put(joined[:-_END_RECORD_SIZE])
        else:
            self._put(self._held_back)
            self._held_back = bytes(view[-_END_RECORD_SIZE:])
            self._put(view[:-_END_RECORD_SIZE])
        return size

    def flush(self) -> None:
        """Nothing to do: ``finish`` has the last word."""

    def finish(self) -> None:
        """Write the end record with our comment behind it."""
        if self._held_back[:4] != _END_RECORD or self._held_back[-2:] != b"\0\0":
            raise RuntimeError("torch.save did not end its file with the end record of a zip archive")
        self._put(self._held_back[:-2] + _COMMENT_SIZE.to_bytes(2, "little") + _COMMENT)
        self._put(_digits(self._checksum))

    def _put(self, data: Any) -> None:
        self._checksum = zlib.crc32(data, self._checksum)
        try:
            self._file.write(data)
        except OSError as error:
            self._failures.append(error)
            raise


def _open_regular(path: Path) -> BinaryIO:
    try:
        # Without O_NONBLOCK opening a named pipe would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened: {error.strerror}; check the path") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        message = f"{path}: not a regular file; give the path of a checkpoint such as checkpoints/last.pt"
        raise CheckpointError(message, foreign=True)
    return os.fdopen(descriptor, "rb")


def _verify(file: BinaryIO, path: Path) -> bool:
    """Check that the file is an archive as it was written; whether it carries our checksum.

    Raises:
        CheckpointError: with ``damaged``.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise CheckpointError(_damaged(path, "it is empty"), damaged=True)
    has_checksum = False
    if size > _COMMENT_SIZE:
        file.seek(-_COMMENT_SIZE, os.SEEK_END)
        comment = file.read()
        has_checksum = comment.startswith(_COMMENT)
    if has_checksum and _checksum(file, size - _CHECKSUM_SIZE) != comment[len(_COMMENT) :]:
        raise CheckpointError(_damaged(path, "its checksum does not match"), damaged=True)
    try:
        with zipfile.ZipFile(file) as archive:
            # torch stores; a compressed entry could unfold to any size.
            compressed = [i.filename for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]
            bad = None if has_checksum or compressed else archive.testzip()
    except Exception as error:
        raise CheckpointError(_damaged(path, f"it is no zip archive ({_line(error)})"), damaged=True) from error
    if compressed:
        message = f"{path}: not written by torch.save: its entry {compressed[0]!r} is compressed"
        raise CheckpointError(message, foreign=True)
    if bad is not None:
        raise CheckpointError(_damaged(path, f"its entry {bad!r} has a wrong CRC"), damaged=True)
    return has_checksum


def _checksum(file: BinaryIO, size: int) -> bytes:
    checksum = 0
    file.seek(0)
    while size and (chunk := file.read(min(size, _CHUNK))):
        checksum = zlib.crc32(chunk, checksum)
        size -= len(chunk)
    return _digits(checksum)


def _digits(checksum: int) -> bytes:
    return f"{checksum:08x}".encode()


def _damaged(path: Path, how: str) -> str:
    return f"{path}: damaged, {how}; take an older checkpoint of that folder, which resume=auto does"


def _cannot_write(path: Path, state: Any, error: OSError) -> str:
    return (
        f"{path}: cannot write this checkpoint: {error.strerror or error}; it needs "
        f"{room(path.parent, num_bytes(state))}; what the file held before is unchanged: make room or choose another "
        "output_dir"
    )


def room(folder: Path, needed: int) -> str:
    """How many bytes are needed and how many are free in ``folder``, for a message."""
    try:
        free = f"{shutil.disk_usage(folder).free / 1e6:.1f} MB are free there"
    except OSError:
        free = "there is no such folder"
    return f"{needed / 1e6:.1f} MB, {free}"


def num_bytes(value: Any) -> int:
    """Of all tensors in ``value``."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(num_bytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(num_bytes(item) for item in value)
    return 0


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
