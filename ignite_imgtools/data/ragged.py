"""Rows of different lengths in one flat array.

A list of Python objects that worker processes read is copied page by page, since each reader counts its references;
flat arrays stay shared between the workers for the whole training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Ragged", "pack_bytes", "starts_of"]

_PIECE = 16_384


@dataclass(frozen=True, eq=False)
class Ragged:
    """``N`` rows of different lengths.

    Args:
        values: all rows, one after the other.
        starts: int64 ``[N + 1]``; row ``i`` is ``values[starts[i]:starts[i + 1]]``.
    """

    values: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.starts[index] : self.starts[index + 1]]

    def take(self, rows: np.ndarray) -> Ragged:
        """The rows of these indices, in this order."""
        in_pairs = not (len(self.values) % 2 or (self.starts % 2).any())
        if in_pairs and len(self.values) and self.values.dtype == np.float64 and self.values.flags.c_contiguous:
            # Points x, y: as complex numbers they are half as many.
            points = Ragged(self.values.view(np.complex128), self.starts // 2).take(rows)
            return Ragged(points.values.view(np.float64), points.starts * 2)
        first, lengths = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        starts = starts_of(lengths)
        values = np.empty(starts[-1], self.values.dtype)
        # In pieces, whose indices fit into the processor's cache: in one go they are a multiple of the values.
        for begin in range(0, len(rows), _PIECE):
            piece = slice(begin, begin + _PIECE)
            low, high = starts[begin], starts[min(begin + _PIECE, len(rows))]
            shift = np.repeat(first[piece] - starts[:-1][piece], lengths[piece])
            # All are inside; to be told so saves NumPy a copy.
            np.take(self.values, shift + np.arange(low, high), out=values[low:high], mode="clip")
        return Ragged(values, starts)


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Where rows of these lengths start, and where the last one ends."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def pack_bytes(rows: Sequence[bytes]) -> Ragged:
    """Byte strings as rows of uint8."""
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    return Ragged(np.frombuffer(b"".join(rows), dtype=np.uint8), starts_of(lengths))
