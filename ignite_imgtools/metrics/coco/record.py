"""What is kept of matched detections: compact columns that processes can exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.floats import compact_floats, join_double, split_double

__all__ = ["Record", "concatenate", "one_of_each_image", "sort_by_image"]


@dataclass(frozen=True)
class Record:
    """Matched detections of ``I`` images: ``N`` of them, ``D`` of which match anything.

    Attributes:
        images: int32 ``[I]``, positions in the ground truth's ``image_ids``.
        counts: int32 ``[I]``, detections of each image.
        category: unsigned ``[N]``, positions in ``category_ids``; 0 where categories are pooled. Detections come
            image by image, then by category, then by falling score.
        scores: float32, or float64 where that is needed, ``[N]``.
        outside: uint8 ``[N, ceil(A / 8)]``, a bit for each area range in which the detection is ignored if it matches
            nothing.
        matched: bool ``[N]``, whether it matches anything.
        flags: uint8 ``[D, ceil(2 * A * T / 8)]``, the bits ``[2, A, T]`` of :func:`~.matching.match`.
    """

    images: NDArray[np.int32]
    counts: NDArray[np.int32]
    category: NDArray[Any]
    scores: NDArray[Any]
    outside: NDArray[np.uint8]
    matched: NDArray[np.bool_]
    flags: NDArray[np.uint8]

    @classmethod
    def empty(cls, areas: int, thresholds: int, category_dtype: np.dtype[Any]) -> Record:
        """The record of no image."""
        return cls(
            images=np.zeros(0, dtype=np.int32),
            counts=np.zeros(0, dtype=np.int32),
            category=np.zeros(0, dtype=category_dtype),
            scores=np.zeros(0, dtype=np.float32),
            outside=np.zeros((0, -(-areas // 8)), dtype=np.uint8),
            matched=np.zeros(0, dtype=bool),
            flags=np.zeros((0, -(-2 * areas * thresholds // 8)), dtype=np.uint8),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The columns as arrays whose dtypes do not depend on the data, for :func:`Record.from_arrays`."""
        return {
            "images": self.images,
            "counts": self.counts,
            "category": self.category,
            **split_double("scores", self.scores),
            "outside": self.outside,
            "matched": np.packbits(self.matched),
            "flags": self.flags,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Record:
        """The inverse of :meth:`to_arrays`."""
        count = len(arrays["category"])
        return cls(
            images=arrays["images"],
            counts=arrays["counts"],
            category=arrays["category"],
            scores=join_double("scores", arrays),
            outside=arrays["outside"],
            matched=np.unpackbits(arrays["matched"], count=count).astype(bool),
            flags=arrays["flags"],
        )


def concatenate(records: Sequence[Record]) -> Record:
    """One record of several, of at least one."""
    if len(records) == 1:
        return records[0]
    # float32 and float64 columns concatenate to float64, exactly.
    columns = {name: np.concatenate([getattr(record, name) for record in records]) for name in _COLUMNS}
    columns["scores"] = compact_floats(columns["scores"])
    return Record(**columns)


_COLUMNS = ("images", "counts", "category", "scores", "outside", "matched", "flags")


def one_of_each_image(record: Record) -> Record:
    """The record with each image once, as it came first."""
    _, first = np.unique(record.images, return_index=True)
    if len(first) == len(record.images):
        return record
    return _take_images(record, np.sort(first))


def sort_by_image(record: Record) -> Record:
    """The record with its images in ascending order, so that equal scores stand as the reference has them."""
    if (record.images[1:] > record.images[:-1]).all():
        return record
    return _take_images(record, np.argsort(record.images, kind="stable"))


def _take_images(record: Record, order: NDArray[np.int64]) -> Record:
    counts = record.counts.astype(np.int64)
    starts = np.cumsum(counts) - counts
    taken = counts[order]
    ends = np.cumsum(taken)
    rows = np.arange(taken.sum()) + np.repeat(starts[order] - ends + taken, taken)
    matched = record.matched[rows]
    flag_rows = (np.cumsum(record.matched) - 1)[rows[matched]]
    return Record(
        images=record.images[order],
        counts=record.counts[order],
        category=record.category[rows],
        scores=record.scores[rows],
        outside=record.outside[rows],
        matched=matched,
        flags=record.flags[flag_rows],
    )
