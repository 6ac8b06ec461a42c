"""Image files: their size from the header alone, their pixels, and paths that cannot leave the data folder.

An image is what a viewer shows: the orientation that cameras note in EXIF is applied to its pixels and to its size,
so annotations drawn in a viewer fit, and :func:`image_size` always agrees with :func:`read_image`.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import torch
import torchvision.io  # registers the operators that decode
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ignite_imgtools.formats import DataError

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "image_size", "read_image", "resolve_inside"]

MAX_PIXELS = 178_956_970
"""Largest image that is decoded, in pixels: where Pillow too takes an image for a decompression bomb (512 MiB)."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
"""Suffixes that are looked for where a list names images without, the most usual one first."""

# Formats read by Pillow. The list is closed because some of its readers start other programs (EPS: Ghostscript).
_PILLOW_FORMATS = ("BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP")
LONGEST_NAME = 1024  # of a path in annotations, in characters
_ORIENTATION = 0x0112  # tag of TIFF 6.0, used by EXIF
_TIFF_WIDTH, _TIFF_HEIGHT = 0x0100, 0x0101
_RGB = torchvision.io.ImageReadMode.RGB.value

Decoded = TypeVar("Decoded")


class Header(NamedTuple):
    """Height and width as they are stored, and the orientation 1 to 8 to show them in."""

    height: int
    width: int
    orientation: int

    def shown_size(self) -> tuple[int, int]:
        # Orientations 5 to 8 lay the image on its side.
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


class BadImage(Exception):
    """What is wrong with the content of a file."""


class _Window:
    """Bytes of a file at any offset, fetched a page at a time: one read is enough for most headers."""

    def __init__(self, file: BinaryIO):
        self.file, self._start, self._page = file, 0, file.read(4096)

    def __call__(self, offset: int, count: int) -> bytes:
        first = offset - self._start
        if first < 0 or first + count > len(self._page):
            self.file.seek(offset)
            self._start, self._page, first = offset, self.file.read(max(count, 4096)), 0
        piece = self._page[first : first + count]
        if len(piece) < count:
            raise BadImage("it ends inside its header")
        return piece


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Decode an image file.

    JPEG is decoded by torchvision, PNG, BMP, GIF (first frame), JPEG 2000, PPM, TIFF and WebP by Pillow. Grey and
    palette images become RGB, transparency is dropped, 16 bits a channel are scaled to 8 (of colours the upper 8 are
    taken), EXIF orientation is applied. Damage in the middle of a JPEG that libjpeg gets over is no error: it leaves a
    part of the picture grey or shifted. ``check --decode`` finds it.

    Returns:
        uint8 ``[3, H, W]``, RGB; in memory the three numbers of a pixel stand together, as decoders write them.

    Raises:
        DataError: the path is not a regular file, or the file is empty, no image, damaged, or larger than
            :data:`MAX_PIXELS`; names the file.
    """
    return decode_file(path, _DECODERS)


def decode_file(path: str | os.PathLike[str], decoders: Mapping[str, Callable[[BinaryIO, Header], Decoded]]) -> Decoded:
    """Decode an image file that was looked at first: a regular file, of a size that fits into memory.

    Args:
        decoders: for ``"JPEG"``, ``"PNG"`` and ``"other"`` files; called with the file and its header.

    Returns:
        What the decoder returns.

    Raises:
        DataError: as :func:`read_image`.
    """
    with _open_regular(path) as file:
        window = _Window(file)
        kind = _kind(window)
        try:
            header = _HEADERS[kind](window)
            pixels = header.height * header.width
            if pixels > MAX_PIXELS:
                raise BadImage(f"{header.width} x {header.height} is over the limit of {MAX_PIXELS:,} pixels")
            file.seek(0)
            return decoders[kind](file, header)
        except MemoryError:
            raise
        # Decoders fed with damaged bytes raise nearly anything (RuntimeError, SyntaxError, struct.error, ...).
        except Exception as error:
            raise _damaged(path, kind, window, error) from error


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Size of an image as :func:`read_image` returns it, read from the file's header without decoding.

    Returns:
        ``(height, width)`` in pixels.

    Raises:
        DataError: as :func:`read_image`; damage behind the header is not noticed.
    """
    with _open_regular(path) as file:
        window = _Window(file)
        kind = _kind(window)
        try:
            return _HEADERS[kind](window).shown_size()
        except Exception as error:
            raise _damaged(path, kind, window, error) from error


def resolve_inside(root: str | os.PathLike[str], name: str) -> Path:
    """Path of the file that an annotation calls ``name``, certainly inside the folder ``root``.

    The file need not exist. ``root`` itself may be reached through links.

    Raises:
        DataError: ``name`` is empty, absolute or longer than 1,024 characters, goes up by ``..``, or follows a link
            that leads out of ``root``.
    """
    if len(name) > LONGEST_NAME:
        raise DataError(f"file name {name[:60]!r}... has {len(name):,} characters; correct the annotation")
    if not name or "\0" in name or os.path.isabs(name) or os.path.splitdrive(name)[0]:  # noqa: PTH117
        raise DataError(f"file name {name!r}: expected a path relative to {root}; correct the annotation")
    if ".." in name and ".." in Path(name).parts:
        raise DataError(f"file name {name!r} goes up out of {root}; correct the annotation")
    inside = os.path.join(root, name)  # noqa: PTH118  # a Path costs ten times as much, for every image
    folder, last = os.path.split(inside)
    # Where folders really are is looked up once, where the file is for each: most are no links.
    real_root, real_file = _real_folder(os.fspath(root)), os.path.join(_real_folder(folder), last)  # noqa: PTH118
    if os.path.islink(inside) or not last:  # noqa: PTH114
        real_file = os.path.realpath(inside)
    if not real_file.startswith(real_root.rstrip(os.sep) + os.sep) and real_file != real_root:
        raise DataError(f"file name {name!r} follows a link out of {root}; copy the file into the folder")
    return Path(inside)


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    # Looked at before it is opened: to open a pipe waits for ever, to open some devices does things.
    try:
        status = os.stat(path)  # noqa: PTH116
        if stat.S_ISREG(status.st_mode) and status.st_size:
            return open(path, "rb", buffering=0)  # noqa: PTH123
    except FileNotFoundError:
        raise DataError(f"{path}: no such image file; correct the annotation or restore the file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: the image file cannot be opened: {reason}") from error
    if stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: the image file is empty; restore it or take it out of the data set")
    found = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
    raise DataError(f"{path}: expected an image file, it is {found}; correct the annotation")


def _kind(window: _Window) -> str:
    try:
        start = window(0, 8)
    except BadImage:
        return "other"
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "PNG" if start == b"\x89PNG\r\n\x1a\n" else "other"


def _damaged(path: str | os.PathLike[str], kind: str, window: _Window, error: Exception) -> DataError:
    reason = (str(error) or repr(error)).splitlines()[0]
    if ".cpp:" in reason:  # torchvision says first where in its source it is
        reason = reason.rsplit(".cpp:", 1)[1].split(", ", 1)[-1]
    if isinstance(error, UnidentifiedImageError):
        reason = "no known image format"
        kind = "other"
    known = "JPEG, PNG, " + ", ".join(_PILLOW_FORMATS)
    what = f"a {kind} image" if kind != "other" else f"an image ({known})"
    return DataError(f"{path}: cannot be read as {what}: {reason}; replace the file or take it out of the data set")


def jpeg_header(window: Callable[[int, int], bytes]) -> Header:
    """Size and orientation of a JPEG; ``window`` gives so many bytes at an offset, or raises :class:`BadImage`."""
    # ITU-T T.81 annex B: segments of a marker, a length and a payload; the size is in the frame header (SOFn).
    offset, orientation = 2, 1
    while True:
        prefix, marker, length = struct.unpack(">BBH", window(offset, 4))
        if prefix != 0xFF:
            raise BadImage(f"no marker at byte {offset}")
        if marker == 0xFF:  # fill byte
            offset += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", window(offset + 5, 4))
            if not height or not width:
                raise BadImage(f"its header says {width} x {height} pixels")
            return Header(height, width, orientation)
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a payload
            offset += 2
        elif marker in (0xD9, 0xDA):
            raise BadImage("no frame header before its data")
        else:
            if marker == 0xE1 and orientation == 1 and length >= 16 and window(offset + 4, 6) == b"Exif\0\0":
                orientation = _exif_orientation(window, offset + 10, length - 8)
            offset += 2 + length


def _png_header(window: _Window) -> Header:
    width, height = struct.unpack(">4xII", window(12, 12))
    if window(12, 4) != b"IHDR" or not width or not height:
        raise BadImage(f"its header says {width} x {height} pixels")
    offset = 8
    while True:
        length, name = struct.unpack(">I4s", window(offset, 8))
        if name == b"eXIf":
            return Header(height, width, _exif_orientation(window, offset + 8, length))
        if name in (b"IDAT", b"IEND"):
            return Header(height, width, 1)
        offset += 12 + length


def _exif_orientation(window: Callable[[int, int], bytes], start: int, length: int) -> int:
    """Orientation 1 to 8 noted in the first directory of a TIFF structure; 1 where there is none or it is broken."""
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(window(start, 4))
        if order is None:
            return 1
        (directory,) = struct.unpack(order + "I", window(start + 4, 4))
        if directory + 2 > length:
            return 1
        (entries,) = struct.unpack(order + "H", window(start + directory, 2))
        for entry in range(min(entries, (length - directory - 2) // 12)):
            tag, kind, value = struct.unpack(order + "HH4xH", window(start + directory + 2 + 12 * entry, 10))
            if tag == _ORIENTATION:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except BadImage:
        pass
    return 1


def _pillow_header(window: _Window) -> Header:
    window.file.seek(0)
    with Image.open(window.file, formats=_PILLOW_FORMATS) as image:
        width, height = image.size
        if image.format == "TIFF":
            # Newer Pillow reports the turned size, older the stored one; the tags have the stored one always.
            tags = image.tag_v2  # type: ignore[attr-defined]
            width, height = int(tags[_TIFF_WIDTH]), int(tags[_TIFF_HEIGHT])
            orientation = tags.get(_ORIENTATION, 1)
        else:
            orientation = image.getexif().get(_ORIENTATION, 1)
    return Header(height, width, orientation if orientation in range(1, 9) else 1)


def _decode_jpeg(file: BinaryIO, header: Header) -> Tensor:
    # torchvision 0.29 warns at each call of torchvision.io that the decoders will go; the operators below it do not.
    # Without them Pillow decodes the same pixels, in about twice the time.
    decode = getattr(torch.ops.image, "decode_jpeg", None)
    if decode is None:
        return _decode_by_pillow(file, header)
    encoded = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    return apply_orientation(decode(encoded, _RGB, False), header.orientation)


def _decode_by_pillow(file: BinaryIO, header: Header) -> Tensor:
    image, orientation, _ = load_by_pillow(file, header)
    return apply_orientation(_pillow_pixels(image), orientation)


def load_by_pillow(file: BinaryIO, header: Header) -> tuple[Image.Image, int, str]:
    """Decode with Pillow.

    Returns:
        The image (the first one of several), the orientation that it has yet to be turned by, and the name that
        Pillow has for the layout of the stored pixels.
    """
    image = Image.open(io.BytesIO(file.read()), formats=(*_PILLOW_FORMATS, "JPEG", "PNG"))
    tile = image.tile[0][3] if image.tile else ""
    layout = tile[0] if isinstance(tile, tuple) else tile
    image.load()
    turned = image.format == "TIFF" and not image.getexif().get(_ORIENTATION)  # newer Pillow turns these itself
    return image, 1 if turned else header.orientation, str(layout)


def _pillow_pixels(image: Image.Image) -> Tensor:
    if image.mode == "F":
        raise BadImage("floating point pixels have no known range, convert them to 8 bits")
    if image.mode.startswith("I"):  # more than 8 bits: Pillow's own conversion would saturate
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise BadImage("32-bit pixels have no known range, convert them to 8 bits")
        return torch.from_numpy(((values + 128) // 257).astype(np.uint8)).expand(3, -1, -1)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    image = image if image.mode == "RGB" else image.convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def apply_orientation(image: Tensor, orientation: int) -> Tensor:
    """Turn an image ``[C, H, W]`` as it is to be shown."""
    # Where row 0 and column 0 of the stored image lie when shown: EXIF 2.32, 4.6.4 A, tag Orientation.
    if orientation >= 5:
        image = image.transpose(1, 2)
    flips = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}.get(orientation)
    return image.flip(flips) if flips else image


_HEADERS: dict[str, Callable[[_Window], Header]] = {
    "JPEG": jpeg_header,
    "PNG": _png_header,
    "other": _pillow_header,
}
_DECODERS: dict[str, Callable[[BinaryIO, Header], Tensor]] = {
    "JPEG": _decode_jpeg,
    # torchvision 0.29 ends the process by a segmentation fault where a PNG has a single damaged bit.
    "PNG": _decode_by_pillow,
    "other": _decode_by_pillow,
}
