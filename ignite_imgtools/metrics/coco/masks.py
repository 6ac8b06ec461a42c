"""Overlaps of masks, given as bitmaps or as run lengths, with annotated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco import bitmaps, run_lengths
from ignite_imgtools.metrics.coco.candidates import starts_of
from ignite_imgtools.metrics.coco.ground_truth import GroundTruth
from ignite_imgtools.metrics.coco.run_lengths import RunLengths, Runs

__all__ = ["ImageMasks", "MaskPairs", "PackedMasks", "RunLengthMasks", "TruthMasks"]


class TruthMasks:
    """The masks of annotations, rasterised when first needed and kept as run lengths.

    Args:
        truth: the annotations; each needs a ``segmentation`` and its image a height and a width.
    """

    def __init__(self, truth: GroundTruth):
        self._truth = truth
        self._run_lengths: list[RunLengths | None] = [None] * len(truth)

    def run_lengths(self, row: int) -> RunLengths:
        """Run lengths of the annotation at ``row``.

        Raises:
            DataError: its segmentation is none.
        """
        known = self._run_lengths[row]
        if known is None:
            annotation = self._truth.annotations[row]
            known = run_lengths.compressed(
                annotation.get("segmentation"),
                *self._truth.image_size(int(self._truth.image[row])),
                where=f"annotation {annotation['id']}",
            )
            self._run_lengths[row] = known
        return known


@dataclass(frozen=True)
class MaskPairs:
    """Pairs of detections and annotations of one image.

    Attributes:
        rows, truth_rows: int64 ``[P]``: the detection, and the annotation in ``truth``. Detections of a group follow
            each other in the order of their scores, each with all annotations of the group in rising order.
        truth: the annotated masks, ``G`` of them.
        crowd: bool ``[G]``.
    """

    rows: NDArray[np.int64]
    truth_rows: NDArray[np.int64]
    truth: Sequence[RunLengths]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True)
class PackedMasks:
    """Masks of the detections of one image as packed bits ``[N, H, ceil(W / 8)]``, and their width."""

    bits: NDArray[np.uint8]
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bits.shape[1], self.width

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each mask, int64 ``[N]``."""
        return bitmaps.pixel_counts(self.bits)

    def to_run_lengths(self) -> list[RunLengths]:
        """Run lengths of each mask."""
        return run_lengths.encode(bitmaps.unpack(self.bits, self.width))

    def overlaps(self, pairs: MaskPairs, lowest: float) -> NDArray[np.float64]:
        """The overlap of each pair, float64 ``[P]``; of one below ``lowest`` any number below it.

        Args:
            pairs: with annotated masks.
            lowest: the overlap that matters.
        """
        counts = run_lengths.decode_counts([truth["counts"] for truth in pairs.truth])
        runs = [run_lengths.foreground(own) for own in counts]
        own = self.areas[pairs.rows]
        other = np.array([(ends - starts).sum() for starts, ends in runs], dtype=np.int64)[pairs.truth_rows]
        crowd = pairs.crowd[pairs.truth_rows]
        # No more can be shared than the smaller of two masks.
        union = np.where(crowd, own, np.maximum(own, other))
        smaller = np.minimum(own, other)
        promising = np.flatnonzero((smaller > 0) & (smaller / np.maximum(union, 1) >= lowest))
        shared = np.zeros(len(own), dtype=np.int64)
        shared[promising] = self._shared(pairs.rows[promising], pairs.truth_rows[promising], runs)
        union = np.where(crowd, own, own + other - shared)
        return shared / np.where(shared > 0, union, 1)

    def _shared(self, rows: NDArray[np.int64], truth_rows: NDArray[np.int64], runs: list[Runs]) -> list[int]:
        """Pixels in common of each pair."""
        if not len(rows):
            return []
        chosen, place = np.unique(rows, return_inverse=True)
        tops, bottoms = (side[place].tolist() for side in bitmaps.rows_spanned(self.bits[chosen]))
        packed: dict[int, bitmaps.PackedRows] = {}
        shared = []
        for row, other, top, bottom in zip(rows.tolist(), truth_rows.tolist(), tops, bottoms, strict=True):
            if other not in packed:
                starts, ends = runs[other]
                packed[other] = bitmaps.rows_of_runs(starts, ends, *self.size)
            shared.append(bitmaps.intersection(self.bits[row], top, bottom, packed[other]))
        return shared


@dataclass(frozen=True)
class RunLengthMasks:
    """Masks of the detections of one image as run lengths."""

    run_lengths: Sequence[RunLengths]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.run_lengths[0]["size"]
        return height, width

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each mask, int64 ``[N]``."""
        return run_lengths.areas(self.run_lengths)

    def to_run_lengths(self) -> list[RunLengths]:
        """Run lengths of each mask."""
        return list(self.run_lengths)

    def overlaps(self, pairs: MaskPairs, lowest: float) -> NDArray[np.float64]:
        """The overlap of each pair, as :meth:`PackedMasks.overlaps`."""
        from pycocotools import mask as coco_mask

        # Detections of a group all pair with the same annotations, one after the other.
        heads = np.flatnonzero(starts_of(pairs.rows))
        groups = heads[starts_of(pairs.truth_rows[heads])].tolist()
        result = []
        for start, end in pairwise([*groups, len(pairs.rows)]):
            rows = pairs.rows[start:end][starts_of(pairs.rows[start:end])]
            truth_rows = pairs.truth_rows[start : start + (end - start) // len(rows)]
            table = coco_mask.iou(
                [self.run_lengths[row] for row in rows.tolist()],
                [pairs.truth[row] for row in truth_rows.tolist()],
                pairs.crowd[truth_rows].astype(np.uint8),
            )
            result.append(table.ravel())
        return np.concatenate(result)


ImageMasks = PackedMasks | RunLengthMasks
"""Masks of the detections of one image."""
