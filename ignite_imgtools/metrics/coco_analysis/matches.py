"""Detections beside the truth of any category that they overlap, and which of these the evaluation gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.candidates import TruthGroups, candidate_pairs, order_detections
from ignite_imgtools.metrics.coco.detections import Detections
from ignite_imgtools.metrics.coco.ground_truth import GroundTruth
from ignite_imgtools.metrics.coco.ordering import sort_by_group_and_score
from ignite_imgtools.metrics.coco.overlaps import create_overlaps
from ignite_imgtools.metrics.coco.parameters import Parameters
from ignite_imgtools.metrics.coco.result_columns import detections_of_results

__all__ = ["Neighbours", "Results", "find_neighbours", "match_greedily", "truth_of"]

Results = Sequence[Mapping[str, Any]] | Detections
"""Detections as COCO's results, one dict for each, or as columns."""

# Images whose pairs are compared together: enough to be quick, few enough for little memory.
_BLOCK_IMAGES = 512


@dataclass(frozen=True)
class Neighbours:
    """``n`` detections, image by image and by falling score, and their ``E`` overlaps with truth of any category.

    Attributes:
        category: int64 ``[n]``, positions in the ground truth's ``category_ids``.
        scores: float32 or float64 ``[n]``.
        detection: int64 ``[E]``, ascending.
        truth: int64 ``[E]``, rows of the ground truth, ascending for each detection.
        overlap: float64 ``[E]``, each at least what was asked for.
        ignored: bool ``[G]``, truth that need not be found: crowds and, for keypoints, objects without any.
        counted: bool ``[G]``, truth to be found: that of the images looked at which is not ignored.
    """

    category: NDArray[np.int64]
    scores: NDArray[Any]
    detection: NDArray[np.int64]
    truth: NDArray[np.int64]
    overlap: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    counted: NDArray[np.bool_]


def truth_of(coco: Any) -> GroundTruth:
    """Ground truth of an index, or what is one already."""
    return coco if isinstance(coco, GroundTruth) else GroundTruth(coco)


def find_neighbours(
    truth: GroundTruth,
    results: Results,
    iou_type: str,
    lowest: float,
    *,
    score_threshold: float = -np.inf,
    image_ids: Sequence[int] | None = None,
    max_detections: int | None = None,
    keypoint_sigmas: Sequence[float] | NDArray[np.float64] | None = None,
) -> Neighbours:
    """Which truth of any category the detections of an image overlap.

    Args:
        truth: the annotations.
        results: the detections; those of unknown categories take no part.
        iou_type: ``"bbox"``, ``"segm"`` or ``"keypoints"``.
        lowest: the overlap that matters, above 0.
        score_threshold: detections of a lower score take no part.
        image_ids: the images to look at, by default all of ``truth``.
        max_detections: of each image and category those of the highest scores; by default as many as in the
            evaluation, 100 or for keypoints 20.
        keypoint_sigmas: as for ``CocoMetric``.

    Raises:
        DataError: a result is not as COCO has it, or an image id is not one of ``truth``.
        ValueError: ``lowest`` or ``iou_type`` is out of range.
    """
    if not 0 < lowest <= 1:
        raise ValueError(f"an overlap that matters is above 0 and at most 1, got {lowest}")
    parameters = Parameters.create(
        iou_type,
        iou_thresholds=(lowest,),
        area_ranges={"all": (0.0, 1e10)},
        max_detections=None if max_detections is None else (max_detections,),
        keypoint_sigmas=keypoint_sigmas,
    )
    looked_at = np.full(truth.num_images, image_ids is None)
    looked_at[[truth.image_index(image_id) for image_id in image_ids or ()]] = True
    if not isinstance(results, Detections):
        results = detections_of_results(results, truth, iou_type, len(parameters.keypoint_sigmas))
    scores, image = results.scores, np.repeat(results.images, results.counts)
    category, known = truth.category_positions(results.labels)
    rows = np.flatnonzero(known & looked_at[image] & (scores >= score_threshold))
    group = image[rows] * truth.num_categories + category[rows]
    rows = np.sort(rows[order_detections(group, scores[rows], parameters.max_detections[-1])])
    rows = rows[sort_by_group_and_score(image[rows], scores[rows])]
    ignored = truth.ignored(parameters)[0]
    return Neighbours(
        category[rows],
        scores[rows],
        *_edges(truth, parameters, results, rows, image[rows]),
        ignored=ignored,
        counted=~ignored & looked_at[truth.image],
    )


def _edges(
    truth: GroundTruth,
    parameters: Parameters,
    detections: Detections,
    rows: NDArray[np.int64],
    image: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    overlaps, groups = create_overlaps(truth, parameters), TruthGroups.of(truth.image)
    columns: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    for start, end in _blocks(image):
        pair_rows, truth_rows = candidate_pairs(image[start:end], groups)
        kept, overlap = overlaps.edges(detections, rows[start:end], pair_rows, truth_rows)
        columns.append((pair_rows[kept] + start, truth_rows[kept], overlap))
    nothing = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
    detection, truths, overlap = (np.concatenate(parts) for parts in zip(nothing, *columns, strict=True))
    return detection, truths, overlap


def _blocks(image: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of rows of whole images."""
    ends = np.append(np.flatnonzero(np.diff(image // _BLOCK_IMAGES)) + 1, len(image)).tolist()
    return zip([0, *ends[:-1]], ends, strict=True)


def match_greedily(neighbours: Neighbours, edges: NDArray[np.int64], crowd: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The truth that each detection takes by the rule of COCO: in falling order of score, the best one left.

    Truth that counts comes before what is ignored, then the highest overlap, then what is listed last. A crowd may
    be taken by any number of detections.

    Args:
        neighbours: detections and their overlaps.
        edges: int64 ``[e]``, the overlaps that may be matches.
        crowd: bool ``[G]``.

    Returns:
        int64 ``[n]``, rows of the truth, -1 for none.
    """
    taken = np.full(len(neighbours.scores), -1, dtype=np.int64)
    detection, truth, overlap = neighbours.detection[edges], neighbours.truth[edges], neighbours.overlap[edges]
    order = np.lexsort((-truth, -overlap, neighbours.ignored[truth], detection))
    gone = np.zeros(len(crowd), dtype=bool).tolist()
    matches = {}
    columns = (detection[order].tolist(), truth[order].tolist(), crowd[truth[order]].tolist())
    for own, other, shared in zip(*columns, strict=True):
        if own not in matches and not gone[other]:
            matches[own] = other
            gone[other] = not shared
    taken[list(matches)] = list(matches.values())
    return taken
