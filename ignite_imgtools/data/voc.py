"""Detection data sets in PASCAL VOC's format."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset
from torchvision import tv_tensors

from .detection_table import DetectionTable
from .faults import Fault, OnBadSample, settle_faults
from .images import resolve_inside
from .voc_file import VOC_CLASSES, read_voc

__all__ = ["VOC_CLASSES", "VocDetection"]


class VocDetection(Dataset[tuple[Any, dict[str, Any]]]):
    """Images with boxes, and masks if asked, from a folder like ``VOCdevkit/VOC2012``: ``ImageSets/Main``,
    ``Annotations``, ``JPEGImages``, ``SegmentationObject``.

    The annotations are kept in flat arrays, so that worker processes share them, and are checked when the data set
    is made. Images come in the order of the list; ``image_id`` is the place in it, from 0.

    Boxes are the numbers of the files: ``xmin, ymin, xmax, ymax``, taken for edges in pixels, and ``area`` is width
    by height. VOC means by them the first and the last pixel of an object, counted from 1, so a box read this way
    begins one pixel further to the right and below; all common tutorials read it so, and their figures rest on it.

    Args:
        root: the folder; nothing outside of it is read.
        split: name of the list in ``ImageSets/Main``.
        transforms: called as ``transforms(image, target)``, gives the pair back; transforms of torchvision v2 work,
            since images and boxes are tv_tensors.
        class_names: the classes in order of their labels, such as ``class_names`` of another data set. By default
            they are gathered from all files in ``Annotations``: the 20 of VOC in its order if there are no others,
            else the names found, sorted.
        difficult: what to do with objects marked difficult. ``"ignore"``: targets do not have them, and evaluation
            (:func:`coco_index`) treats them as crowds, neither found nor missed; ``"keep"``: they are objects like
            others in both.
        masks: targets have ``masks``, from ``SegmentationObject``, where number ``n`` marks the pixels of the n-th
            object of the xml file; the images are those of ``ImageSets/Segmentation`` if it has the list, and areas
            are those of masks. All masks are decoded once, when the data set is made, and kept as run lengths.
        drop_empty: leave out images whose target would be empty.
        on_bad_sample: ``"raise"``: anything bad is refused; ``"skip"``: bad images and objects are left out,
            ``faults`` tells which.
        check_images: look at every image file when the data set is made, at its header and its end alone.

    Raises:
        DataError: the list cannot be read, or something is bad and ``on_bad_sample="raise"``.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        *,
        transforms: Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]] | None = None,
        class_names: Sequence[str] | None = None,
        difficult: Literal["ignore", "keep"] = "ignore",
        masks: bool = False,
        drop_empty: bool = False,
        on_bad_sample: OnBadSample = "raise",
        check_images: bool = True,
    ):
        if difficult not in ("ignore", "keep"):
            raise ValueError(f"difficult must be 'ignore' or 'keep', got {difficult!r}")
        table, faults = read_voc(
            root,
            split,
            class_names=class_names,
            difficult_is_crowd=difficult == "ignore",
            masks=masks,
            check_images=check_images,
        )
        self.faults: list[Fault] = faults
        settle_faults(self.faults, on_bad_sample, "voc")
        assert table is not None  # else there was a fatal fault
        self.images_dir = Path(root) / "JPEGImages"
        self.transforms = transforms
        self._masks = masks
        self.table: DetectionTable = table.nonempty(crowd=False) if drop_empty else table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        """The image, uint8 ``[3, H, W]``, and its target, both after ``transforms``.

        Raises:
            DataError: the image cannot be decoded, or has not the size annotated.
        """
        image, target = tv_tensors.Image(self.table.read_image(self.images_dir, index)), self.annotations(index)
        return (image, target) if self.transforms is None else self.transforms(image, target)

    def annotations(self, index: int) -> dict[str, Any]:
        """The target of an image before ``transforms``, without reading the image."""
        return self.table.target(index, crowd=False, masks=self._masks)

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
