"""Groups of images of similar shape, so that a batch carries little padding.

Everything here works on sizes alone: no image is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from ignite_imgtools.formats import DataError

__all__ = ["aspect_ratio_groups", "image_sizes", "padded_shape_groups", "padded_shapes"]

Sizes: TypeAlias = "Dataset[Any] | ArrayLike | Tensor"
"""A data set that knows its image sizes, or the sizes: integers ``[N, 2]``, each (height, width) in pixels."""


def image_sizes(dataset: Dataset[Any]) -> np.ndarray:
    """Sizes of all images of a data set, without decoding any.

    Args:
        dataset: has ``image_size(index) -> (height, width)`` or, quicker, ``image_sizes() -> [N, 2]``; or is a
            ``Subset`` or ``ConcatDataset`` of such data sets.

    Returns:
        int64 ``[N, 2]``, each (height, width) in pixels.

    Raises:
        TypeError: the data set has neither method.
        DataError: it gives sizes that are not positive.
    """
    if isinstance(dataset, Subset):
        return image_sizes(dataset.dataset)[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([image_sizes(part) for part in dataset.datasets])
    if hasattr(dataset, "image_sizes"):
        sizes = np.asarray(dataset.image_sizes())
    elif hasattr(dataset, "image_size"):
        sizes = np.array([dataset.image_size(index) for index in range(len(dataset))])  # type: ignore[arg-type]
    else:
        raise TypeError(
            f"grouping by shape needs image sizes, but {type(dataset).__name__} has no method image_size(index) "
            "-> (height, width): add one, or give the group of each image as integers"
        )
    return _checked_sizes(sizes)


def aspect_ratio_groups(dataset_or_sizes: Sizes, bins: int = 3) -> np.ndarray:
    """Group of each image by its aspect ratio, in the bins of torchvision's detection references.

    The edges are ``2 ** linspace(-1, 1, 2 * bins + 1)`` (``[1]`` for ``bins=0``), so there are ``2 * bins + 2``
    groups; an image whose ratio width / height is an edge belongs above it.

    Returns:
        int64 ``[N]``, values 0 to ``2 * bins + 1``.

    Raises:
        ValueError: ``bins`` is negative.
    """
    if bins < 0:
        raise ValueError(f"bins must be 0 or more, got {bins}")
    sizes = _sizes_of(dataset_or_sizes)
    edges = 2.0 ** np.linspace(-1, 1, 2 * bins + 1) if bins else np.ones(1)
    return np.searchsorted(edges, sizes[:, 1] / sizes[:, 0], side="right")


def padded_shapes(dataset_or_sizes: Sizes, min_size: int = 800, max_size: int = 1333, divisor: int = 32) -> np.ndarray:
    """Shape of each image after the resize of torchvision's detectors and padding to a multiple of ``divisor``.

    The arithmetic is exactly that of ``torchvision.models.detection.transform.GeneralizedRCNNTransform``: one scale
    in double precision, then the size rounded down.

    Args:
        min_size: what the shorter side is resized to, in pixels.
        max_size: what the longer side may not exceed, in pixels.
        divisor: both sides are padded to a multiple of it.

    Returns:
        int64 ``[N, 2]``, each (height, width) in pixels.

    Raises:
        ValueError: an argument is below 1.
    """
    for name, value in (("min_size", min_size), ("max_size", max_size), ("divisor", divisor)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    sizes = _sizes_of(dataset_or_sizes)
    scales = np.minimum(min_size / sizes.min(axis=1), max_size / sizes.max(axis=1))
    resized = np.floor(sizes * scales[:, None]).astype(np.int64)
    return -(-resized // divisor) * divisor


def padded_shape_groups(
    dataset_or_sizes: Sizes, min_size: int = 800, max_size: int = 1333, divisor: int = 32
) -> np.ndarray:
    """Group of each image by its exact shape in a detector, see :func:`padded_shapes`: in a group none is padded more.

    Returns:
        int64 ``[N]``: groups numbered from 0 in order of height, then width.
    """
    shapes = padded_shapes(dataset_or_sizes, min_size, max_size, divisor)
    # One number for each shape: np.unique of rows is many times slower.
    codes = shapes[:, 0] * (shapes[:, 1].max(initial=0) + 1) + shapes[:, 1]
    return np.unique(codes, return_inverse=True)[1]


def _sizes_of(dataset_or_sizes: Any) -> np.ndarray:
    if isinstance(dataset_or_sizes, np.ndarray | torch.Tensor | Sequence):
        return _checked_sizes(np.asarray(dataset_or_sizes))
    return image_sizes(dataset_or_sizes)


def _checked_sizes(sizes: np.ndarray) -> np.ndarray:
    if not sizes.size:
        return np.zeros((0, 2), dtype=np.int64)
    if sizes.ndim != 2 or sizes.shape[1] != 2 or not np.issubdtype(sizes.dtype, np.integer):
        raise ValueError(f"image sizes must be integers [N, 2], (height, width), got {sizes.dtype} {sizes.shape}")
    wrong = np.flatnonzero((sizes < 1).any(axis=1))
    if wrong.size:
        height, width = sizes[wrong[0]]
        raise DataError(
            f"image {wrong[0]}: height and width must be at least 1 pixel, got {height} x {width} "
            f"({wrong.size} such images); correct the annotation"
        )
    return sizes.astype(np.int64, copy=False)
