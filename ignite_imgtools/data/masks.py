"""Masks: images whose pixels are class numbers, or black and white.

They are read by Pillow, which unlike torchvision gives the numbers of palette images and not their colours, and with
the precautions of :mod:`ignite_imgtools.data.images`: a regular file of bounded size, turned as its EXIF says.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import BinaryIO, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ignite_imgtools.formats import DataError

from .faults import shown
from .images import BadImage, Header, apply_orientation, decode_file, load_by_pillow

__all__ = ["IGNORED", "THRESHOLD", "read_binary_mask", "read_label_mask", "read_mask"]

IGNORED = 255
"""Value in a target that is neither trained on nor evaluated."""

THRESHOLD = 128
"""Brightness of 255 from which on a pixel of a black and white mask belongs to the object."""


def read_mask(path: str | os.PathLike[str], kind: Literal["labels", "grey"] = "labels") -> Tensor:
    """Decode a mask.

    Args:
        path: a PNG, TIFF, GIF (first frame), BMP, WebP, PPM or JPEG 2000 file, or a JPEG if ``kind="grey"``.
        kind: ``"labels"``: the numbers that are stored: of a palette image its indices, of a grey one its values,
            not stretched to 255 where it has fewer than 8 bits. A colour image will do if its channels are equal. GIFs
            have to be grey: those who write them give new indices to the colours.
            ``"grey"``: the brightness 0 to 255 that a viewer shows; 16 bits are scaled to 8. Transparency is dropped.

    Returns:
        ``[H, W]``: uint8; of labels stored in more than 8 bits int32.

    Raises:
        DataError: the file cannot be read (see :func:`read_image`), or what is to be labels are colours, floating
            point numbers, or a file that does not keep numbers.
    """
    if kind not in ("labels", "grey"):
        raise ValueError(f"kind must be 'labels' or 'grey', got {kind!r}")
    if kind == "grey":
        return decode_file(path, dict.fromkeys(_KINDS, _decode_grey))
    values = decode_file(path, dict.fromkeys(_KINDS, _decode_labels))
    if values is None:
        raise DataError(
            f"{path}: neither JPEG nor GIF with colours keeps class numbers as they were; write masks as PNG, from the "
            "originals"
        )
    if values.ndim == 2:
        return values
    different = (values.numpy() != values.numpy()[:1]).any(0)
    if different.any():
        colour = tuple(values.numpy()[:, different][:, 0].tolist())
        raise DataError(
            f"{path}: class numbers: expected a palette or a grey image, got one of colours such as {colour}; "
            "replace each colour by its class number"
        )
    return values[0].contiguous()


# What follows stays in NumPy: torch would wake its threads for each of these small operations.


def read_label_mask(path: str | os.PathLike[str], num_classes: int, ignored: Collection[int] = ()) -> np.ndarray:
    """Read a mask of class numbers and check them.

    Args:
        num_classes: numbers from 0 to ``num_classes - 1`` are classes, at most 255 of them.
        ignored: numbers beside 255 that mean "ignored"; they become 255.

    Returns:
        int64 ``[H, W]``.

    Raises:
        DataError: the mask cannot be read, or has other numbers; names them.
    """
    values = read_mask(path).numpy()
    # One table tells for each number what it becomes, or that it is bad.
    table = np.full(257, -1, dtype=np.int64)
    table[:num_classes] = np.arange(num_classes)
    table[[IGNORED, *ignored]] = IGNORED
    labels = table.take(values if values.dtype == np.uint8 else np.minimum(values, 256))
    if labels.min() < 0:
        bad, counts = np.unique(values[labels < 0], return_counts=True)
        came = ", ".join(f"{value} ({count} pixels)" for value, count in zip(bad[:8], counts[:8], strict=True))
        also = " or ".join(str(value) for value in sorted({IGNORED, *ignored}))
        raise DataError(
            f"{path}: class numbers: expected 0 to {num_classes - 1}, or {also} where ignored, got {came}"
            f"{f' and {len(bad) - 8} more' if len(bad) > 8 else ''}; correct the mask or the list of classes"
        )
    return labels


def read_binary_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a black and white mask.

    Returns:
        bool ``[H, W]``: whether a pixel has at least half of the full brightness.

    Raises:
        DataError: the mask cannot be read, or is all but black because its numbers are 0 and 1.
    """
    brightness = read_mask(path, "grey").numpy()
    if brightness.max() == 1:
        raise DataError(
            f"{path}: brightness: expected 0 to 255, {THRESHOLD} and more for the object, got 0 and 1 alone; "
            "write 255 for 1"
        )
    found: np.ndarray = brightness >= THRESHOLD
    return found


_KINDS = ("JPEG", "PNG", "other")


def _decode_labels(file: BinaryIO, header: Header) -> Tensor | None:
    """Numbers ``[H, W]``, or colours ``[3, H, W]``; ``None`` for a file that does not keep numbers."""
    image, orientation, layout = load_by_pillow(file, header)
    if image.format == "GIF":
        red, green, blue = image.convert("RGB").split()
        if red.tobytes() == green.tobytes() == blue.tobytes():
            return _turned(np.asarray(red), orientation)
    if image.format in ("JPEG", "GIF"):
        return None
    if image.mode in ("L", "P", "1", "LA", "PA"):
        pixels = np.asarray(image).astype(np.uint8)
        pixels = pixels[..., 0] if pixels.ndim == 3 else pixels
        # Pillow stretches grey values of 2 and of 4 bits to 0..255.
        pixels = pixels // {"L;2": 85, "L;4": 17}.get(layout[:3], 1)
    elif image.mode.startswith("I"):
        pixels = _integers(image, np.iinfo(np.int32).max).astype(np.int32)
    elif image.mode == "F":
        raise BadImage(f"{shown(image.mode)} pixels are floating point numbers, which no class has")
    else:
        pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return _turned(pixels, orientation)


def _decode_grey(file: BinaryIO, header: Header) -> Tensor:
    image, orientation, _ = load_by_pillow(file, header)
    if image.mode == "F":
        raise BadImage("floating point pixels have no known range, convert them to 8 bits")
    if image.mode.startswith("I"):
        pixels = ((_integers(image, 0xFFFF) + 128) // 257).astype(np.uint8)
    else:
        # Through RGBA, since a palette may have transparent colours; what they look like counts.
        image = image.convert("RGBA") if image.mode in ("P", "PA") else image
        pixels = np.asarray(image.convert("L"))
    return _turned(pixels, orientation)


def _integers(image: Image.Image, largest: int) -> np.ndarray:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > largest:
        raise BadImage(f"expected pixels from 0 to {largest}, got {values.min()} to {values.max()}")
    return values


def _turned(pixels: np.ndarray, orientation: int) -> Tensor:
    image = torch.from_numpy(np.array(pixels))
    return apply_orientation(image[None], orientation)[0] if image.ndim == 2 else apply_orientation(image, orientation)
