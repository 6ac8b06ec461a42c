"""Masks as packed bits: eight pixels in a byte, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["PackedRows", "intersection", "pack", "pixel_counts", "rows_of_runs", "rows_spanned", "unpack"]

# Masks are compared with the threshold a few at a time, so that the copy stays small and in the cache.
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class PackedRows:
    """The rows of one mask that are not empty.

    Attributes:
        top: the first of the rows.
        bits: uint8 ``[rows, ceil(W / 8)]``.
    """

    top: int
    bits: NDArray[np.uint8]


def pack(masks: Tensor) -> Tensor:
    """Packed bits of masks, on their device; the device is not waited for.

    Args:
        masks: ``[N, H, W]`` or ``[N, 1, H, W]``; floating point masks are probabilities, set where above 0.5, others
            are set where not 0.

    Returns:
        uint8 ``[N, H, ceil(W / 8)]``, the first pixel in the highest bit.
    """
    masks = masks.detach().flatten(0, -3)
    count, height, width = masks.shape
    packed = torch.empty((count, height, -(-width // 8)), dtype=torch.uint8, device=masks.device)
    block = max(1, _BLOCK_BYTES // max(1, height * width))
    for start in range(0, count, block):
        part = masks[start : start + block]
        if part.dtype != torch.bool:
            part = part > 0.5 if part.is_floating_point() else part != 0
        packed[start : start + block] = _pack_host(part) if part.device.type == "cpu" else _pack_device(part)
    return packed


def _pack_host(masks: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(masks.numpy(), axis=-1))


def _pack_device(masks: Tensor) -> Tensor:
    width = masks.shape[-1]
    bytes_ = torch.nn.functional.pad(masks.to(torch.uint8), (0, -width % 8)).unflatten(-1, (-1, 8))
    return (bytes_ << torch.arange(7, -1, -1, dtype=torch.uint8, device=masks.device)).sum(dim=-1, dtype=torch.uint8)


def unpack(packed: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """The inverse of :func:`pack`: bool ``[N, H, W]``."""
    return np.unpackbits(packed, axis=-1, count=width).view(bool)


def pixel_counts(packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many bits are set in each mask of ``[N, H, B]``: int64 ``[N]``."""
    return _bit_counts(_words(packed)).sum(axis=1, dtype=np.int64)


def rows_spanned(packed: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows outside which each mask of ``[N, H, B]`` is empty: first and last (exclusive), two int64 ``[N]``.

    They may reach a little further than the mask; of an empty mask they are any rows.
    """
    row_bytes = packed.shape[2]
    words = _words(packed)
    some = words != 0
    first = some.argmax(axis=1) * words.itemsize
    last = (words.shape[1] - some[:, ::-1].argmax(axis=1)) * words.itemsize
    return first // row_bytes, -(-last // row_bytes)


def rows_of_runs(starts: NDArray[np.int64], ends: NDArray[np.int64], height: int, width: int) -> PackedRows:
    """Packed bits of a mask given by its runs of ones, column by column.

    Args:
        starts, ends: int64 ``[r]`` ascending, where the runs start and end (exclusive); at least one.
        height, width: of the image.
    """
    left, right = int(starts[0]) // height, int(ends[-1] - 1) // height + 1
    first_row, last_row = starts % height, (ends - 1) % height
    top, bottom = int(first_row.min()), int(last_row.max()) + 1
    if (ends - starts > last_row - first_row + 1).any():  # a run goes on in the next column
        top, bottom = 0, height
    # The mask is the running sum of +1 where a run starts and -1 where it ends.
    steps = np.zeros((right - left) * height + 1, dtype=np.int8)
    steps[starts - left * height] += 1
    steps[ends - left * height] -= 1
    columns = np.cumsum(steps[:-1], dtype=np.int8).view(bool).reshape(right - left, height)
    rows = np.zeros((bottom - top, width), dtype=bool)
    rows[:, left:right] = columns[:, top:bottom].T
    return PackedRows(top, np.packbits(rows, axis=1))


def intersection(mask: NDArray[np.uint8], top: int, bottom: int, other: PackedRows) -> int:
    """Pixels set in both: a mask ``[H, B]``, empty but for its rows ``top`` to ``bottom``, and another."""
    top, bottom = max(top, other.top), min(bottom, other.top + len(other.bits))
    if bottom <= top:
        return 0
    both = mask[top:bottom] & other.bits[top - other.top : bottom - other.top]
    return int(_bit_counts(_words(both[None])).sum(dtype=np.int64))


def _words(packed: NDArray[np.uint8]) -> NDArray[Any]:
    """Masks ``[N, H, B]`` as ``[N, words]`` of the largest unsigned integers that fit."""
    flat = packed.reshape(len(packed), packed.shape[1] * packed.shape[2])
    for dtype in (np.uint64, np.uint32, np.uint16):
        if flat.shape[1] % np.dtype(dtype).itemsize == 0:
            return np.ascontiguousarray(flat).view(dtype)
    return flat


_BITS_OF_BYTE = np.array([bin(number).count("1") for number in range(256)], dtype=np.uint8)


def _counted_by_table(words: NDArray[Any]) -> NDArray[np.uint8]:
    return _BITS_OF_BYTE[words.view(np.uint8)]


# NumPy 1 has no bitwise_count.
_bit_counts = getattr(np, "bitwise_count", _counted_by_table)
