"""Files of a run folder: written whole or not at all, and never at the price of the training."""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ignite_imgtools.handlers.durable import durable_file, sync_file, sync_folder

__all__ = [
    "MetricsFile",
    "WriteGuard",
    "append_bytes",
    "read_metrics",
    "sync_logs",
    "to_json",
    "write_atomically",
]


_APPEND = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# json.dumps would make one anew for each line.
_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False)


class WriteGuard:
    """``with guard:`` around writing: the first ``OSError`` gives one warning and turns what it guards off.

    A full disk or a folder that was removed must not end a training that runs well. Ask :attr:`off` before writing.

    Args:
        what: is named in the warning, as "metrics.jsonl in runs/a".
    """

    def __init__(self, what: str):
        self.what = what
        self.off = False

    def __enter__(self) -> WriteGuard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, OSError):
            return False
        self.off = True
        warnings.warn(f"cannot write {self.what}: {error}; training goes on without it", RuntimeWarning, stacklevel=3)
        return True


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new one; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def sync_logs(folder: Path) -> None:
    """Wait until ``log.txt`` and ``metrics.jsonl`` in ``folder`` are on disk, as far as that can be."""
    for name in ("log.txt", "metrics.jsonl"):
        with contextlib.suppress(OSError):
            if (folder / name).is_file():
                sync_file(folder / name)
    with contextlib.suppress(OSError):
        sync_folder(folder)


def append_bytes(path: Path, content: bytes, *, create: bool = True) -> None:
    """Append to a file.

    The file is opened each time: a folder that was removed is then noticed, and nothing is left to be closed.

    Args:
        create: make the file and its folder if they are not there, in place of a ``FileNotFoundError``.
    """
    flags = _APPEND | os.O_CREAT if create else _APPEND
    try:
        descriptor = os.open(path, flags, 0o666)
    except FileNotFoundError:
        if not create:
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o666)
    try:
        # A file of Python's takes four times as long to open and close.
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def to_json(record: Mapping[str, Any]) -> str:
    """One line of JSON; numbers that are not finite become ``null``, for JSON has no word for them."""
    return _ENCODER.encode({key: _finite(value) for key, value in record.items()})


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a ``metrics.jsonl`` one by one; lines that a crash left half-written are passed over."""
    with path.open("rb") as file:
        for record, _ in _parsed_lines(file):
            yield record


def _parsed_lines(lines: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], bytes]]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n") and isinstance(record, dict):
            yield record, line


def _is_beyond(record: Mapping[str, Any], iteration: int) -> bool:
    # Lines of others may say nothing of it.
    written_after = record.get("iteration")
    return isinstance(written_after, int | float) and written_after > iteration


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, each with the ``iteration`` after which it was written."""

    def __init__(self, path: Path):
        self.path = path

    def cut(self, iteration: int) -> None:
        """Drop what lies beyond ``iteration``, where a run goes on that came further before it broke off."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        parsed = _parsed_lines(content.splitlines(keepends=True))
        kept = b"".join(line for record, line in parsed if not _is_beyond(record, iteration))
        if kept != content:
            # These lines are on disk since the checkpoint that the run goes on from, and must stay there.
            with durable_file(self.path) as file:
                file.write(kept)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one object."""
        append_bytes(self.path, f"{to_json(record)}\n".encode())
