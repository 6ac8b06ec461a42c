"""Masks of a data set's objects, as polygons or run lengths in flat arrays, and decoded to pixels when asked."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from .ragged import Ragged, pack_bytes, starts_of

__all__ = [
    "LONGEST_OUTLINE",
    "BadSegmentation",
    "SegmentationBuilder",
    "Segmentations",
    "rle_counts",
    "well_formed_segmentations",
]

LONGEST_OUTLINE = 2_000_000
"""Largest sum of the edges of a polygon, each by its larger side, in pixels."""


class BadSegmentation(ValueError):
    """A segmentation that is neither polygons nor run lengths; args: what was expected and what came."""


@dataclass(frozen=True, eq=False)
class Segmentations:
    """Segmentations of ``N`` objects.

    Args:
        polygons: one row for each polygon: x, y, x, y, ... in pixels (float64, as the file has them).
        polygon_starts: int64 ``[N + 1]``; object ``i`` has the polygons ``polygon_starts[i]:polygon_starts[i + 1]``.
        rle: one row for each object: COCO's compressed run lengths, empty where the object has polygons or nothing.
    """

    polygons: Ragged
    polygon_starts: np.ndarray
    rle: Ragged

    def __len__(self) -> int:
        return len(self.rle)

    def take(self, rows: np.ndarray) -> Segmentations:
        """The segmentations of these objects, in this order."""
        polygons = Ragged(np.arange(len(self.polygons)), self.polygon_starts).take(rows)
        return Segmentations(self.polygons.take(polygons.values), polygons.starts, self.rle.take(rows))

    def has_mask(self, index: int) -> bool:
        """Whether there are polygons or run lengths of object ``index``."""
        return bool(len(self.rle[index]) or self.polygon_starts[index] < self.polygon_starts[index + 1])

    def in_coco_format(self, index: int, height: int, width: int) -> list[list[float]] | dict[str, Any] | None:
        """Polygons, run lengths ``{"size", "counts"}`` with compressed counts, or ``None`` where there is nothing."""
        if len(counts := self.rle[index]):
            return {"size": [height, width], "counts": counts.tobytes().decode("ascii")}
        rows = range(self.polygon_starts[index], self.polygon_starts[index + 1])
        return [self.polygons[row].tolist() for row in rows] or None

    def mask(self, index: int, height: int, width: int) -> np.ndarray:
        """Pixels of object ``index``, as pycocotools rasters them: uint8 ``[height, width]`` of 0 and 1."""
        counts = self.rle[index].tobytes()
        rows = range(self.polygon_starts[index], self.polygon_starts[index + 1])
        if rows:
            from pycocotools import mask as mask_utils

            polygons = mask_utils.frPyObjects([self.polygons[row] for row in rows], height, width)
            counts = mask_utils.merge(polygons)["counts"]
        if not counts:
            return np.zeros((height, width), dtype=np.uint8)
        runs = rle_counts(counts)
        # Runs go down the columns and alternate, the first one outside.
        return np.repeat((np.arange(len(runs)) % 2).astype(np.uint8), runs).reshape(width, height).T

    def reach(self) -> np.ndarray:
        """Largest coordinate without its sign of each object's polygons, 0 where it has none: float64 ``[N]``."""
        value_starts = self.polygons.starts[self.polygon_starts]
        reach = np.zeros(len(self))
        filled = value_starts[1:] > value_starts[:-1]
        if filled.any():
            starts = value_starts[:-1][filled]
            highest, lowest = (ufunc.reduceat(self.polygons.values, starts) for ufunc in (np.maximum, np.minimum))
            reach[filled] = np.maximum(highest, -lowest)
        return reach

    def endless(self, reach: np.ndarray) -> np.ndarray:
        """Whether an outline of each object is longer than any of an image is: bool ``[N]``; ``reach`` is that of
        :meth:`reach`.

        To raster one takes memory by its length, which pycocotools counts in 32 bits: beyond, it takes too little.
        """
        owners = np.repeat(np.arange(len(self)), np.diff(self.polygon_starts))
        endless = np.zeros(len(self), dtype=bool)
        with np.errstate(over="ignore", invalid="ignore"):
            # No edge is longer than twice the reach: that clears nearly all of them.
            longest = np.diff(self.polygons.starts) * reach[owners]
            for row in np.flatnonzero(longest > LONGEST_OUTLINE).tolist():
                points = self.polygons[row].reshape(-1, 2)
                length = np.abs(points - np.roll(points, -1, axis=0)).max(axis=1).sum()
                endless[owners[row]] |= not length <= LONGEST_OUTLINE
        return endless


def well_formed_segmentations(found: list[Any], sizes: list[list[int]]) -> Segmentations | None:
    """What :class:`SegmentationBuilder` makes of them, in a fraction of the time; ``None`` where any is malformed.

    Args:
        found: segmentations as they stand in a COCO file, one for each object.
        sizes: height and width of the image of each.
    """
    lists = [entry if type(entry) is list else () for entry in found]
    polygons = list(chain.from_iterable(lists))
    if set(map(type, polygons)) - {list}:
        return None
    lengths = np.fromiter(map(len, polygons), np.int64, len(polygons))
    if (lengths < 6).any() or (lengths % 2).any():
        return None
    values = array("d")
    try:
        for polygon in polygons:
            values.fromlist(polygon)  # twice as fast as extend
        counts = [
            b"" if not entry or type(entry) is list else _compressed(entry, *size)
            for entry, size in zip(found, sizes, strict=True)
        ]
    except (TypeError, OverflowError, BadSegmentation):
        return None
    owned = np.fromiter(map(len, lists), np.int64, len(lists))
    flat = Ragged(np.frombuffer(values, np.float64), starts_of(lengths))
    return Segmentations(flat, starts_of(owned), pack_bytes(counts))


class SegmentationBuilder:
    """Collects segmentations as they stand in a COCO file, one call of :meth:`add` for each object."""

    def __init__(self) -> None:
        self._values = array("d")
        self._value_starts = array("q", [0])
        self._polygon_starts = array("q", [0])
        self._counts: list[bytes] = []

    def add(self, segmentation: Any, height: int, width: int) -> None:
        """Add the next object's segmentation: polygons, run lengths, or ``None`` or ``[]`` for nothing.

        Raises:
            BadSegmentation: it is malformed; nothing was added for it, add something else in its place.
        """
        if not segmentation:
            self._finish(b"")
        elif type(segmentation) is list:
            values, polygons = len(self._values), len(self._value_starts)
            try:
                for polygon in segmentation:
                    self._add_polygon(polygon)
            except BadSegmentation:
                del self._values[values:], self._value_starts[polygons:]
                raise
            self._finish(b"")
        else:
            self._finish(_compressed(segmentation, height, width))

    def build(self) -> Segmentations:
        polygons = Ragged(np.array(self._values, np.float64), np.array(self._value_starts, np.int64))
        return Segmentations(polygons, np.array(self._polygon_starts, np.int64), pack_bytes(self._counts))

    def _finish(self, counts: bytes) -> None:
        self._polygon_starts.append(len(self._value_starts) - 1)
        self._counts.append(counts)

    def _add_polygon(self, polygon: Any) -> None:
        expected = "polygons of at least 3 points x, y"
        # pycocotools takes 4 numbers for a box, and an odd number for a polygon with garbage at its end.
        if type(polygon) is not list or len(polygon) < 6 or len(polygon) % 2:
            came = f"one of {len(polygon)} numbers" if type(polygon) is list else type(polygon).__name__
            raise BadSegmentation(expected, came)
        try:
            self._values.extend(polygon)
        except (TypeError, OverflowError):
            raise BadSegmentation(expected, "something that is not a number") from None
        self._value_starts.append(len(self._values))


def rle_counts(compressed: bytes) -> np.ndarray:
    """Run lengths in COCO's compressed form, as numbers.

    The form is that of pycocotools' ``rleToString``: base 32 digits from the least significant one, one for each
    character; from the fourth number on, the difference to the number two places before.

    Raises:
        ValueError: the bytes are not such a string.
    """
    digits = np.frombuffer(compressed, np.uint8).astype(np.int64) - 48
    if len(digits) == 0 or digits.min() < 0 or digits.max() > 63 or digits[-1] & 0x20:
        raise ValueError("not compressed run lengths")
    last = (digits & 0x20) == 0
    starts = np.flatnonzero(np.concatenate(([True], last[:-1])))
    place = np.arange(len(digits)) - np.repeat(starts, np.diff(np.append(starts, len(digits))))
    if place.max() > 6:  # beyond 35 bits no image has such runs
        raise ValueError("not compressed run lengths")
    numbers = np.add.reduceat((digits & 0x1F) << (5 * place), starts)
    negative = (digits[last] & 0x10) != 0
    numbers[negative] -= 1 << (5 * (place[last][negative] + 1))
    # Undo the differences: counted from 0, numbers 1, 3, 5, ... and 2, 4, 6, ... are two running sums.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _compressed(segmentation: Any, height: int, width: int) -> bytes:
    """Run lengths, compressed or not, as compressed ones; checked, since pycocotools trusts what it decodes."""
    expected = f"polygons, or run lengths of a {height} x {width} image as size and counts"
    if type(segmentation) is not dict or "counts" not in segmentation or "size" not in segmentation:
        raise BadSegmentation(expected, type(segmentation).__name__)
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width]:
        raise BadSegmentation(expected, f"size {size!r:.40}")
    try:
        if isinstance(counts, str):
            compressed = counts.encode("ascii")
            runs = rle_counts(compressed)
        else:
            runs = np.array(array("q", counts), np.int64)
            compressed = b""
    except (ValueError, TypeError, OverflowError):
        raise BadSegmentation(expected, "counts that are no run lengths") from None
    if len(runs) == 0 or runs.min() < 0 or runs.max() > height * width or runs.sum() != height * width:
        raise BadSegmentation(expected, f"runs of {runs.sum()} pixels")
    if not compressed:
        from pycocotools import mask as mask_utils

        compressed = mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    return compressed
