"""Detection data sets in YOLO's text format."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from torchvision import tv_tensors

from .detection_table import DetectionTable
from .faults import Fault, OnBadSample, settle_faults
from .images import resolve_inside
from .yolo_file import read_yolo

__all__ = ["YoloDetection"]


class YoloDetection(Dataset[tuple[Any, dict[str, Any]]]):
    """Images with boxes from a folder with ``data.yaml``, or with lists of images, and a text file for each image.

    A line of such a file is an object: ``class x y width height``, the class from 0, the box by its centre and size
    as shares of the image. Its path is that of the image with the last folder named ``images`` replaced by
    ``labels``. An image without a file has no objects. See :func:`~ignite_imgtools.data.yolo_layout.read_yolo_layout`
    for what ``data.yaml`` may say.

    The annotations are kept in flat arrays, so that worker processes share them, and are checked when the data set
    is made. Images of a folder come in order of their paths, those of a list in its order; ``image_id`` is the place
    in it, from 0. Labels are the classes plus 1, since 0 is the background.

    Args:
        root: the folder; nothing outside of it is read.
        split: ``"train"`` or ``"val"``.
        transforms: called as ``transforms(image, target)``, gives the pair back; transforms of torchvision v2 work,
            since images and boxes are tv_tensors.
        class_names: the classes that the data set must have, such as ``class_names`` of another one.
        drop_empty: leave out images without objects.
        on_bad_sample: ``"raise"``: anything bad is refused; ``"skip"``: bad images and objects are left out,
            ``faults`` tells which.
        check_images: look at the end of every image file, beside its header, when the data set is made.

    Raises:
        DataError: the description cannot be read, or something is bad and ``on_bad_sample="raise"``.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        transforms: Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]] | None = None,
        class_names: Sequence[str] | None = None,
        drop_empty: bool = False,
        on_bad_sample: OnBadSample = "raise",
        check_images: bool = True,
    ):
        table, faults = read_yolo(root, split, class_names=class_names, check_images=check_images)
        self.faults: list[Fault] = faults
        settle_faults(self.faults, on_bad_sample, "yolo")
        assert table is not None  # else there was a fatal fault
        self.images_dir = Path(root)
        self.transforms = transforms
        self.table: DetectionTable = table.nonempty(crowd=False) if drop_empty else table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        """The image, uint8 ``[3, H, W]``, and its target, both after ``transforms``.

        Raises:
            DataError: the image cannot be decoded, or has not the size that it had.
        """
        image, target = tv_tensors.Image(self.table.read_image(self.images_dir, index)), self.annotations(index)
        return (image, target) if self.transforms is None else self.transforms(image, target)

    def annotations(self, index: int) -> dict[str, Any]:
        """The target of an image before ``transforms``, without reading the image."""
        return self.table.target(index, crowd=False)

    def image_size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` of an image in pixels, without reading it."""
        return self.table.image_size(index)

    def image_sizes(self) -> np.ndarray:
        """Sizes of all images, int64 ``[N, 2]``: height and width."""
        return self.table.sizes.copy()

    def image_path(self, index: int) -> Path:
        """Path of an image file."""
        return resolve_inside(self.images_dir, self.table.name(index))

    @property
    def class_names(self) -> list[str]:
        """Name of each label; label 0 is the background."""
        return self.table.class_names

    @property
    def category_ids(self) -> dict[int, int]:
        """The class that the label files have for each label."""
        return {label: category.id for label, category in enumerate(self.table.categories, start=1)}
