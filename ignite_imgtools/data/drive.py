"""The DRIVE data set: blood vessels of the retina."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from ignite_imgtools.formats import DataError

from .dense_data import DensePart, DenseTransforms, ImagesWithMasks
from .faults import Fault, OnBadSample
from .images import IMAGE_SUFFIXES
from .masks import IGNORED, read_binary_mask
from .pairs import Column, PairTable, examine_pairs, match_files

__all__ = ["DRIVE_CLASSES", "Drive", "DrivePart"]

DRIVE_CLASSES = ("background", "vessel")


@dataclass(frozen=True)
class DrivePart(DensePart):
    """The images in ``training`` or ``test``, with a manual segmentation and a field of view each."""

    root: Path
    split: str
    observer: str = "1st_manual"

    data_format: ClassVar[str] = "drive"

    @property
    def masks_folder(self) -> Path:
        return self.root / self.split / self.observer

    def read(self) -> tuple[PairTable | None, list[Fault]]:
        folder = self.root / self.split
        columns = [
            Column("image", folder / "images", IMAGE_SUFFIXES),
            Column("manual segmentation", self.masks_folder, IMAGE_SUFFIXES),
            Column("field of view", folder / "mask", IMAGE_SUFFIXES),
        ]
        rows, faults = match_files(columns, _number)
        return examine_pairs(columns, rows, faults, folder)

    def target(self, table: PairTable, index: int) -> np.ndarray:
        vessels, view = (read_binary_mask(table.path(index, column)) for column in (1, 2))
        if vessels.shape != view.shape:
            raise DataError(
                f"{table.path(index, 2)}: size: expected {vessels.shape[1]} x {vessels.shape[0]} as "
                f"{table.path(index, 1)} has, got {view.shape[1]} x {view.shape[0]}; replace the field of view"
            )
        return np.where(view, vessels, np.int64(IGNORED))


class Drive(ImagesWithMasks):
    """Images of the retina with their vessels, from a folder like ``DRIVE``: ``images``, ``1st_manual`` and ``mask``
    in ``training`` and ``test``.

    The files of an image are those that begin with its number: ``21_training.tif``, ``21_manual1.gif``,
    ``21_training_mask.gif``. Targets are int64 ``[H, W]``: 1 on vessels, 0 elsewhere, 255 outside of the field of
    view.

    Args:
        root: the folder that ``training`` and ``test`` are in.
        split: which one of them.
        transforms: called as ``transforms(image, target)``, gives the pair back; transforms of torchvision v2 work,
            since image and target are tv_tensors.
        observer: folder of the manual segmentations; ``"2nd_manual"`` are those of a second person.
        on_bad_sample: ``"raise"``: anything bad is refused; ``"skip"``: bad images are left out, ``faults`` tells
            which. What only decoding shows is found when a sample is loaded.

    Raises:
        DataError: a folder is missing, or something is bad and ``on_bad_sample="raise"``.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: Literal["training", "test"] = "training",
        *,
        transforms: DenseTransforms | None = None,
        observer: str = "1st_manual",
        on_bad_sample: OnBadSample = "raise",
    ):
        if split not in ("training", "test"):
            raise ValueError(f"split must be 'training' or 'test', got {split!r}")
        super().__init__(DrivePart(DRIVE_CLASSES, Path(root), split, observer), transforms, on_bad_sample)


def _number(stem: str) -> str:
    """The number that a name begins with; the name itself if there is none."""
    match = re.match(r"\d+", stem)
    return match.group() if match else stem
