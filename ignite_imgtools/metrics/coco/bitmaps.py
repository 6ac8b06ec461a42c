"""Masks as packed bits: eight pixels in a byte, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ignite_imgtools.metrics.coco.candidates import starts_of
from ignite_imgtools.metrics.coco.run_lengths import Runs

__all__ = ["PackedCrop", "crops_of_runs", "intersections", "pack", "pixel_counts", "unpack"]

# Masks are compared with the threshold a few at a time, so that the copy stays small and in the cache.
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class PackedCrop:
    """The part of a mask that is not empty.

    Attributes:
        top: its first row.
        left: its first byte in each row.
        bits: uint8 ``[rows, bytes]``.
    """

    top: int
    left: int
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
    on_host = masks.device.type == "cpu"
    if on_host and masks.dtype in (torch.bool, torch.uint8):
        return torch.from_numpy(_pack_host(masks.numpy()))
    count, height, width = masks.shape
    packed = torch.empty((count, height, -(-width // 8)), dtype=torch.uint8, device=masks.device)
    block = max(1, _BLOCK_BYTES // max(1, height * width))
    for start in range(0, count, block):
        part = masks[start : start + block]
        if on_host and part.dtype in (torch.float32, torch.float64):  # NumPy compares several times faster
            packed[start : start + block] = torch.from_numpy(_pack_host(np.greater(part.numpy(), 0.5)))
            continue
        part = part > 0.5 if part.is_floating_point() else part != 0
        packed[start : start + block] = torch.from_numpy(_pack_host(part.numpy())) if on_host else _pack_device(part)
    return packed


def _pack_host(masks: NDArray[Any]) -> NDArray[np.uint8]:
    count, height, width = masks.shape
    if width % 8 == 0 and masks.flags.c_contiguous:  # one long row is packed faster
        return np.packbits(masks.reshape(-1)).reshape(count, height, width // 8)
    return np.packbits(masks, axis=2)


def _pack_device(masks: Tensor) -> Tensor:
    width = masks.shape[-1]
    bytes_ = torch.nn.functional.pad(masks.to(torch.uint8), (0, -width % 8)).unflatten(-1, (-1, 8))
    return (bytes_ << torch.arange(7, -1, -1, dtype=torch.uint8, device=masks.device)).sum(dim=-1, dtype=torch.uint8)


def unpack(packed: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """The inverse of :func:`pack`: bool ``[N, H, W]``."""
    return np.unpackbits(packed, axis=-1, count=width).view(bool)


def pixel_counts(packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many bits are set in each mask of ``[N, H, B]``: int64 ``[N]``."""
    return _sum_of_counts(packed)


def crops_of_runs(runs: Runs, heights: NDArray[np.int64], widths: NDArray[np.int64]) -> dict[int, PackedCrop]:
    """Packed bits of masks given by their runs of ones, by the number of the mask; of those that have any.

    Args:
        runs: of ``n`` masks.
        heights, widths: int64 ``[n]``, of the image of each.
    """
    if not len(runs.mask):
        return {}
    mask, column, first_row, last_row = _cut_at_columns(runs, heights[runs.mask])
    heads = np.flatnonzero(starts_of(mask))
    ends = np.append(heads[1:], len(mask))
    tops, bottoms = np.minimum.reduceat(first_row, heads), np.maximum.reduceat(last_row, heads) + 1
    left, width = _byte_spans(column[heads], column[ends - 1], -(-widths[mask[heads]] // 8))
    # A row more than the crop has: a run that touches the last row ends after it.
    stops = np.cumsum(width * (bottoms - tops + 1))
    runs_each = ends - heads
    first_byte, row_bytes = np.repeat(stops - width * (bottoms + 1), runs_each), np.repeat(width, runs_each)
    first_byte += column // 8 - np.repeat(left, runs_each)
    bit = np.right_shift(np.uint8(128), (column % 8).astype(np.uint8))
    # A bit is set where a run begins and where one has ended; no two begin, or end, at the same pixel.
    changes, ended = np.zeros((2, stops[-1]), dtype=np.uint8)
    np.add.at(changes, first_byte + row_bytes * first_row, bit)
    np.add.at(ended, first_byte + row_bytes * (last_row + 1), bit)
    changes ^= ended

    crops = {}
    table = np.stack([mask[heads], stops, bottoms - tops, width, tops, left], axis=1)
    for number, stop, height, bytes_, top, left_byte in table.tolist():
        bits = changes[stop - (height + 1) * bytes_ : stop - bytes_].reshape(height, bytes_)
        word = bits.view(np.uint64) if bytes_ % 8 == 0 else bits
        np.bitwise_xor.accumulate(word, axis=0, out=word)
        crops[number] = PackedCrop(top, left_byte, bits)
    return crops


def _byte_spans(
    first_column: NDArray[np.int64], last_column: NDArray[np.int64], row_bytes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First byte and number of bytes that hold the columns; a multiple of eight where the row is long enough."""
    left, right = first_column // 8, last_column // 8 + 1
    width = -(-(right - left) // 8) * 8
    fits = width <= row_bytes
    return np.where(fits, np.minimum(left, row_bytes - width), left), np.where(fits, width, right - left)


def _cut_at_columns(
    runs: Runs, height: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Runs, cut where they go on in the next column: the mask, the column, the first and the last row of each."""
    column, first_row = np.divmod(runs.starts, height)
    last_column, last_row = np.divmod(runs.ends - 1, height)
    parts = last_column - column + 1
    if (parts == 1).all():
        return runs.mask, column, first_row, last_row
    ends = np.cumsum(parts)
    columns = np.arange(ends[-1]) + np.repeat(column - ends + parts, parts)
    first, last = np.zeros(ends[-1], dtype=np.int64), np.repeat(height - 1, parts)
    first[ends - parts], last[ends - 1] = first_row, last_row
    return np.repeat(runs.mask, parts), columns, first, last


def intersections(packed: NDArray[np.uint8], rows: NDArray[np.int64], other: PackedCrop) -> NDArray[np.int64]:
    """Pixels that some of the masks ``[N, H, B]``, those in ``rows`` ``[n]``, share with another: int64 ``[n]``."""
    height, width = other.bits.shape
    both = packed[rows, other.top : other.top + height, other.left : other.left + width]
    both &= other.bits
    return _sum_of_counts(both)


def _sum_of_counts(packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    # Less time than sum() with a wider dtype; the bits of a mask are fewer than 2^32.
    return np.einsum("ij->i", _bit_counts(_words(packed)), dtype=np.uint32, casting="unsafe").astype(np.int64)


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
