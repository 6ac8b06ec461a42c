"""A file of TensorBoard events, written without a thread."""

from __future__ import annotations

import functools
import io
import itertools
import os
import re
import socket
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ignite_imgtools.formats import one_line

__all__ = ["EventFile"]

_COUNTER = itertools.count()
_MARKUP = re.compile("[<>&\"'`]")
_LONGEST_TAG = 300


class EventFile:
    """Appends events to a new file that TensorBoard reads.

    A ``SummaryWriter`` writes from a thread: an error shows up at some later call, what is queued is lost when the
    process is killed, and scalars of a step become as many events. Here each call writes one event, and what was
    written is in the file. Nothing stays open.

    Args:
        folder: created if it is not there.
        purge_step: events of other files in the folder with this step or a later one are void: a run that broke off
            has written them, and goes on from before.

    Raises:
        OSError: from here and every method, as the system has it.
    """

    def __init__(self, folder: Path, purge_step: int | None = None):
        from tensorboard.compat.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        # Files are read in the order of their names.
        name = f"events.out.tfevents.{now:017.6f}.{socket.gethostname()}.{os.getpid()}.{next(_COUNTER)}"
        self.path = folder / name
        self._append(file_version="brain.Event:2")
        if purge_step is not None:
            self._append(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by tag."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(
            value=[Summary.Value(tag=_safe_tag(tag), simple_value=value) for tag, value in values.items()]
        )
        self._append(step=step, summary=summary)

    def add_image(self, tag: str, image: np.ndarray, step: int, *, encoding: Literal["PNG", "JPEG"] = "PNG") -> None:
        """Write a picture, uint8 ``[H, W, 3]``.

        Args:
            encoding: PNG is exact; photographs are a tenth of the size as JPEG, and the checksum of an event costs
                0.3 s for each MB.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        encoded = io.BytesIO()
        options: dict[str, Any] = {"quality": 80, "subsampling": 1} if encoding == "JPEG" else {"compress_level": 3}
        Image.fromarray(image).save(encoded, encoding, **options)
        height, width = image.shape[:2]
        content = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.getvalue())
        self._append(step=step, summary=Summary(value=[Summary.Value(tag=_safe_tag(tag), image=content)]))

    def _append(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = Event(wall_time=time.time(), **fields).SerializeToString()
        with self.path.open("ab") as file:
            RecordWriter(file).write(event)


@functools.lru_cache(maxsize=4096)
def _safe_tag(tag: str) -> str:
    """The tag without what a page of html takes for its own; names of classes are in it.

    >>> _safe_tag("val/bbox/AP/<script>")
    'val/bbox/AP/_script_'
    """
    safe = _MARKUP.sub("_", one_line(tag))
    # Cut, tags stay different.
    return safe if len(safe) <= _LONGEST_TAG else f"{safe[:_LONGEST_TAG]}-{zlib.crc32(safe.encode()):08x}"
