"""Annotations of a detection data set as flat arrays, and the targets made of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from ignite_imgtools.formats import DataError

from .images import read_image, resolve_inside
from .ragged import Ragged, starts_of
from .segmentations import Segmentations

__all__ = ["BACKGROUND", "Category", "DetectionTable", "boxes_xywh_to_clipped_xyxy", "clipped_corners"]

BACKGROUND = "__background__"
"""Name of label 0."""


@dataclass(frozen=True)
class Category:
    """A class of objects: its id in the file (its label is its place in the list, from 1) and its name; for classes
    with keypoints their names and, as pairs of numbers counted from 1, the lines to draw between them."""

    id: int
    name: str
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class DetectionTable:
    """``I`` images with ``A`` objects in all; those of one image stand together.

    Args:
        image_ids: int64 ``[I]``.
        sizes: int64 ``[I, 2]``, height and width in pixels.
        names: paths of the image files relative to the folder of images, as bytes.
        starts: int64 ``[I + 1]``; image ``i`` has the objects ``starts[i]:starts[i + 1]``.
        boxes_xywh: float64 ``[A, 4]`` in pixels, as the file has them: they may reach out of the image.
        labels: int64 ``[A]``, from 1.
        areas: float64 ``[A]`` in square pixels, as the file has them.
        iscrowd: bool ``[A]``.
        categories: category of label ``l`` at ``l - 1``.
        segmentations: of the ``A`` objects, or ``None`` where none has any.
        keypoints: float64 ``[A, K, 3]``: x, y, visibility 0, 1 or 2; or ``None`` where none has any.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    names: Ragged
    starts: np.ndarray
    boxes_xywh: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    iscrowd: np.ndarray
    categories: tuple[Category, ...]
    segmentations: Segmentations | None = None
    keypoints: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def class_names(self) -> list[str]:
        """Name of each label, the background's at 0."""
        return [BACKGROUND, *(category.name for category in self.categories)]

    def name(self, index: int) -> str:
        """Path of an image relative to the folder of images."""
        return os.fsdecode(self.names[index].tobytes())

    def image_size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` of an image in pixels."""
        height, width = self.sizes[index].tolist()
        return height, width

    def objects(self, index: int, crowd: bool = True) -> np.ndarray:
        """Indices of an image's objects, those that are crowds left out if ``crowd=False``."""
        rows = np.arange(self.starts[index], self.starts[index + 1])
        return rows if crowd else rows[~self.iscrowd[rows]]

    def count_objects(self, crowd: bool) -> np.ndarray:
        """Number of objects of each image, crowds left out if ``crowd=False``: int64 ``[I]``."""
        counted = np.ones(len(self.labels), dtype=bool) if crowd else ~self.iscrowd
        return np.diff(np.concatenate(([0], np.cumsum(counted)))[self.starts])

    def take_images(self, indices: np.ndarray) -> DetectionTable:
        """The table of these images and their objects, in this order."""
        objects = Ragged(np.arange(len(self.labels)), self.starts).take(indices)
        rows = objects.values
        return DetectionTable(
            image_ids=self.image_ids[indices],
            sizes=self.sizes[indices],
            names=self.names.take(indices),
            starts=objects.starts,
            boxes_xywh=self.boxes_xywh[rows],
            labels=self.labels[rows],
            areas=self.areas[rows],
            iscrowd=self.iscrowd[rows],
            categories=self.categories,
            segmentations=None if self.segmentations is None else self.segmentations.take(rows),
            keypoints=None if self.keypoints is None else self.keypoints[rows],
        )

    def take_label(self, label: int) -> DetectionTable:
        """The table of all images with the objects of this label alone."""
        rows = np.flatnonzero(self.labels == label)
        owners = np.repeat(np.arange(len(self)), np.diff(self.starts))[rows]
        return replace(
            self,
            starts=starts_of(np.bincount(owners, minlength=len(self))),
            boxes_xywh=self.boxes_xywh[rows],
            labels=self.labels[rows],
            areas=self.areas[rows],
            iscrowd=self.iscrowd[rows],
            segmentations=None if self.segmentations is None else self.segmentations.take(rows),
            keypoints=None if self.keypoints is None else self.keypoints[rows],
        )

    def nonempty(self, crowd: bool) -> DetectionTable:
        """The table without the images that have no objects, where crowds do not count if ``crowd=False``."""
        return self.take_images(np.flatnonzero(self.count_objects(crowd)))

    def read_image(self, folder: Path, index: int) -> Tensor:
        """Decode an image of the folder of images: uint8 ``[3, H, W]``.

        Raises:
            DataError: it cannot be decoded, lies outside the folder, or has another size than the table.
        """
        path = resolve_inside(folder, self.name(index))
        image = read_image(path)
        if (size := tuple(image.shape[1:])) != self.image_size(index):
            height, width = self.image_size(index)
            raise DataError(
                f"{path}: expected {width} x {height} pixels as annotated for image {self.image_ids[index]}, "
                f"got {size[1]} x {size[0]}; correct the size and its boxes, or the image"
            )
        return image

    def target(self, index: int, *, crowd: bool, masks: bool = False, keypoints: bool = False) -> dict[str, Any]:
        """Target of an image, of tensors that nobody else holds, so that transforms may write into them.

        Args:
            crowd: whether objects that are crowds belong to it.
            masks: add ``masks``; they are empty where an object has no segmentation.
            keypoints: add ``keypoints``; their visibility is 0 where an object has none.

        Returns:
            See :class:`ignite_imgtools.formats.DetectionTarget`; ``boxes`` are clipped to the image.
        """
        rows = self.objects(index, crowd)
        height, width = self.image_size(index)
        boxes = boxes_xywh_to_clipped_xyxy(self.boxes_xywh[rows], self.sizes[index : index + 1])
        target: dict[str, Any] = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes), format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=(height, width)
            ),
            "labels": torch.from_numpy(self.labels[rows]),
            "image_id": int(self.image_ids[index]),
            "area": torch.from_numpy(self.areas[rows].astype(np.float32)),
            "iscrowd": torch.from_numpy(self.iscrowd[rows]),
        }
        if masks:
            target["masks"] = tv_tensors.Mask(self._masks(rows, height, width))
        if keypoints:
            points = np.zeros((len(rows), 0, 3)) if self.keypoints is None else self.keypoints[rows]
            target["keypoints"] = torch.from_numpy(points.astype(np.float32))
        return target

    def _masks(self, rows: np.ndarray, height: int, width: int) -> Tensor:
        masks = torch.zeros((len(rows), height, width), dtype=torch.uint8)
        if self.segmentations is not None:
            for mask, row in zip(masks, rows.tolist(), strict=True):
                mask.copy_(torch.from_numpy(self.segmentations.mask(row, height, width)))
        return masks


def boxes_xywh_to_clipped_xyxy(boxes_xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """:func:`clipped_corners` in float32, as targets have them."""
    return clipped_corners(boxes_xywh, sizes).astype(np.float32)


def clipped_corners(boxes_xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Corners of boxes, clipped to their images.

    Args:
        boxes_xywh: float64 ``[N, 4]``.
        sizes: ``[N, 2]`` or ``[1, 2]``, height and width.

    Returns:
        float64 ``[N, 4]``.
    """
    corners = boxes_xywh.copy()
    corners[:, 2:] += corners[:, :2]
    return np.clip(corners, 0, sizes[:, [1, 0, 1, 0]], out=corners)
