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
from ignite_imgtools.metrics.coco.masks import PackedMasks, TruthMasks
from ignite_imgtools.metrics.coco.ordering import number_among
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
        self._masks.rasterise(truth_rows)
        own = rows[pair_rows]
        area = np.concatenate([np.zeros(0, dtype=np.int64), *(masks.areas for masks in detections.masks)])[own]
        truth_area, crowd = self._masks.areas[truth_rows], self._truth.crowd[truth_rows]
        # No more is shared than the smaller of two masks: most pairs need not be looked at.
        smaller = np.minimum(area, truth_area)
        union = np.where(crowd, area, np.maximum(area, truth_area))
        chosen = np.flatnonzero((smaller > 0) & (smaller / np.maximum(union, 1) >= self._lowest))

        ends = np.cumsum(detections.counts)
        image = np.searchsorted(ends, own[chosen], side="right")
        own_row = own[chosen] - (ends - detections.counts)[image]
        overlap = np.zeros(len(pair_rows))
        starts = np.flatnonzero(starts_of(image)).tolist()
        packed = np.array([isinstance(masks, PackedMasks) for masks in detections.masks], dtype=bool)
        needed, _ = number_among(truth_rows[chosen[packed[image]]], len(self._truth))
        crops = self._masks.crops(needed)
        for start, end in pairwise([*starts, len(image)]):
            pairs, masks = chosen[start:end], detections.masks[image[start]]
            common = own_row[start:end], truth_rows[pairs], self._masks, self._truth.crowd
            overlap[pairs] = masks.overlaps(*common, crops) if packed[image[start]] else masks.overlaps(*common)
        kept = np.flatnonzero(overlap >= self._lowest)
        return kept, overlap[kept]

    def areas(self, detections: Detections) -> NDArray[np.float64]:
        for index, masks in zip(detections.images.tolist(), detections.masks, strict=True):
            size = self._truth.image_size(index)
            for height, width in masks.sizes - {size}:
                raise DataError(
                    f"masks of image_id {self._truth.image_ids[index]} must be of the size of the image, "
                    f"{size[0]} x {size[1]}, got {height} x {width}"
                )
        return np.concatenate([np.zeros(0), *(masks.areas for masks in detections.masks)])
