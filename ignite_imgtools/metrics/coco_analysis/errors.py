"""What kinds of error cost how much average precision, in the manner of TIDE.

D. Bolya, S. Foley, J. Hays, J. Hoffman: TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020
(https://arxiv.org/abs/2008.08115), sections 2.2 and 2.3. Where the paper leaves a choice, it is made as in the authors'
tool, which is said below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.candidates import starts_of
from ignite_imgtools.metrics.coco_analysis.average_precision import precision_at_recalls
from ignite_imgtools.metrics.coco_analysis.matches import (
    Neighbours,
    Results,
    find_neighbours,
    match_greedily,
    truth_of,
)

__all__ = ["ERROR_KINDS", "ErrorBreakdown", "error_breakdown"]

ERROR_KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
_CLASSIFICATION, _LOCALISATION, _BOTH, _DUPLICATE, _BACKGROUND = range(5)
_RIGHT, _LEFT_OUT = 5, 6


@dataclass(frozen=True)
class _Errors:
    """What is wrong with ``n`` detections and ``G`` truths.

    Attributes:
        kind: int64 ``[n]``, a place in :data:`ERROR_KINDS`, ``_RIGHT`` or ``_LEFT_OUT``.
        target: int64 ``[n]``, the truth that it should have found; -1 for kinds without one.
        unfound: bool ``[G]``, truth to be found that no detection took.
        missed: bool ``[G]``, of these those that are no target.
    """

    kind: NDArray[np.int64]
    target: NDArray[np.int64]
    unfound: NDArray[np.bool_]
    missed: NDArray[np.bool_]


@dataclass(frozen=True)
class ErrorBreakdown:
    """Errors of a detector.

    Attributes:
        ap: average precision in 0..1 at the foreground threshold, the metric's ``AP50``; -1 without truth.
        gain: for each of :data:`ERROR_KINDS` how much higher the average precision were if errors of this kind alone
            were mended. The gains do not add up to ``1 - ap``.
        count: how many errors there are of each kind.
        gain_without_false_positives: how much higher it were without any detection that is wrong.
        gain_without_false_negatives: how much higher it were if all objects not found were not asked for.
    """

    ap: float
    gain: dict[str, float]
    count: dict[str, int]
    gain_without_false_positives: float
    gain_without_false_negatives: float

    def to_dict(self) -> dict[str, Any]:
        """The attributes, for json."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"AP {100 * self.ap:.2f}", "error             AP lost    errors"]
        lines += [f"{kind:<16}{100 * self.gain[kind]:9.2f}{self.count[kind]:10d}" for kind in ERROR_KINDS]
        lines.append(f"{'false positives':<16}{100 * self.gain_without_false_positives:9.2f}")
        lines.append(f"{'false negatives':<16}{100 * self.gain_without_false_negatives:9.2f}")
        return "\n".join(lines)


def error_breakdown(
    coco: Any,
    results: Results,
    iou_type: str = "bbox",
    *,
    foreground_iou: float = 0.5,
    background_iou: float = 0.1,
    image_ids: Sequence[int] | None = None,
    max_detections: int | None = None,
    keypoint_sigmas: Sequence[float] | None = None,
) -> ErrorBreakdown:
    """Errors by kind, and the average precision that each kind costs.

    Each false positive is of one kind, the first that applies to its overlaps with truth:

    - localisation: its best truth of its own class overlaps from ``background_iou`` to ``foreground_iou``;
    - classification: a truth of another class overlaps by ``foreground_iou`` or more;
    - duplicate: a truth of its own class does, which a detection of a higher score has taken;
    - background: nothing overlaps by more than ``background_iou``;
    - both: what is left, a truth of another class overlaps, too little.

    A truth is missed if it was not found and is not the best truth of an error of localisation or classification.

    Mended, an error of localisation or classification is a true positive of the truth's class and of its own score,
    unless that truth was found or, of several such errors of one truth, it is not that of the highest score: then it
    is gone, as are errors of the other kinds. Missed truth, mended, is not asked for. A class of which nothing is
    asked for any more counts 0 while it has detections, all of them wrong, and else no more; without any class left the
    average precision is 1. What little is lost to rounding at the 101 recalls by mending counts as 0.

    Detections that match a crowd are neither right nor wrong, and no kind of error. The authors' tool (tidecv 1.0.1)
    mends these too, takes 100 detections of an image and not of each class, counts classes without truth as 0, and
    has recall thresholds that are off by their last bit, which moves a number by some 0.0001. Without these
    differences the numbers are the same.

    Args:
        coco: ground truth, a ``pycocotools.coco.COCO`` or an object with the same ``dataset``.
        results: COCO's results, such as ``CocoMetric.results`` gives.
        iou_type: ``"bbox"``, ``"segm"`` or ``"keypoints"``.
        foreground_iou: the overlap from which a detection is right.
        background_iou: the overlap up to which there is nothing, above 0.
        image_ids: the images to look at, by default all.
        max_detections: of each image and category those of the highest scores; by default as in the evaluation.
        keypoint_sigmas: as for ``CocoMetric``.

    Raises:
        ValueError: the thresholds are not in order.
        DataError: a result is not as COCO has it.
    """
    if not 0 < background_iou < foreground_iou <= 1:
        raise ValueError(
            f"background_iou must be above 0 and below foreground_iou, got {background_iou} and {foreground_iou}"
        )
    truth = truth_of(coco)
    near = find_neighbours(
        truth,
        results,
        iou_type,
        background_iou,
        image_ids=image_ids,
        max_detections=max_detections,
        keypoint_sigmas=keypoint_sigmas,
    )
    own_class = near.category[near.detection] == truth.category[near.truth]
    enough = near.overlap >= min(foreground_iou, 1 - 1e-10)  # as in the evaluation
    matched = match_greedily(near, np.flatnonzero(own_class & enough), truth.crowd)
    kind, target = _classify(near, own_class, matched, foreground_iou, background_iou)
    unfound = near.counted.copy()
    unfound[matched[matched >= 0]] = False
    missed = unfound.copy()
    missed[target[target >= 0]] = False
    return _breakdown(near, _Errors(kind, target, unfound, missed), truth.category, truth.num_categories)


def _classify(
    near: Neighbours, own_class: NDArray[np.bool_], matched: NDArray[np.int64], foreground: float, background: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The kind of each detection, int64 ``[n]``, and the truth that it should have found, int64 ``[n]`` or -1."""
    count = len(near.scores)
    counts = near.counted[near.truth]
    own, own_truth = _best(near, np.flatnonzero(counts & own_class), count)
    other, other_truth = _best(near, np.flatnonzero(counts & ~own_class), count)
    kind = np.select(
        [
            (own >= background) & (own <= foreground),
            other >= foreground,
            own >= foreground,
            np.maximum(own, other) <= background,
        ],
        [_LOCALISATION, _CLASSIFICATION, _DUPLICATE, _BACKGROUND],
        _BOTH,
    )
    has_match = matched >= 0
    kind[has_match] = np.where(near.ignored[matched[has_match]], _LEFT_OUT, _RIGHT)
    target = np.select([kind == _LOCALISATION, kind == _CLASSIFICATION], [own_truth, other_truth], -1)
    return kind, target


def _best(near: Neighbours, edges: NDArray[np.int64], count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The highest overlap of each detection among ``edges``, float64 ``[count]``, and its truth, the first listed of
    equal ones; 0 and -1 where it has none."""
    highest, truth = np.zeros(count), np.full(count, -1, dtype=np.int64)
    edges = edges[np.lexsort((near.truth[edges], -near.overlap[edges], near.detection[edges]))]
    edges = edges[starts_of(near.detection[edges])]
    highest[near.detection[edges]], truth[near.detection[edges]] = near.overlap[edges], near.truth[edges]
    return highest, truth


def _breakdown(
    near: Neighbours, errors: _Errors, truth_category: NDArray[np.int64], num_categories: int
) -> ErrorBreakdown:
    def count(truth: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(truth_category[truth], minlength=num_categories)

    asked = count(near.counted)
    right, kept = errors.kind == _RIGHT, errors.kind != _LEFT_OUT
    # Detections of an image come in falling order of score: the first error of a truth is that of the highest.
    mendable = np.flatnonzero(np.append(errors.unfound, False)[errors.target])
    mendable = mendable[np.unique(errors.target[mendable], return_index=True)[1]]

    def mended(kind: int) -> float:
        wrong = errors.kind == kind
        rows = mendable[wrong[mendable]]
        category, correct = near.category.copy(), right.copy()
        category[rows], correct[rows] = truth_category[errors.target[rows]], True
        chosen = kept & (correct | ~wrong)
        return _average_precision(category[chosen], near.scores[chosen], correct[chosen], asked, asked)

    def as_it_is(chosen: NDArray[np.bool_], asked_still: NDArray[np.int64]) -> float:
        return _average_precision(near.category[chosen], near.scores[chosen], right[chosen], asked, asked_still)

    ap = as_it_is(kept, asked)
    gain = {name: mended(kind) - ap for kind, name in enumerate(ERROR_KINDS[:-1])}
    gain["missed"] = as_it_is(kept, asked - count(errors.missed)) - ap
    counts = {name: int((errors.kind == kind).sum()) for kind, name in enumerate(ERROR_KINDS[:-1])}
    return ErrorBreakdown(
        ap=ap,
        gain={name: max(value, 0.0) for name, value in gain.items()},
        count={**counts, "missed": int(errors.missed.sum())},
        gain_without_false_positives=max(as_it_is(right, asked) - ap, 0.0),
        gain_without_false_negatives=max(as_it_is(kept, asked - count(errors.unfound)) - ap, 0.0),
    )


def _average_precision(
    category: NDArray[np.int64],
    scores: NDArray[Any],
    right: NDArray[np.bool_],
    asked: NDArray[np.int64],
    asked_still: NDArray[np.int64],
) -> float:
    """The mean over classes that have truth, ``asked``, where ``asked_still`` of it are to be found."""
    if not asked.any():
        return -1.0
    table = precision_at_recalls(category, scores, right, asked_still)
    present = np.bincount(category, minlength=len(asked)) > 0
    table[:, (asked > 0) & (asked_still == 0) & present] = 0.0
    values = table[table > -1]
    return float(np.mean(values)) if len(values) else 1.0
