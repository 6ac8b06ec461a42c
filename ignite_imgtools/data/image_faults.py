"""What is wrong with an image file, found without decoding it, or where that is asked for, by decoding it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ignite_imgtools.formats import DataError
from ignite_imgtools.progress import tick

from .faults import Fault, fault_of_error
from .images import MAX_PIXELS, image_size, read_image, resolve_inside
from .quick_look import complete_jpeg_size

__all__ = ["examine_image", "images_counted", "images_decoded", "linked_folders"]

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"
_TIFF_STARTS = (b"II*\0", b"MM\0*")
# Tags of TIFF 6.0: where strips or tiles of pixels start in the file, and how long they are.
_TIFF_PIECES = ((273, 279), (324, 325))

_decoding: ContextVar[bool] = ContextVar("decoding", default=False)
_examined: ContextVar[set[tuple[str, str]] | None] = ContextVar("examined", default=None)


@contextmanager
def images_decoded() -> Iterator[None]:
    """Within it :func:`examine_image` decodes too, which costs a hundred times as much.

    Nothing else shows damage in the middle of a file. Of JPEGs it finds each loss of a kilobyte and about two of three
    losses of 64 bytes: a shorter one may leave a stream that is valid, of another picture.
    """
    token = _decoding.set(True)
    try:
        yield
    finally:
        _decoding.reset(token)


@contextmanager
def images_counted() -> Iterator[set[tuple[str, str]]]:
    """Within it :func:`examine_image` adds each image, as folder and name, to the set that this gives; masks it does
    not."""
    examined: set[tuple[str, str]] = set()
    token = _examined.set(examined)
    try:
        yield examined
    finally:
        _examined.reset(token)


def examine_image(
    folder: str | os.PathLike[str],
    name: str,
    noted_size: tuple[int, int] | None,
    file: str,
    where: str,
    *,
    is_mask: bool = False,
) -> tuple[tuple[int, int] | None, Fault | None]:
    """Look at an image file as far as that is cheap: a page at its start, a page at its end.

    Args:
        folder: the folder that the image must not lie outside of.
        name: its path in there, as an annotation names it.
        noted_size: ``(height, width)`` as annotations have it, or ``None`` where they have none.
        file: the file of annotations, for the fault.
        where: the place in that file, for the fault; empty if the file was found and not named.
        is_mask: its pixels are no colours, and decoded elsewhere.

    Returns:
        ``(height, width)`` of the image, or ``None`` where it has none, and the fault, if there is one.
    """
    tick()
    examined = _examined.get()
    if examined is not None and not is_mask:
        examined.add((os.fspath(folder), name))
    if not _decoding.get() and not is_mask:
        quick = complete_jpeg_size(os.fspath(folder), name)
        if quick is not None and noted_size in (None, quick):
            return quick, None
    try:
        path = resolve_inside(folder, name)
    except DataError as error:
        return None, fault_of_error(error, file, where)
    try:
        size = image_size(path)
    except DataError as error:
        return None, fault_of_error(error, path, what=f"named by {file}, {where}" if where else "")
    height, width = size
    if height * width > MAX_PIXELS:
        came = f"{width} x {height}"
        return size, Fault(str(path), "", "size", f"at most {MAX_PIXELS:,} pixels", came, "scale the image down")
    if noted_size is not None and noted_size != size:
        # The commonest cause: sizes were noted, and boxes drawn, without the camera's note on how to turn the image.
        turned = " (turned by its EXIF orientation?)" if noted_size == (width, height) else ""
        came = f"{width} x {height} in {path}{turned}"
        noted = f"{noted_size[1]} x {noted_size[0]} (width x height) as annotated"
        return size, Fault(file, where, "image size", noted, came, "correct the size and its boxes, or the image")
    if not _is_complete(path):
        return size, Fault(str(path), "", "the image breaks off before its end", advice="restore the file")
    return size, _fault_of_decoding(path) if _decoding.get() and not is_mask else None


def linked_folders(parent: str, names: Sequence[str]) -> list[Fault]:
    """A fault for each of the folders ``names`` in ``parent`` that is a link: what is in there would go unseen."""
    paths = (os.path.join(parent, name) for name in names if not name.startswith("."))  # noqa: PTH118
    return [
        Fault(path, "", "folder", "one that is no link", "a link, which is not followed", "copy the folder")
        for path in paths
        if os.path.islink(path)  # noqa: PTH114
    ]


def _fault_of_decoding(path: Path) -> Fault | None:
    # libjpeg goes on after damage with what it makes of the rest, and says so on the standard error of the process.
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            read_image(path)
        except DataError as error:
            return fault_of_error(error, path)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        said = file.read().decode(errors="replace").strip().splitlines()
    if not said:
        return None
    advice = "look whether it is as it should be, and restore the file"
    return Fault(str(path), "", f"the decoder found damage: {said[0]}", advice=advice)


def _is_complete(path: Path) -> bool:
    """Whether a JPEG or PNG file has its end marker and a TIFF file all of its pixels; files of other formats are taken
    as complete."""
    with path.open("rb", buffering=0) as file:
        start = file.read(4)
        if start.startswith(_JPEG_START):
            end = _JPEG_END
        elif start == _PNG_START:
            end = _PNG_END
        elif start in _TIFF_STARTS:
            return _has_all_pieces(file)
        else:
            return True
        file.seek(-min(32, file.seek(0, os.SEEK_END)), os.SEEK_END)
        if file.read().rstrip(b"\0").endswith(end):
            return True
        # Something follows the image, or it is cut: rare enough to read the file. A thumbnail inside the header
        # has an end of its own, but the image's data come after it.
        file.seek(0)
        content = file.read()
    return content.rfind(end) > content.rfind(_JPEG_SCAN if end is _JPEG_END else b"IDAT")


def _has_all_pieces(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    # Tags of a wrong kind raise nearly anything; what is damaged in such a way is for the decoder to tell.
    with suppress(Exception), Image.open(file, formats=("TIFF",)) as image:
        tags = image.tag_v2  # type: ignore[attr-defined]
        pieces = [zip(tags.get(start, ()), tags.get(length, ()), strict=False) for start, length in _TIFF_PIECES]
        return all(start + length <= size for start, length in chain.from_iterable(pieces))
    return True
