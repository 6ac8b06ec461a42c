"""Anchors for a detector: shapes of boxes found by k-means among the objects of a data set, and how well they fit."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import Dataset

from .detection_table import DetectionTable, clipped_corners
from .subsets import unwrap_subset

__all__ = ["AnchorFit", "anchor_fit", "describe_anchors", "kmeans_anchors", "object_sizes"]

_MOST_OBJECTS = 100_000
_ROUNDS = 300


class AnchorFit(NamedTuple):
    """How well anchors fit the objects of a data set.

    ``mean_iou``: mean over the objects of the IoU with the anchor most similar in shape, both with one centre;
    ``best_possible_recall``: share of the objects for which that IoU is above a threshold, so that a detector that
    assigns objects by it can learn them.
    """

    mean_iou: float
    best_possible_recall: float


def object_sizes(dataset: Dataset[Any], size: int) -> np.ndarray:
    """Widths and heights of all objects that are not crowds, in images scaled so that their longer side measures
    ``size`` pixels; no image is read.

    Args:
        dataset: one of our detection data sets, one with ``annotations(index)`` and ``image_size(index)``, or a subset
            of either.

    Returns:
        float64 ``[N, 2]``, each ``(width, height)`` in pixels.
    """
    base, indices = unwrap_subset(dataset)
    table = getattr(base, "table", None)
    if isinstance(table, DetectionTable):
        table = table if indices is None else table.take_images(indices)
        sizes = np.repeat(table.sizes, np.diff(table.starts), axis=0)[~table.iscrowd]
        corners = clipped_corners(table.boxes_xywh[~table.iscrowd], sizes)
    else:
        indices = np.arange(len(base)) if indices is None else indices  # type: ignore[arg-type]
        rows: Any = base
        boxes = [np.asarray(rows.annotations(index)["boxes"], np.float64).reshape(-1, 4) for index in indices.tolist()]
        each = np.array([rows.image_size(index) for index in indices.tolist()]).reshape(-1, 2)
        sizes = np.repeat(each, [len(of_image) for of_image in boxes], axis=0)
        corners = np.concatenate([*boxes, np.zeros((0, 4))])
    scaled: np.ndarray = (corners[:, 2:] - corners[:, :2]) * (size / sizes.max(axis=1, initial=1))[:, None]
    return scaled[(scaled > 0).all(axis=1)]


def kmeans_anchors(sizes: ArrayLike, count: int = 9) -> np.ndarray:
    """Shapes of anchors by k-means, where the distance of two shapes is 1 less their IoU with one centre (YOLO9000,
    arXiv:1612.08242).

    The centres start as the shapes at even steps in order of area, so nothing is drawn. Of very many shapes an even
    selection is looked at.

    Args:
        sizes: ``(width, height)`` of the objects, ``[N, 2]``, positive: see :func:`object_sizes`.
        count: number of anchors.

    Returns:
        float64 ``[count, 2]``, in order of area. Some are equal where there are fewer different shapes.

    Raises:
        ValueError: there are no objects, or ``count`` is below 1.

    >>> kmeans_anchors([[10, 10], [10, 10], [12, 10], [40, 80], [40, 80]], 2).tolist()
    [[10.666666666666666, 10.0], [40.0, 80.0]]
    """
    shapes = np.asarray(sizes, np.float64).reshape(-1, 2)
    if count < 1 or not len(shapes):
        raise ValueError(f"k-means needs at least one anchor and one object, got {count} and {len(shapes)}")
    shapes = shapes[np.argsort(shapes.prod(axis=1), kind="stable")]
    shapes = shapes[:: -(-len(shapes) // _MOST_OBJECTS)]
    centres = shapes[((np.arange(count) + 0.5) * len(shapes) / count).astype(np.int64)]
    nearest = np.full(len(shapes), -1)
    for _ in range(_ROUNDS):
        before, nearest = nearest, _shape_iou(shapes, centres).argmax(axis=1)
        if (nearest == before).all():
            break
        members = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, shapes[:, axis], count) for axis in (0, 1)], axis=1)
        filled = members > 0
        centres[filled] = sums[filled] / members[filled, None]
    order: np.ndarray = centres[np.argsort(centres.prod(axis=1), kind="stable")]
    return order


def anchor_fit(sizes: ArrayLike, anchors: ArrayLike, threshold: float = 0.2) -> AnchorFit:
    """How well ``anchors`` ``[K, 2]`` fit objects ``[N, 2]``.

    Args:
        sizes: as for :func:`kmeans_anchors`.
        anchors: the same.
        threshold: of the recall; the default is that of :class:`ignite_imgtools.losses.YoloLoss`.
    """
    best = _shape_iou(np.asarray(sizes, np.float64), np.asarray(anchors, np.float64)).max(axis=1)
    return AnchorFit(float(best.mean()), float((best > threshold).mean()))


def describe_anchors(dataset: Dataset[Any], size: int = 512, count: int = 9) -> str:
    """In one line: anchors by k-means for a data set and their fit; none where it has no objects."""
    sizes = object_sizes(dataset, size)
    if not len(sizes):
        return ""
    anchors = kmeans_anchors(sizes, count).round(1)
    fit = anchor_fit(sizes, anchors)
    text = ", ".join(f"{width:g}x{height:g}" for width, height in anchors)
    return (
        f"anchors by k-means at {size} pixels: {text}; of {len(sizes)} objects mean IoU {fit.mean_iou:.3f}, "
        f"best possible recall {fit.best_possible_recall:.4f}"
    )


def _shape_iou(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    overlap = np.minimum(sizes[:, None], anchors).prod(axis=2)
    iou: np.ndarray = overlap / (sizes.prod(axis=1)[:, None] + anchors.prod(axis=1) - overlap)
    return iou
