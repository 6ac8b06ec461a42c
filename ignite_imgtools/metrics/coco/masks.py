"""Overlaps of masks, given as bitmaps or as run lengths, with annotated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco import bitmaps, run_lengths
from ignite_imgtools.metrics.coco.bitmaps import PackedCrop
from ignite_imgtools.metrics.coco.candidates import starts_of
from ignite_imgtools.metrics.coco.ground_truth import GroundTruth
from ignite_imgtools.metrics.coco.ordering import number_among
from ignite_imgtools.metrics.coco.run_lengths import RunLengths

__all__ = ["ImageMasks", "PackedMasks", "RunLengthMasks", "TruthMasks"]


class TruthMasks:
    """The masks of annotations, rasterised when first needed and kept as run lengths.

    Args:
        truth: the annotations; each needs a ``segmentation`` and its image a height and a width.

    Attributes:
        areas: int64 ``[G]``, their pixels; -1 of those that were not needed yet.
    """

    def __init__(self, truth: GroundTruth):
        self._truth = truth
        self._run_lengths: dict[int, RunLengths] = {}
        self.areas = np.full(len(truth), -1, dtype=np.int64)

    def __getitem__(self, row: int) -> RunLengths:
        """Run lengths of the annotation at ``row``, one of those given to :meth:`rasterise`."""
        return self._run_lengths[row]

    def rasterise(self, rows: NDArray[np.int64]) -> None:
        """Make the masks of the annotations at ``rows``, in any order and any number of times.

        Raises:
            DataError: a segmentation is none.
        """
        rows, _ = number_among(rows[self.areas[rows] < 0], len(self._truth))
        images = np.flatnonzero(starts_of(self._truth.image[rows])).tolist()
        for start, end in pairwise([*images, len(rows)]):
            own = rows[start:end].tolist()
            segmentations = [self._truth.annotations[row].get("segmentation") for row in own]
            names = [f"annotation {self._truth.annotations[row]['id']}" for row in own]
            size = self._truth.image_size(int(self._truth.image[own[0]]))
            self._run_lengths |= zip(own, run_lengths.compressed_all(segmentations, *size, names), strict=True)
        self.areas[rows] = run_lengths.areas([self._run_lengths[row] for row in rows.tolist()])

    def crops(self, rows: NDArray[np.int64]) -> dict[int, PackedCrop]:
        """Packed bits of the annotations at ``rows``, each once, by row; of those that are not empty."""
        runs = run_lengths.runs_of([self._run_lengths[row] for row in rows.tolist()])
        images, place = np.unique(self._truth.image[rows], return_inverse=True)
        sizes = np.array([self._truth.image_size(index) for index in images.tolist()], dtype=np.int64).reshape(-1, 2)
        crops = bitmaps.crops_of_runs(runs, sizes[place, 0], sizes[place, 1])
        return {int(rows[number]): crop for number, crop in crops.items()}


@dataclass(frozen=True)
class PackedMasks:
    """Masks of the detections of one image as packed bits ``[N, H, ceil(W / 8)]``, and their width."""

    bits: NDArray[np.uint8]
    width: int

    @property
    def sizes(self) -> set[tuple[int, int]]:
        """Height and width of the masks, all those that occur."""
        return {(self.bits.shape[1], self.width)} if len(self.bits) else set()

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each mask, int64 ``[N]``."""
        return bitmaps.pixel_counts(self.bits)

    def to_run_lengths(self) -> list[RunLengths]:
        """Run lengths of each mask."""
        return run_lengths.encode(bitmaps.unpack(self.bits, self.width))

    def overlaps(
        self,
        rows: NDArray[np.int64],
        truth_rows: NDArray[np.int64],
        truth: TruthMasks,
        crowd: NDArray[np.bool_],
        crops: Mapping[int, PackedCrop],
    ) -> NDArray[np.float64]:
        """The overlaps of pairs of a mask and an annotation: the intersection over the union or the detection.

        Args:
            rows, truth_rows: int64 ``[P]``, the pairs.
            truth: all annotated masks; ``crowd`` bool ``[G]`` says which are of crowds.
            crops: of the annotations, as :meth:`TruthMasks.crops` makes them.

        Returns:
            float64 ``[P]``.
        """
        shared = np.zeros(len(rows), dtype=np.int64)
        order = np.argsort(truth_rows, kind="stable")
        starts = np.flatnonzero(starts_of(truth_rows[order]))
        for start, end in pairwise([*starts.tolist(), len(order)]):
            chosen = order[start:end]
            crop = crops.get(int(truth_rows[chosen[0]]))
            if crop is not None:
                shared[chosen] = bitmaps.intersections(self.bits, rows[chosen], crop)
        area = self.areas[rows]
        union = np.where(crowd[truth_rows], area, area + truth.areas[truth_rows] - shared)
        return shared / np.where(shared > 0, union, 1)


@dataclass(frozen=True)
class RunLengthMasks:
    """Masks of the detections of one image as run lengths."""

    run_lengths: Sequence[RunLengths]

    @property
    def sizes(self) -> set[tuple[int, int]]:
        """Height and width of the masks, all those that occur."""
        return {tuple(mask["size"]) for mask in self.run_lengths}

    @cached_property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each mask, int64 ``[N]``."""
        return run_lengths.areas(self.run_lengths)

    def to_run_lengths(self) -> list[RunLengths]:
        """Run lengths of each mask."""
        return list(self.run_lengths)

    def overlaps(
        self, rows: NDArray[np.int64], truth_rows: NDArray[np.int64], truth: TruthMasks, crowd: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The overlaps of pairs, as :meth:`PackedMasks.overlaps`, without crops."""
        from pycocotools import mask as coco_mask

        # One call for all: pairs beyond those asked for cost less than more calls.
        line = {row: place for place, row in enumerate(dict.fromkeys(rows.tolist()))}
        column = {row: place for place, row in enumerate(dict.fromkeys(truth_rows.tolist()))}
        table: NDArray[Any] = coco_mask.iou(
            [self.run_lengths[row] for row in line],
            [truth[row] for row in column],
            crowd[list(column)].astype(np.uint8),
        )
        return table[[line[row] for row in rows.tolist()], [column[row] for row in truth_rows.tolist()]]


ImageMasks = PackedMasks | RunLengthMasks
"""Masks of the detections of one image."""
