"""The three types of overlap behind one call: which pairs overlap enough, and the areas of the detections."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics.coco.boxes import box_columns, box_edges
from ignite_imgtools.metrics.coco.candidates import starts_of
from ignite_imgtools.metrics.coco.detections import Detections
from ignite_imgtools.metrics.coco.ground_truth import GroundTruth
from ignite_imgtools.metrics.coco.keypoints import TruthKeypoints, keypoint_areas, keypoint_edges
from ignite_imgtools.metrics.coco.masks import MaskPairs, TruthMasks
from ignite_imgtools.metrics.coco.parameters import Parameters

__all__ = ["Overlaps", "create_overlaps"]


class Overlaps(Protocol):
    """Overlaps of detections with the truth."""

    def edges(
        self,
        detections: Detections,
        rows: NDArray[np.int64],
        pair_rows: NDArray[np.int64],
        truth_rows: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The pairs that overlap at the lowest threshold or more: int64 ``[E]`` ascending, and by how much.

        Args:
            rows: int64 ``[n]``, the detections, sorted.
            pair_rows, truth_rows: int64 ``[P]``, each pair: a position in ``rows`` and an annotation.
        """

    def areas(self, detections: Detections) -> NDArray[np.float64]:
        """The area of every detection."""


def create_overlaps(truth: GroundTruth, parameters: Parameters) -> Overlaps:
    """The overlaps that ``parameters.iou_type`` names."""
    if parameters.iou_type == "bbox":
        return BoxOverlaps(truth, parameters)
    return (MaskOverlaps if parameters.iou_type == "segm" else KeypointOverlaps)(truth, parameters)


class BoxOverlaps:
    """Intersection over union of boxes."""

    def __init__(self, truth: GroundTruth, parameters: Parameters):
        self._columns, self._crowd = box_columns(truth.boxes), truth.crowd
        self._lowest = parameters.match_thresholds[0]

    def edges(
        self,
        detections: Detections,
        rows: NDArray[np.int64],
        pair_rows: NDArray[np.int64],
        truth_rows: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        columns = box_columns(detections.boxes[rows])
        return box_edges(columns, self._columns, self._crowd, pair_rows, truth_rows, self._lowest)

    def areas(self, detections: Detections) -> NDArray[np.float64]:
        return detections.boxes[:, 2] * detections.boxes[:, 3]


class KeypointOverlaps:
    """Similarity of keypoints."""

    def __init__(self, truth: GroundTruth, parameters: Parameters):
        self._sigmas = parameters.keypoint_sigmas
        keypoints = truth.keypoints(len(self._sigmas))
        self._truth = TruthKeypoints.of(keypoints, truth.boxes, truth.area)
        self._lowest = parameters.match_thresholds[0]

    def edges(
        self,
        detections: Detections,
        rows: NDArray[np.int64],
        pair_rows: NDArray[np.int64],
        truth_rows: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        keypoints = detections.keypoints[rows]
        return keypoint_edges(keypoints, self._truth, self._sigmas, pair_rows, truth_rows, self._lowest)

    def areas(self, detections: Detections) -> NDArray[np.float64]:
        return keypoint_areas(detections.keypoints)


class MaskOverlaps:
    """Intersection over union of masks."""

    def __init__(self, truth: GroundTruth, parameters: Parameters):
        self._truth, self._masks = truth, TruthMasks(truth)
        self._lowest = parameters.match_thresholds[0]

    def edges(
        self,
        detections: Detections,
        rows: NDArray[np.int64],
        pair_rows: NDArray[np.int64],
        truth_rows: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        ends = np.cumsum(detections.counts)
        image = np.searchsorted(ends, rows[pair_rows], side="right")
        own_rows = rows[pair_rows] - (ends - detections.counts)[image]
        overlap = np.zeros(len(pair_rows))
        starts = np.flatnonzero(starts_of(image)).tolist()
        for start, end in pairwise([*starts, len(image)]):
            chosen, place = np.unique(truth_rows[start:end], return_inverse=True)
            truth = [self._masks.run_lengths(row) for row in chosen.tolist()]
            pairs = MaskPairs(own_rows[start:end], place, truth, self._truth.crowd[chosen])
            overlap[start:end] = detections.masks[image[start]].overlaps(pairs, self._lowest)
        kept = np.flatnonzero(overlap >= self._lowest)
        return kept, overlap[kept]

    def areas(self, detections: Detections) -> NDArray[np.float64]:
        for index, masks in zip(detections.images.tolist(), detections.masks, strict=True):
            size = self._truth.image_size(index)
            if len(masks.areas) and masks.size != size:
                raise DataError(
                    f"masks of image_id {self._truth.image_ids[index]} must be of the size of the image, "
                    f"{size[0]} x {size[1]}, got {masks.size[0]} x {masks.size[1]}"
                )
        return np.concatenate([np.zeros(0), *(masks.areas for masks in detections.masks)])
