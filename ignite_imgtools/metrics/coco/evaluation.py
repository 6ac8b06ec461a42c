"""One type of overlap: from columns of detections to a record of what they match, and on to the arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.accumulation import Arrays, accumulate
from ignite_imgtools.metrics.coco.candidates import TruthGroups, candidate_pairs, order_detections
from ignite_imgtools.metrics.coco.detections import Detections
from ignite_imgtools.metrics.coco.federated import FederatedLists
from ignite_imgtools.metrics.coco.ground_truth import GroundTruth
from ignite_imgtools.metrics.coco.matching import Edges, match
from ignite_imgtools.metrics.coco.overlaps import create_overlaps
from ignite_imgtools.metrics.coco.parameters import Parameters
from ignite_imgtools.metrics.coco.record import Record, concatenate, one_of_each_image, sort_by_image

__all__ = ["Evaluation"]


class Evaluation:
    """Evaluates detections against a ground truth; it keeps nothing of the detections.

    Args:
        truth: the annotations.
        parameters: what to evaluate.
    """

    def __init__(self, truth: GroundTruth, parameters: Parameters):
        self.truth, self.parameters = truth, parameters
        self._ignored = truth.ignored(parameters)
        self._groups = TruthGroups.of(truth.group if parameters.use_cats else truth.image)
        self._overlaps = create_overlaps(truth, parameters)
        self._federated = FederatedLists.of(truth) if parameters.lvis_style else None
        self._categories = truth.num_categories if parameters.use_cats else 1

    def empty(self) -> Record:
        """The record of no image."""
        return Record.empty(*self.parameters.shape, self._category_dtype)

    def match(self, detections: Detections) -> Record:
        """The record of the images of ``detections``, in their order."""
        parameters = self.parameters
        place = np.repeat(np.arange(len(detections.images)), detections.counts)
        category, rows, unverified = self._taking_part(detections, place)
        order = order_detections(
            place[rows] * self._categories + category[rows], detections.scores[rows], parameters.max_detections[-1]
        )
        rows = rows[order]
        place, category = place[rows], category[rows]

        areas = self._overlaps.areas(detections) if detections.areas is None else detections.areas
        pair_rows, truth_rows = candidate_pairs(detections.images[place] * self._categories + category, self._groups)
        kept, overlap = self._overlaps.edges(detections, rows, pair_rows, truth_rows)
        passed = np.searchsorted(parameters.match_thresholds, overlap, side="right")
        edges = Edges(pair_rows[kept], truth_rows[kept], overlap, passed)
        matched, flags = match(edges, self._ignored, self.truth.crowd, len(parameters.iou_thresholds))
        any_match = np.zeros(len(rows), dtype=bool)
        any_match[matched] = True
        return Record(
            images=detections.images.astype(np.int32),
            counts=np.bincount(place, minlength=len(detections.images)).astype(np.int32),
            category=category.astype(self._category_dtype),
            scores=detections.scores[rows],
            outside=self._outside(areas[rows], unverified[rows]),
            matched=any_match,
            flags=np.packbits(flags.reshape(len(flags), math.prod(flags.shape[1:])), axis=1),
        )

    def merge(self, records: Sequence[Record]) -> Record:
        """One record of those of all processes: images in ascending order, each as it came first."""
        return sort_by_image(one_of_each_image(concatenate(records)))

    def arrays(self, record: Record, every_image: bool) -> Arrays:
        """Precision, recall and scores of a merged record.

        Args:
            record: of :meth:`merge`.
            every_image: count the truth of images that ``record`` does not name as not found.
        """
        seen = np.full(self.truth.num_images, every_image)
        seen[record.images] = True
        return accumulate(record, self._positives(seen), self.parameters)

    @property
    def _category_dtype(self) -> np.dtype[np.unsignedinteger]:
        return np.min_scalar_type(max(self._categories - 1, 0))

    def _taking_part(
        self, detections: Detections, place: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """The category of each detection, int64 ``[n]``; the rows of those that take part, in the order in which
        equal scores stay; and which are of a category that is not annotated everywhere in the image, bool ``[n]``."""
        category, known = self.truth.category_positions(detections.labels)
        unverified = np.zeros(len(known), dtype=bool)
        if self._federated is not None:
            group = detections.images[place] * self.truth.num_categories + category
            known = known & self._federated.is_verified(group)
            unverified = self._federated.is_not_exhaustive(group)
        rows = np.flatnonzero(known)
        if self.parameters.use_cats:
            return category, rows, unverified
        # The reference pools the detections of an image category by category.
        return np.zeros_like(category), rows[np.argsort(category[rows], kind="stable")], unverified

    def _outside(self, area: NDArray[np.float64], unverified: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The bits :attr:`Record.outside` of detections of these areas, ``[n]``."""
        bits = np.zeros((len(area), -(-len(self.parameters.area_ranges) // 8)), dtype=np.uint8)
        for a, (lowest, highest) in enumerate(self.parameters.area_ranges):
            outside = (area < lowest) | (area > highest) | unverified
            bits[:, a // 8] |= outside.view(np.uint8) << np.uint8(7 - a % 8)
        return bits

    def _positives(self, seen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """int64 ``[K, A]``: the truths to be found in the images ``seen``, bool ``[I]``."""
        counted = ~self._ignored & seen[self.truth.image]
        category = self.truth.category if self.parameters.use_cats else np.zeros_like(self.truth.category)
        return np.stack([np.bincount(category[row], minlength=self._categories) for row in counted], axis=1)
