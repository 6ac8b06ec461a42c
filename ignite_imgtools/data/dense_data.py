"""What all data sets for dense prediction are: images with a mask each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ignite_imgtools.formats import DataError
from ignite_imgtools.progress import tick

from .faults import Fault, OnBadSample, fault_of_error, settle_faults
from .images import read_image
from .pairs import PairTable

__all__ = ["DensePart", "DenseTransforms", "ImagesWithMasks"]

DenseTransforms = Callable[[Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class DensePart:
    """A part of a data set on disk, such as its training part: which files it has, and what their masks mean.

    Args:
        class_names: name of each class; none where the masks are black and white.
    """

    class_names: tuple[str, ...]

    data_format: ClassVar[str]
    """Name of the format, as ``check`` and ``make-data`` know it."""

    @property
    def masks_folder(self) -> Path:
        """Where the masks are."""
        raise NotImplementedError

    def read(self) -> tuple[PairTable | None, list[Fault]]:
        """Match the files and look at them, without decoding.

        Returns:
            The files that can be used, or ``None`` if a fault is fatal; and all faults.
        """
        raise NotImplementedError

    def target(self, table: PairTable, index: int) -> np.ndarray:
        """Decode the mask of an image: int64 ``[H, W]``, or float32 ``[1, H, W]``.

        Raises:
            DataError: it cannot be decoded, or has values that mean nothing.
        """
        raise NotImplementedError

    def check_targets(self, table: PairTable) -> tuple[list[Fault], set[int]]:
        """Decode all masks.

        Returns:
            What is wrong with them, and the values that the good ones have.
        """
        faults = []
        values: set[int] = set()
        for index in range(len(table)):
            try:
                tick()
                target = self.target(table, index)
            except DataError as error:
                masks = [table.path(index, column) for column in range(1, len(table.folders))]
                path = next((path for path in masks if str(error.args[0]).startswith(f"{path}: ")), masks[0])
                faults.append(fault_of_error(error, path))
            else:
                # Sorting them, as unique does, takes a hundred times as long.
                values.update(np.flatnonzero(np.bincount(target.ravel().astype(np.uint8))).tolist())
        return faults, values


class ImagesWithMasks(Dataset[tuple[Any, Any]]):
    """Images with a mask each: the base of the data sets for segmentation and saliency.

    Args:
        part: the files.
        transforms: called as ``transforms(image, target)``, gives the pair back; transforms of torchvision v2 work,
            since image and target are tv_tensors.
        on_bad_sample: ``"raise"``: anything bad is refused; ``"skip"``: bad images are left out, ``faults`` tells
            which. What only decoding shows is found when a sample is loaded.

    Raises:
        DataError: nothing can be read, or something is bad and ``on_bad_sample="raise"``.
    """

    def __init__(self, part: DensePart, transforms: DenseTransforms | None, on_bad_sample: OnBadSample):
        table, faults = part.read()
        self.faults: list[Fault] = faults
        settle_faults(faults, on_bad_sample, part.data_format)
        assert table is not None  # else there was a fatal fault
        self.part, self.table, self.transforms = part, table, transforms

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """The image, uint8 ``[3, H, W]``, and its target, a ``tv_tensors.Mask``, both after ``transforms``.

        Raises:
            DataError: one of the files cannot be decoded, the mask has values that mean nothing, or the sizes differ.
        """
        path = self.image_path(index)
        image, target = tv_tensors.Image(read_image(path)), self.target(index)
        if image.shape[1:] != target.shape[-2:]:
            raise DataError(
                f"{self.mask_path(index)}: size: expected {image.shape[2]} x {image.shape[1]} as {path} has, "
                f"got {target.shape[-1]} x {target.shape[-2]}; replace the mask"
            )
        return (image, target) if self.transforms is None else self.transforms(image, target)

    def target(self, index: int) -> Any:
        """The target of an image before ``transforms``, without reading the image."""
        return tv_tensors.Mask(torch.from_numpy(self.part.target(self.table, index)))

    def image_size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` of an image in pixels, without reading it."""
        return self.table.size(index)

    def image_sizes(self) -> np.ndarray:
        """Sizes of all images, int64 ``[N, 2]``: height and width."""
        return self.table.sizes.copy()

    def image_path(self, index: int) -> Path:
        """Path of an image file."""
        return self.table.path(index)

    def mask_path(self, index: int) -> Path:
        """Path of a mask file."""
        return self.table.path(index, 1)

    @property
    def file_names(self) -> Sequence[str]:
        """Names of the image files."""
        return [self.table.name(index) for index in range(len(self))]

    @property
    def class_names(self) -> list[str]:
        """Name of each class; none where the masks are black and white."""
        return list(self.part.class_names)

    @property
    def num_classes(self) -> int:
        """Number of classes, the background included; 1 where the masks are black and white."""
        return len(self.part.class_names) or 1
