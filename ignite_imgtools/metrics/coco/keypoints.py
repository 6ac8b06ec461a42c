"""Similarity of keypoints (OKS), in the order of operations of the reference implementation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TruthKeypoints", "keypoint_areas", "keypoint_edges"]


@dataclass(frozen=True)
class TruthKeypoints:
    """Annotated keypoints, ``K`` for each of ``G`` objects, with what the similarity needs of them.

    Attributes:
        x, y: float64 ``[G, K]``, the labelled ones of each object first.
        order: int64 ``[G, K]``, where they stood before.
        labelled: int64 ``[G]``, how many are labelled.
        scale: float64 ``[G]``, the area.
        bounds: float64 ``[4, G]``: left, top, right and bottom of the labelled ones or, if there are none, of the
            box enlarged to three times its size, within which detections count as near.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    order: NDArray[np.int64]
    labelled: NDArray[np.int64]
    scale: NDArray[np.float64]
    bounds: NDArray[np.float64]

    @classmethod
    def of(
        cls, keypoints: NDArray[np.float64], boxes_xywh: NDArray[np.float64], area: NDArray[np.float64]
    ) -> TruthKeypoints:
        """From keypoints ``[G, K, 3]`` (x, y, visibility), boxes ``[G, 4]`` and areas ``[G]``."""
        labelled = keypoints[..., 2] > 0
        order = np.argsort(~labelled, axis=1, kind="stable")
        x, y = (np.take_along_axis(keypoints[..., axis], order, axis=1) for axis in (0, 1))
        left, top, width, height = boxes_xywh.T
        enlarged = np.stack([left - width, top - height, left + width * 2, top + height * 2])
        far = np.where(labelled, 0, np.inf)
        own = np.stack(
            [
                (keypoints[..., 0] + far).min(axis=1),
                (keypoints[..., 1] + far).min(axis=1),
                (keypoints[..., 0] - far).max(axis=1),
                (keypoints[..., 1] - far).max(axis=1),
            ]
        )
        counts = np.count_nonzero(labelled, axis=1)
        return cls(x, y, order, counts, area, np.where(counts > 0, own, enlarged))


def keypoint_areas(keypoints: NDArray[np.float64]) -> NDArray[np.float64]:
    """The area that COCO gives to detected keypoints ``[n, K, 3]``: that of the box around all of them, ``[n]``."""
    lowest, highest = _extents(keypoints)
    width, height = highest - lowest
    return width * height


def _extents(keypoints: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lowest and the highest x and y of keypoints ``[n, K, 3]``, two ``[2, n]``."""
    if not len(keypoints):
        return np.zeros((2, 0)), np.zeros((2, 0))
    # With the detections side by side the minima of many are found at once.
    columns = np.ascontiguousarray(keypoints[..., :2].transpose(2, 1, 0))
    return columns.min(axis=1), columns.max(axis=1)


def keypoint_edges(
    keypoints: NDArray[np.float64],
    truth: TruthKeypoints,
    sigmas: NDArray[np.float64],
    rows: NDArray[np.int64],
    truth_rows: NDArray[np.int64],
    lowest: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The pairs that are similar enough, and how similar.

    The similarity is the mean of ``exp(-distance² / (2 * area * (2 * sigma)²))`` over the labelled keypoints of the
    truth. If none is labelled, all of the detection's count, by their distance from the truth's enlarged box.

    Args:
        keypoints: of the detections, float64 ``[n, K, 3]``.
        truth: of the annotations.
        sigmas: float64 ``[K]``.
        rows, truth_rows: int64 ``[P]``, the pairs.
        lowest: the similarity a pair must reach.

    Returns:
        Which of the pairs do, int64 ``[E]`` ascending, and their similarities, float64 ``[E]``.
    """
    variances = (sigmas * 2) ** 2
    near = np.flatnonzero(_upper_bound(keypoints, truth, variances.max(), rows, truth_rows) >= lowest)
    counts = truth.labelled[truth_rows[near]]
    similarity = np.empty(len(near))
    # One row of a table for each pair: its sum is then rounded as the sum of one pair in the reference.
    for count in np.flatnonzero(np.bincount(counts)):
        chosen = np.flatnonzero(counts == count)
        own, other = rows[near[chosen]], truth_rows[near[chosen]]
        if count:
            columns = truth.order[other, :count]
            dx = keypoints[own[:, None], columns, 0] - truth.x[other, :count]
            dy = keypoints[own[:, None], columns, 1] - truth.y[other, :count]
            spread = variances[columns]
        else:
            dx, dy = _distance_from_box(keypoints[own], truth.bounds[:, other])
            spread = variances
        error = dx**2 + dy**2
        error /= spread
        error /= (truth.scale[other] + np.spacing(1))[:, None]
        error /= 2
        similarity[chosen] = np.exp(-error).sum(axis=1) / error.shape[1]
    enough = similarity >= lowest
    return near[enough], similarity[enough]


def _distance_from_box(
    keypoints: NDArray[np.float64], bounds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far keypoints ``[p, K, 3]`` lie outside the bounds ``[4, p]``, along x and y: two ``[p, K]``."""
    left, top, right, bottom = bounds[:, :, None]
    x, y = keypoints[..., 0], keypoints[..., 1]
    return (
        np.maximum(left - x, 0) + np.maximum(x - right, 0),
        np.maximum(top - y, 0) + np.maximum(y - bottom, 0),
    )


def _upper_bound(
    keypoints: NDArray[np.float64],
    truth: TruthKeypoints,
    variance: np.float64,
    rows: NDArray[np.int64],
    truth_rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    """What the similarity of each pair cannot exceed, float64 ``[P]``: that of keypoints all as near as the boxes
    around detection and truth, with a margin for rounding."""
    lowest, highest = _extents(keypoints)
    left, top, right, bottom = (side[truth_rows] for side in truth.bounds)
    dx = np.maximum(left - highest[0, rows], lowest[0, rows] - right)
    dy = np.maximum(top - highest[1, rows], lowest[1, rows] - bottom)
    gap = np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2
    scale = truth.scale[truth_rows] + np.spacing(1)
    # An object of negative area, nonsense though it is, is the more similar the farther it lies.
    return np.where(scale > 0, np.exp(-0.999 * gap / variance / np.abs(scale) / 2) * 1.001, np.inf)
