"""The rules of the PASCAL VOC detection challenge: which detections are right, and the average precision of a class.

They are those of ``VOCevaldet.m`` and ``VOCap.m`` in the development kit (Everingham et al., The PASCAL Visual Object
Classes Challenge: A Retrospective, IJCV 2015, http://host.robots.ox.ac.uk/pascal/VOC/).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.candidates import TruthGroups, candidate_pairs, starts_of

__all__ = ["IGNORED", "RIGHT", "WRONG", "average_precision", "box_iou", "match_to_best", "precision_recall"]

WRONG, RIGHT, IGNORED = 0, 1, 2
"""What a detection may be: a false positive, a true positive, or neither."""


def box_iou(
    boxes: NDArray[np.float64], other_boxes: NDArray[np.float64], inclusive: bool = False
) -> NDArray[np.float64]:
    """Intersection over union of the boxes of each row.

    Args:
        boxes, other_boxes: float64 ``[n, 4]`` xyxy in pixels.
        inclusive: the numbers name the first and last pixel of a box, as in the annotations of VOC, so that a box is
            one pixel wider and higher than their difference.

    Returns:
        float64 ``[n]``, 0 where the boxes do not overlap or have no area.
    """
    extra = 1.0 if inclusive else 0.0
    sides = np.minimum(boxes[:, 2:], other_boxes[:, 2:]) - np.maximum(boxes[:, :2], other_boxes[:, :2]) + extra
    intersection = np.where((sides > 0).all(axis=1), sides.prod(axis=1), 0.0)
    union = (boxes[:, 2:] - boxes[:, :2] + extra).prod(axis=1)
    union += (other_boxes[:, 2:] - other_boxes[:, :2] + extra).prod(axis=1)
    union -= intersection
    return np.divide(intersection, union, out=np.zeros(len(boxes)), where=intersection > 0)


def match_to_best(
    group: NDArray[np.int64],
    boxes: NDArray[np.float64],
    truth_group: NDArray[np.int64],
    truth_boxes: NDArray[np.float64],
    difficult: NDArray[np.bool_],
    iou_threshold: float = 0.5,
    inclusive: bool = False,
) -> NDArray[np.int8]:
    """Whether each detection is right.

    A detection looks at one truth alone: that of its group which it overlaps most, the first listed of several. If
    the overlap reaches the threshold, the first detection to come is right and all later ones are wrong, even if they
    overlap another truth well enough; where the truth is difficult, they are ignored.

    Args:
        group: int64 ``[n]``, image and class of each detection; those of one group are neighbours and in falling
            order of score.
        boxes: float64 ``[n, 4]`` xyxy in pixels.
        truth_group: int64 ``[G]``, ascending.
        truth_boxes: float64 ``[G, 4]`` xyxy in pixels.
        difficult: bool ``[G]``.
        iou_threshold: the overlap needed, above 0.
        inclusive: as in :func:`box_iou`.

    Returns:
        int8 ``[n]``: :data:`RIGHT`, :data:`WRONG` or :data:`IGNORED`.
    """
    outcome = np.full(len(group), WRONG, dtype=np.int8)
    rows, truths = candidate_pairs(group, TruthGroups.of(truth_group))
    if not len(rows):
        return outcome
    overlaps = box_iou(boxes[rows], truth_boxes[truths], inclusive)
    heads = np.flatnonzero(starts_of(rows))
    highest = np.maximum.reduceat(overlaps, heads)
    is_best = np.flatnonzero(overlaps == np.repeat(highest, np.diff(heads, append=len(rows))))
    best = is_best[starts_of(rows[is_best])]
    best = best[overlaps[best] >= iou_threshold]
    rows, truths = rows[best], truths[best]
    outcome[rows[difficult[truths]]] = IGNORED
    rows, truths = rows[~difficult[truths]], truths[~difficult[truths]]
    _, first = np.unique(truths, return_index=True)
    outcome[rows[first]] = RIGHT
    return outcome


def precision_recall(right: NDArray[np.bool_], num_truth: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall of the detections of a class, counted up to each of them.

    Args:
        right: bool ``[n]`` in falling order of score, without those to be ignored.
        num_truth: how many objects there are to be found, at least 1.

    Returns:
        Two float64 ``[n]`` in 0..1.
    """
    found = np.cumsum(right)
    return found / np.arange(1, len(right) + 1), found / num_truth


def average_precision(precision: NDArray[Any], recall: NDArray[Any], points: int | None = None) -> float:
    """Average precision in 0..1 of a curve.

    Args:
        precision, recall: float64 ``[n]``, as :func:`precision_recall` gives them.
        points: ``None`` takes the area under the curve after each precision was raised to the highest one at the same
            or a higher recall, the rule of VOC since 2010. A number, 11 in VOC 2007, takes the mean of that curve at
            so many recalls from 0 to 1. These are float64 ``k * (1 / 10)``, of which three are a bit more than the
            number meant, as in the ports to Python whose results people compare with.
    """
    # Recall rises and the envelope changes at true positives only.
    right = np.flatnonzero(np.diff(recall, prepend=0.0) > 0)
    recall = recall[right]
    envelope = np.maximum.accumulate(precision[right][::-1])[::-1]
    if points is None:
        return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
    reached = np.searchsorted(recall, np.linspace(0.0, 1.0, points))
    return float(np.append(envelope, 0.0)[reached].mean())
