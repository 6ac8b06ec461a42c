"""Segmentation data sets of two folders: images, and masks of the same names."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from .class_list import checked_class_names, count_classes, find_class_names
from .dense_data import DensePart, DenseTransforms, ImagesWithMasks
from .faults import Fault, OnBadSample, shown
from .images import IMAGE_SUFFIXES
from .masks import read_label_mask
from .pairs import Column, PairRow, PairTable, examine_pairs, match_files, read_lines

__all__ = ["SegmentationFolder", "SegmentationFolderPart"]


@dataclass(frozen=True)
class SegmentationFolderPart(DensePart):
    """The files of two folders, or those of them that a list names."""

    images_dir: Path
    masks_dir: Path
    list_file: Path | None = None
    ignored: tuple[int, ...] = ()

    data_format: ClassVar[str] = "masks"

    @property
    def masks_folder(self) -> Path:
        return self.masks_dir

    def read(self) -> tuple[PairTable | None, list[Fault]]:
        columns = [Column("image", self.images_dir, IMAGE_SUFFIXES), Column("mask", self.masks_dir, IMAGE_SUFFIXES)]
        rows, faults = match_files(columns) if self.list_file is None else _listed_rows(self.list_file)
        return examine_pairs(columns, rows, faults, self.list_file or self.images_dir)

    def target(self, table: PairTable, index: int) -> np.ndarray:
        return read_label_mask(table.path(index, 1), len(self.class_names), self.ignored)


class SegmentationFolder(ImagesWithMasks):
    """Images with class masks from two folders: a mask has the name of its image, with a suffix of its own.

    Masks are palette images or grey ones of up to 16 bits; their numbers are the classes. Targets are int64
    ``[H, W]``: the class numbers, 255 where ignored.

    Args:
        images_dir: folder of the images; nothing outside of it is read. Folders in it are not looked into.
        masks_dir: folder of the masks.
        transforms: called as ``transforms(image, target)``, gives the pair back; transforms of torchvision v2 work,
            since image and target are tv_tensors.
        class_names: the classes in order of their numbers. By default those that ``classes.txt`` or
            ``class_names.txt`` lists, in ``masks_dir`` or beside it; without such a file all masks are decoded to
            find the largest number.
        list_file: takes the files that this list names, an image and its mask in a line, in its order. Only the last
            parts of their paths count, since such lists, as CamVid's, come with paths of the machine they were
            written on.
        ignored: numbers beside 255 that mean "ignored", such as CamVid's 11; they become 255.
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
        class_names: Sequence[str] | None = None,
        list_file: str | os.PathLike[str] | None = None,
        ignored: Collection[int] = (),
        on_bad_sample: OnBadSample = "raise",
    ):
        masks = Path(masks_dir)
        if class_names is not None:
            names = checked_class_names(class_names)
        else:
            names = find_class_names(masks, masks.parent) or count_classes([masks], ignored)
        if any(not 0 <= number <= 255 for number in ignored):
            raise ValueError(f"ignored must be numbers from 0 to 255, got {list(ignored)}")
        files = None if list_file is None else Path(list_file)
        part = SegmentationFolderPart(names, Path(images_dir), masks, files, tuple(ignored))
        super().__init__(part, transforms, on_bad_sample)


def _listed_rows(list_file: Path) -> tuple[list[PairRow], list[Fault]]:
    lines, faults = read_lines(list_file)
    rows = []
    for number, line in lines:
        names = tuple(PurePosixPath(path.replace("\\", "/")).name for path in line.split())
        if len(names) == 2:
            rows.append(PairRow(names, f"line {number}"))
        else:
            faults.append(Fault(str(list_file), f"line {number}", "paths", "of an image and of its mask", shown(line)))
    return rows, faults
