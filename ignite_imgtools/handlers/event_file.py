"""A file of TensorBoard events, written without a thread."""

from __future__ import annotations

import functools
import io
import itertools
import os
import re
import socket
import struct
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np
from PIL import Image

from ignite_imgtools.formats import one_line
from ignite_imgtools.handlers.run_files import append_bytes

__all__ = ["EventFile"]

_COUNTER = itertools.count()
_MARKUP = re.compile("[<>&\"'`]")
_LONGEST_TAG = 300


class EventFile:
    """Appends events to a new file that TensorBoard reads.

    A ``SummaryWriter`` writes from a thread: an error shows up at some later call, what is queued is lost when the
    process is killed, and scalars of a step become as many events. Here each call writes one event, and what was
    written is in the file. Nothing stays open, and a file that was removed is made anew, but not its folder.

    Args:
        folder: created if it is not there.
        purge_step: events of other files in the folder with this step or a later one are void: a run that broke off
            has written them, and goes on from before.

    Raises:
        OSError: from here and every method, as the system has it.
    """

    def __init__(self, folder: Path, purge_step: int | None = None):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        # Files are read in the order of their names.
        name = f"events.out.tfevents.{now:017.6f}.{socket.gethostname()}.{os.getpid()}.{next(_COUNTER)}"
        self.path = folder / name
        self._event_type = Event
        self._tags: tuple[str, ...] | None = None
        self._scalars: Any = None
        self._header = self._record(file_version="brain.Event:2")
        if purge_step is not None:
            self._header += self._record(step=purge_step, session_log=SessionLog(status=SessionLog.START))
        append_bytes(self.path, self._header)

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by tag."""
        tags = tuple(values)
        if tags != self._tags:  # seldom, and a message filled anew is made in a third of the time
            from tensorboard.compat.proto.summary_pb2 import Summary

            self._tags = tags
            self._scalars = Summary(value=[Summary.Value(tag=_safe_tag(tag)) for tag in tags])
        for place, value in zip(self._scalars.value, values.values(), strict=True):
            place.simple_value = value
        self._append(step=step, summary=self._scalars)

    def add_image(self, tag: str, image: np.ndarray, step: int, *, encoding: Literal["PNG", "JPEG"] = "PNG") -> None:
        """Write a picture, uint8 ``[H, W, 3]``.

        Args:
            encoding: PNG is exact; photographs are a tenth of the size as JPEG.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        encoded = io.BytesIO()
        options: dict[str, Any] = {"quality": 80, "subsampling": 1} if encoding == "JPEG" else {"compress_level": 3}
        Image.fromarray(image).save(encoded, encoding, **options)
        height, width = image.shape[:2]
        content = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.getvalue())
        self._append(step=step, summary=Summary(value=[Summary.Value(tag=_safe_tag(tag), image=content)]))

    def _append(self, **fields: Any) -> None:
        record = self._record(**fields)
        try:
            append_bytes(self.path, record, create=False)
        except FileNotFoundError:
            if not self.path.parent.is_dir():
                raise
            append_bytes(self.path, self._header + record)

    def _record(self, **fields: Any) -> bytes:
        return _as_record(self._event_type(wall_time=time.time(), **fields).SerializeToString())


def _as_record(content: bytes) -> bytes:
    """A record of a TFRecord file: length and content, each with its checksum.

    tensorboard's own writer takes 0.3 s for the checksum of a MB.
    """
    length = struct.pack("<Q", len(content))
    return b"".join((length, _checksum(length), content, _checksum(content)))


def _checksum(content: bytes) -> bytes:
    # Rotated and shifted, as TFRecord has it, so that the checksum of what holds checksums is a good one too.
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@functools.lru_cache(maxsize=4096)
def _safe_tag(tag: str) -> str:
    """The tag without what a page of html takes for its own; names of classes are in it.

    >>> _safe_tag("val/bbox/AP/<script>")
    'val/bbox/AP/_script_'
    """
    safe = _MARKUP.sub("_", one_line(tag))
    # Cut, tags stay different.
    return safe if len(safe) <= _LONGEST_TAG else f"{safe[:_LONGEST_TAG]}-{zlib.crc32(safe.encode()):08x}"
