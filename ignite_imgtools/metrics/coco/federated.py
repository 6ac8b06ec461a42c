"""Annotations that are complete for some categories of an image only, as those of LVIS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.ground_truth import GroundTruth
from ignite_imgtools.metrics.coco.ordering import find_sorted

__all__ = ["FederatedLists"]


@dataclass(frozen=True)
class FederatedLists:
    """What the images say of categories, with the meaning it has in LVIS (Gupta, Dollár and Girshick, CVPR 2019).

    A category is verified in an image if it is annotated there or listed under ``neg_category_ids``, or if the image
    has no such list; detections of another category take no part. Under ``not_exhaustive_category_ids`` stand those
    of which some objects are annotated; a detection that matches none of them is ignored.

    Attributes:
        verified: int64, groups ascending.
        unlisted: bool ``[I]``, images without a list of absent categories.
        not_exhaustive: int64, groups ascending.
        num_categories: a group is ``image * num_categories + category``.
    """

    verified: NDArray[np.int64]
    unlisted: NDArray[np.bool_]
    not_exhaustive: NDArray[np.int64]
    num_categories: int

    @classmethod
    def of(cls, truth: GroundTruth) -> FederatedLists:
        """The lists of the images of ``truth``."""
        absent, listed = truth.category_lists("neg_category_ids")
        not_exhaustive, _ = truth.category_lists("not_exhaustive_category_ids")
        return cls(np.union1d(truth.group, absent), ~listed, not_exhaustive, truth.num_categories)

    def is_verified(self, group: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool ``[n]`` for groups ``[n]``."""
        return find_sorted(self.verified, group)[1] | self.unlisted[group // max(self.num_categories, 1)]

    def is_not_exhaustive(self, group: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool ``[n]`` for groups ``[n]``."""
        return find_sorted(self.not_exhaustive, group)[1]
