"""One type of overlap: from columns of detections to a record of what they match, and on to the arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.accumulation import Arrays, accumulate
from ignite_imgtools.metrics.coco.boxes import box_columns, box_edges
from ignite_imgtools.metrics.coco.candidates import TruthGroups, candidate_pairs, order_detections
from ignite_imgtools.metrics.coco.detections import Detections
from ignite_imgtools.metrics.coco.ground_truth import GroundTruth
from ignite_imgtools.metrics.coco.matching import Edges, match
from ignite_imgtools.metrics.coco.parameters import Parameters
from ignite_imgtools.metrics.coco.record import Record, one_of_each_image, sort_by_image

__all__ = ["Evaluation"]


class Evaluation:
    """Evaluates detections against a ground truth; it has no state beyond the two arguments.

    Args:
        truth: the annotations.
        parameters: what to evaluate.
    """

    def __init__(self, truth: GroundTruth, parameters: Parameters):
        self.truth, self.parameters = truth, parameters
        self._ignored = truth.ignored(parameters)
        self._groups = TruthGroups.of(truth.group if parameters.use_cats else truth.image)
        self._truth_boxes = box_columns(truth.boxes)
        self._categories = truth.num_categories if parameters.use_cats else 1

    def empty(self) -> Record:
        """The record of no image."""
        return Record.empty(*self.parameters.shape, self._category_dtype)

    def match(self, detections: Detections) -> Record:
        """The record of the images of ``detections``, in their order."""
        parameters = self.parameters
        place = np.repeat(np.arange(len(detections.images)), detections.counts)
        category, rows = self._known(detections)
        order = order_detections(
            place[rows] * self._categories + category[rows], detections.scores[rows], parameters.max_detections[-1]
        )
        rows = rows[order]
        place, category = place[rows], category[rows]

        pairs = candidate_pairs(detections.images[place] * self._categories + category, self._groups)
        edges, area = self._edges(detections, rows, *pairs)
        matched, flags = match(edges, self._ignored, self.truth.crowd, len(parameters.iou_thresholds))
        lowest, highest = parameters.area_ranges.T
        outside = (area[:, None] < lowest) | (area[:, None] > highest)
        any_match = np.zeros(len(rows), dtype=bool)
        any_match[matched] = True
        return Record(
            images=detections.images.astype(np.int32),
            counts=np.bincount(place, minlength=len(detections.images)).astype(np.int32),
            category=category.astype(self._category_dtype),
            scores=detections.scores[rows],
            outside=np.packbits(outside, axis=1),
            matched=any_match,
            flags=np.packbits(flags.reshape(len(flags), math.prod(flags.shape[1:])), axis=1),
        )

    def arrays(self, record: Record, every_image: bool) -> Arrays:
        """Precision, recall and scores of the images of ``record``, which may name one several times.

        Args:
            record: of all processes.
            every_image: count the truth of images that ``record`` does not name as not found.
        """
        record = sort_by_image(one_of_each_image(record))
        seen = np.full(self.truth.num_images, every_image)
        seen[record.images] = True
        return accumulate(record, self._positives(seen), self.parameters)

    @property
    def _category_dtype(self) -> np.dtype[np.unsignedinteger]:
        return np.min_scalar_type(max(self._categories - 1, 0))

    def _known(self, detections: Detections) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The category of each detection, int64 ``[n]``, and the rows of those that take part, in the order in which
        equal scores stay."""
        category, known = self.truth.category_positions(detections.labels)
        rows = np.flatnonzero(known)
        if self.parameters.use_cats:
            return category, rows
        # The reference pools the detections of an image category by category.
        return np.zeros_like(category), rows[np.argsort(category[rows], kind="stable")]

    def _edges(
        self,
        detections: Detections,
        rows: NDArray[np.int64],
        pair_rows: NDArray[np.int64],
        truth_rows: NDArray[np.int64],
    ) -> tuple[Edges, NDArray[np.float64]]:
        """Edges between ``rows`` of the detections and the truth, and the area of each of these rows, float64."""
        assert detections.boxes is not None
        thresholds = self.parameters.match_thresholds
        columns = box_columns(detections.boxes[rows])
        kept, overlap = box_edges(columns, self._truth_boxes, self.truth.crowd, pair_rows, truth_rows, thresholds[0])
        passed = np.searchsorted(thresholds, overlap, side="right")
        return Edges(pair_rows[kept], truth_rows[kept], overlap, passed), columns[-1]

    def _positives(self, seen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """int64 ``[K, A]``: the truths to be found in the images ``seen``, bool ``[I]``."""
        counted = ~self._ignored & seen[self.truth.image]
        category = self.truth.category if self.parameters.use_cats else np.zeros_like(self.truth.category)
        return np.stack([np.bincount(category[row], minlength=self._categories) for row in counted], axis=1)
