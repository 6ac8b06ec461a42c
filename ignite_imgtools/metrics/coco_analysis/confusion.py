"""Which class is taken for which other, or for background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco_analysis.matches import Results, find_neighbours, match_greedily, truth_of

__all__ = ["confusion_matrix"]


def confusion_matrix(
    coco: Any,
    results: Results,
    iou_type: str = "bbox",
    *,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
    image_ids: Sequence[int] | None = None,
    max_detections: int | None = None,
    keypoint_sigmas: Sequence[float] | None = None,
) -> NDArray[np.int64]:
    """How often each class was found as each other, among detections of a score that would be shown.

    First every detection takes a truth of its own class, as the evaluation has it: these are the diagonal, what
    matches a crowd is left out. Then, by falling score, each of the others takes that truth of another class which
    it overlaps most of those left. What remains is background on the other side: detections of nothing in the last
    row, objects not found in the last column.

    Args:
        coco: ground truth, a ``pycocotools.coco.COCO`` or an object with the same ``dataset``.
        results: COCO's results, such as ``CocoMetric.results`` gives.
        iou_type: ``"bbox"``, ``"segm"`` or ``"keypoints"``.
        score_threshold: detections of a lower score do not exist.
        iou_threshold: the overlap needed, above 0.
        image_ids: the images to look at, by default all.
        max_detections: of each image and category those of the highest scores; by default as in the evaluation.
        keypoint_sigmas: as for ``CocoMetric``.

    Returns:
        int64 ``[C + 1, C + 1]``, rows by the class of the truth, columns by that of the detection, by ascending
        category id; the last of both is background. A row but for the last sums to the objects of its class, a column
        to its detections.
    """
    truth = truth_of(coco)
    near = find_neighbours(
        truth,
        results,
        iou_type,
        iou_threshold,
        score_threshold=score_threshold,
        image_ids=image_ids,
        max_detections=max_detections,
        keypoint_sigmas=keypoint_sigmas,
    )
    own_class = near.category[near.detection] == truth.category[near.truth]
    matched = match_greedily(near, np.flatnonzero(own_class), truth.crowd)
    free = near.counted.copy()
    free[matched[matched >= 0]] = False
    left = (matched[near.detection] < 0) & free[near.truth] & ~own_class
    confused = match_greedily(near, np.flatnonzero(left), truth.crowd)

    background = truth.num_categories
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    free[confused[confused >= 0]] = False
    classes = np.append(truth.category, background)  # of no truth, -1, too
    right = (matched >= 0) & ~np.append(near.ignored, False)[matched]
    wrong = matched < 0
    np.add.at(matrix, (near.category[right], near.category[right]), 1)
    np.add.at(matrix, (classes[confused[wrong]], near.category[wrong]), 1)
    matrix[:, background] += np.bincount(truth.category[free], minlength=background + 1)
    return matrix
