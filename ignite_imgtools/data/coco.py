"""Detection data sets in COCO's format."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset
from torchvision import tv_tensors

from .coco_file import read_coco
from .detection_table import DetectionTable
from .faults import Fault, OnBadSample, settle_faults
from .images import resolve_inside

__all__ = ["CocoDetection"]


class CocoDetection(Dataset[tuple[Any, dict[str, Any]]]):
    """Images with boxes, masks and keypoints from a COCO annotation file (instances or person keypoints).

    The annotations are kept in flat arrays, so that worker processes share them, and are checked when the data set
    is made. Boxes reaching out of an image are clipped to it in the targets. Images come in order of their ids.

    Labels count from 1 in order of the category ids: ``class_names[label]`` and ``category_ids[label]``.

    Crowds are no single objects, so nobody should train on them: by default targets do not have them. Evaluation
    needs them to forgive detections there: :func:`coco_index` always has them.

    Args:
        images_dir: folder of the images; nothing outside of it is read.
        annotation_file: the json file.
        transforms: called as ``transforms(image, target)``, gives the pair back; transforms of torchvision v2 work,
            since images, boxes and masks are tv_tensors.
        masks: targets have ``masks``.
        keypoints: targets have ``keypoints``.
        crowd: ``"drop"``: targets are without the objects that are crowds; ``"keep"``: they are marked in
            ``iscrowd``.
        drop_empty: leave out images whose target would be empty.
        on_bad_sample: ``"raise"``: anything bad is refused; ``"skip"``: bad images and annotations are left out,
            ``faults`` tells which.
        check_images: look at every image file when the data set is made, at its header and its end alone.
        cache: keep the index of a file of more than 20 MB on disk, and take it from there as long as the file's content
            is the same: see ``$IGNITE_IMGTOOLS_CACHE`` in the docs.

    Raises:
        DataError: the file cannot be read, or something in it is bad and ``on_bad_sample="raise"``.
    """

    def __init__(
        self,
        images_dir: str | os.PathLike[str],
        annotation_file: str | os.PathLike[str],
        *,
        transforms: Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]] | None = None,
        masks: bool = False,
        keypoints: bool = False,
        crowd: Literal["drop", "keep"] = "drop",
        drop_empty: bool = False,
        on_bad_sample: OnBadSample = "raise",
        check_images: bool = True,
        cache: bool = True,
    ):
        if crowd not in ("drop", "keep"):
            raise ValueError(f"crowd must be 'drop' or 'keep', got {crowd!r}")
        table, faults = read_coco(annotation_file, images_dir, check_images=check_images, cache=cache)
        self.faults: list[Fault] = faults
        settle_faults(self.faults, on_bad_sample, "coco")
        assert table is not None  # else there was a fatal fault
        self.images_dir = Path(images_dir)
        self.transforms = transforms
        self._masks, self._keypoints, self._crowd = masks, keypoints, crowd == "keep"
        self.table: DetectionTable = table.nonempty(self._crowd) if drop_empty else table

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
        return self.table.target(index, crowd=self._crowd, masks=self._masks, keypoints=self._keypoints)

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
        """The category id that the file has for each label."""
        return {label: category.id for label, category in enumerate(self.table.categories, start=1)}
