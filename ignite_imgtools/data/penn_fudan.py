"""The Penn-Fudan pedestrians (Wang et al., ACCV 2007), as an example of a data set of one's own in one file.

Nothing of this package is needed for such a data set but the format of its samples. What it has beside
``__getitem__`` and ``__len__`` lets other parts do without decoding images: ``image_size`` for batches of one shape,
``annotations`` and ``class_names`` for the evaluation.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ignite_imgtools.formats import DataError

from .detection_table import BACKGROUND
from .faults import Fault, OnBadSample, fault_of_error, settle_faults
from .image_faults import examine_image
from .images import IMAGE_SUFFIXES, read_image, resolve_inside
from .masks import IGNORED, read_mask

__all__ = ["PennFudan"]


class PennFudan(Dataset[tuple[Any, dict[str, Any]]]):
    """Pedestrians with boxes and masks: ``PNGImages/NAME.png`` and ``PedMasks/NAME_mask.png``.

    In a mask image number ``n`` marks the pixels of the n-th pedestrian; boxes are drawn around them. Images come
    sorted by name; ``image_id`` counts them from 0.

    Args:
        root: the folder that holds ``PNGImages`` and ``PedMasks``; nothing outside of it is read.
        transforms: called as ``transforms(image, target)``, gives the pair back.
        masks: targets have ``masks``, uint8 ``[N, H, W]``.
        on_bad_sample: ``"raise"``: anything bad is refused; ``"skip"``: bad images are left out, ``faults`` tells
            which.

    Raises:
        DataError: there is no image, or something is bad and ``on_bad_sample="raise"``.
    """

    class_names: ClassVar[list[str]] = [BACKGROUND, "pedestrian"]

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        transforms: Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]] | None = None,
        masks: bool = False,
        on_bad_sample: OnBadSample = "raise",
    ):
        self.root, self.transforms, self._masks = Path(root), transforms, masks
        self.faults: list[Fault] = []
        folder = self.root / "PNGImages"
        found = sorted(path.name for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        self._names, self._sizes = [], []
        for name in found:
            size, fault = self._examine(name)
            if fault is None and size is not None:
                self._names.append(name)
                self._sizes.append(size)
            elif fault is not None:
                self.faults.append(fault)
        if not self._names:
            self.faults.append(Fault(str(folder), "", "images", "at least one with its mask", "none", fatal=True))
        settle_faults(self.faults, on_bad_sample, "penn_fudan")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        """The image, uint8 ``[3, H, W]``, and its target, both after ``transforms``.

        Raises:
            DataError: a file cannot be decoded.
        """
        image, target = tv_tensors.Image(read_image(self.image_path(index))), self._target(index, self._masks)
        return (image, target) if self.transforms is None else self.transforms(image, target)

    def annotations(self, index: int) -> dict[str, Any]:
        """The target of an image, with masks, before ``transforms``; the image is not read."""
        return self._target(index, masks=True)

    def image_size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` of an image in pixels, without reading it."""
        return self._sizes[index]

    def image_path(self, index: int) -> Path:
        """Path of an image file."""
        return resolve_inside(self.root / "PNGImages", self._names[index])

    def _target(self, index: int, masks: bool) -> dict[str, Any]:
        numbers = self._numbers(self._names[index])
        objects = np.setdiff1d(numbers, (0, IGNORED))
        pixels = numbers == objects[:, None, None]
        boxes = np.array([_box(one) for one in pixels], dtype=np.float32).reshape(-1, 4)
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes), format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=numbers.shape
            ),
            "labels": torch.ones(len(objects), dtype=torch.int64),
            "image_id": index,
            "area": torch.from_numpy(pixels.sum((1, 2)).astype(np.float32)),
            "iscrowd": torch.zeros(len(objects), dtype=torch.bool),
        }
        if masks:
            target["masks"] = tv_tensors.Mask(torch.from_numpy(pixels.astype(np.uint8)))
        return target

    def _numbers(self, name: str) -> np.ndarray:
        return read_mask(resolve_inside(self.root / "PedMasks", f"{Path(name).stem}_mask.png")).numpy()

    def _examine(self, name: str) -> tuple[tuple[int, int] | None, Fault | None]:
        size, fault = examine_image(self.root / "PNGImages", name, None, str(self.root / "PNGImages"), "")
        if fault is not None or size is None:
            return None, fault
        mask = self.root / "PedMasks" / f"{Path(name).stem}_mask.png"
        try:
            numbers = self._numbers(name)
        except DataError as error:
            return None, fault_of_error(error, mask)
        if numbers.shape != size:
            came = f"{numbers.shape[1]} x {numbers.shape[0]}"
            return None, Fault(str(mask), "", "size", f"that of the image, {size[1]} x {size[0]}", came)
        return size, None


def _box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
