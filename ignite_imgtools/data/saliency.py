"""Saliency data sets: images, and black and white masks of the same names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from .dense_data import DensePart, DenseTransforms, ImagesWithMasks
from .faults import Fault, OnBadSample
from .images import IMAGE_SUFFIXES
from .masks import read_binary_mask
from .pairs import Column, PairTable, examine_pairs, list_files, match_files

__all__ = ["SaliencyPairs", "SaliencyPart", "is_mixed_folder"]

_PHOTOS = (".jpg", ".jpeg")
_NO_PHOTOS = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix not in _PHOTOS)


@dataclass(frozen=True)
class SaliencyPart(DensePart):
    """The files of two folders, or of one that has photographs in JPEG and masks in another format."""

    images_dir: Path
    masks_dir: Path

    data_format: ClassVar[str] = "saliency"

    @property
    def masks_folder(self) -> Path:
        return self.masks_dir

    def read(self) -> tuple[PairTable | None, list[Fault]]:
        mixed = self.images_dir == self.masks_dir
        image_suffixes, mask_suffixes = (_PHOTOS, _NO_PHOTOS) if mixed else (IMAGE_SUFFIXES, IMAGE_SUFFIXES)
        columns = [Column("image", self.images_dir, image_suffixes), Column("mask", self.masks_dir, mask_suffixes)]
        rows, faults = match_files(columns)
        return examine_pairs(columns, rows, faults, self.images_dir)

    def target(self, table: PairTable, index: int) -> np.ndarray:
        return read_binary_mask(table.path(index, 1))[None].astype(np.float32)


class SaliencyPairs(ImagesWithMasks):
    """Images with black and white masks from two folders: a mask has the name of its image, with a suffix of its own.

    Targets are float32 ``[1, H, W]``: 1 where the mask has at least half of the full brightness, else 0. There are no
    classes, so ``class_names`` is empty.

    Args:
        images_dir: folder of the images, as ``DUTS-TR-Image``; nothing outside of it is read.
        masks_dir: folder of the masks, as ``DUTS-TR-Mask``. It may be the same one, as MSRA has it: then JPEGs are
            the images and other formats the masks.
        transforms: called as ``transforms(image, target)``, gives the pair back; transforms of torchvision v2 work,
            since image and target are tv_tensors.
        on_bad_sample: ``"raise"``: anything bad is refused; ``"skip"``: bad images are left out, ``faults`` tells
            which. What only decoding shows is found when a sample is loaded.

    Raises:
        DataError: a folder is missing, or something is bad and ``on_bad_sample="raise"``.
    """

    def __init__(
        self,
        images_dir: str | os.PathLike[str],
        masks_dir: str | os.PathLike[str],
        *,
        transforms: DenseTransforms | None = None,
        on_bad_sample: OnBadSample = "raise",
    ):
        super().__init__(SaliencyPart((), Path(images_dir), Path(masks_dir)), transforms, on_bad_sample)


def is_mixed_folder(folder: Path) -> bool:
    """Whether a folder holds a JPEG and an image of another format of the same name."""
    columns = Column("image", folder, _PHOTOS), Column("mask", folder, _NO_PHOTOS)
    photos, masks = (list_files(column, str)[0] for column in columns)
    return not photos.keys().isdisjoint(masks)
