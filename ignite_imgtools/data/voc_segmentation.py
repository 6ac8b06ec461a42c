"""Segmentation data sets in PASCAL VOC's layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from .class_list import checked_class_names, find_class_names
from .dense_data import DensePart, DenseTransforms, ImagesWithMasks
from .faults import Fault, OnBadSample, shown
from .images import IMAGE_SUFFIXES
from .masks import read_label_mask
from .pairs import Column, PairRow, PairTable, examine_pairs, list_files, read_lines
from .voc_file import VOC_CLASSES

__all__ = ["VocSegmentation", "VocSegmentationPart"]


@dataclass(frozen=True)
class VocSegmentationPart(DensePart):
    """The images of a list in ``ImageSets/Segmentation``, or, without one, of all masks."""

    root: Path
    split: str | None
    masks: str = "SegmentationClass"

    data_format: ClassVar[str] = "voc_segmentation"

    @property
    def masks_folder(self) -> Path:
        return self.root / self.masks

    def read(self) -> tuple[PairTable | None, list[Fault]]:
        columns = [
            Column("image", self.root / "JPEGImages", IMAGE_SUFFIXES),
            Column("mask", self.masks_folder, IMAGE_SUFFIXES),
        ]
        listed, faults = [], []
        for column in columns:
            names, faults_of_column = list_files(column, str)
            listed.append(names)
            # Two images of a name are only bad if the list has it; the first one is taken then.
            faults += [fault for fault in faults_of_column if fault.fatal]
        if faults:
            return None, faults
        rows, source, faults = self._rows(columns, listed)
        return examine_pairs(columns, rows, faults, source)

    def _rows(
        self, columns: Sequence[Column], listed: Sequence[dict[str, str]]
    ) -> tuple[list[PairRow], Path, list[Fault]]:
        source, faults = self.masks_folder, list[Fault]()
        if self.split is None:
            stems = [("", stem) for stem in listed[1]]
        else:
            source = self.root / "ImageSets" / "Segmentation" / f"{self.split}.txt"
            lines, faults = read_lines(source)
            stems = [(f"line {number}", line) for number, line in lines]
        rows = []
        for where, stem in stems:
            for column, names in zip(columns, listed, strict=True):
                if stem not in names:
                    expected = f"a file of the name {shown(stem)} in {column.folder}"
                    advice = "add it, or remove the name"
                    faults.append(Fault(str(source), where, column.what, expected, "none", advice))
            if all(stem in names for names in listed):
                rows.append(PairRow(tuple(names[stem] for names in listed), where))
        return rows, source, faults

    def target(self, table: PairTable, index: int) -> np.ndarray:
        return read_label_mask(table.path(index, 1), len(self.class_names))


class VocSegmentation(ImagesWithMasks):
    """Images with class masks from a folder like ``VOCdevkit/VOC2012``: ``ImageSets/Segmentation``, ``JPEGImages``,
    ``SegmentationClass``.

    Images come in the order of the list. Targets are int64 ``[H, W]``: the class numbers, 255 on borders and where
    VOC leaves open what is there.

    Args:
        root: the folder; nothing outside of its subfolders is read.
        split: name of the list in ``ImageSets/Segmentation``; ``None``: all masks, by name.
        transforms: called as ``transforms(image, target)``, gives the pair back; transforms of torchvision v2 work,
            since image and target are tv_tensors.
        class_names: the classes in order of their numbers, the background first. By default those that
            ``classes.txt`` or ``class_names.txt`` in ``root`` lists, else ``background`` and VOC's 20.
        masks: name of the folder of masks, such as ``SegmentationClassAug``.
        on_bad_sample: ``"raise"``: anything bad is refused; ``"skip"``: bad images are left out, ``faults`` tells
            which. What only decoding shows is found when a sample is loaded.

    Raises:
        DataError: the list cannot be read, or something is bad and ``on_bad_sample="raise"``.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str | None = "train",
        *,
        transforms: DenseTransforms | None = None,
        class_names: Sequence[str] | None = None,
        masks: str = "SegmentationClass",
        on_bad_sample: OnBadSample = "raise",
    ):
        names = voc_class_names(Path(root)) if class_names is None else checked_class_names(class_names)
        super().__init__(VocSegmentationPart(names, Path(root), split, masks), transforms, on_bad_sample)


def voc_class_names(root: Path) -> tuple[str, ...]:
    """The classes that are listed in a folder, or else VOC's."""
    return find_class_names(root) or ("background", *VOC_CLASSES)
