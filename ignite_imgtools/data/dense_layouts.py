"""Finding the parts of data sets for segmentation and saliency in the folder layouts that people have."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset, Subset

from ignite_imgtools.formats import DataError
from ignite_imgtools.progress import waited

from .class_list import count_classes, find_class_names
from .dense_data import DensePart, DenseTransforms, ImagesWithMasks
from .drive import DRIVE_CLASSES, DrivePart
from .faults import OnBadSample
from .layouts import find_among
from .saliency import SaliencyPart, is_mixed_folder
from .segmentation_folder import SegmentationFolderPart
from .subsets import split_dataset
from .voc_segmentation import VocSegmentationPart, voc_class_names

__all__ = [
    "CAMVID_CLASSES",
    "SALIENCY_FORMATS",
    "SEGMENTATION_FORMATS",
    "DenseLayout",
    "open_saliency_data",
    "open_segmentation_data",
]

CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("signsymbol", "fence", "car", "pedestrian", "bicyclist"),
)
"""The classes of CamVid as SegNet has them; 11 is what nobody labelled."""

_IMAGES = ("images", "image", "imgs", "img")
_MASKS = ("masks", "mask", "gt", "gts", "ground_truth", "groundtruth", "ground_truth_mask")
_VALIDATION = ("val", "validation")


@dataclass(frozen=True)
class DenseLayout:
    """A data set found: its parts; ``val`` is ``None`` if there is none."""

    train: DensePart
    val: DensePart | None

    def parts(self) -> list[DensePart]:
        """The parts there are."""
        return [self.train] if self.val is None else [self.train, self.val]

    def with_classes(self) -> DenseLayout:
        """The layout, with the classes counted in the masks of all parts where none are listed.

        Raises:
            DataError: the masks' numbers are none that count classes.
        """
        parts = self.parts()
        if not all(isinstance(part, SegmentationFolderPart) and not part.class_names for part in parts):
            return self
        names = count_classes([part.masks_folder for part in parts])
        train, *val = (dataclasses.replace(part, class_names=names) for part in parts)
        return DenseLayout(train, val[0] if val else None)


@waited("indexing")
def open_segmentation_data(
    folder: str | os.PathLike[str],
    data_format: str | None = None,
    *,
    train_transforms: DenseTransforms | None = None,
    val_transforms: DenseTransforms | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    on_bad_sample: OnBadSample = "raise",
) -> tuple[Dataset[Any], Dataset[Any]]:
    """Open the parts for training and validation of a segmentation data set found in a folder.

    - ``"voc_segmentation"``: ``ImageSets/Segmentation/{train,val}.txt``, ``SegmentationClass`` and ``JPEGImages`` in
      the folder itself, in ``VOCdevkit/<one>`` or ``<one>`` beneath it; a list ``trainval`` serves where there is no
      ``train``, and all masks where there are no lists;
    - ``"drive"``: ``{training,test}/{images,1st_manual,mask}`` there or in ``<one>`` beneath;
    - ``"masks"``: ``images/`` and ``masks/``, or ``{images,masks}/{train,val}/``, or as CamVid has it
      ``{train,val}/`` and ``{train,val}annot/``, there or in ``<one>`` beneath; ``classes.txt`` names the classes.

    Both parts have the same classes: :func:`ignite_imgtools.data.class_names` gives them.

    Args:
        data_format: one of these; by default the one that is found.
        train_transforms: of the training part.
        val_transforms: of the validation part.
        val_fraction: share of the images that become the validation part where the folder has none.
        seed: chooses them.
        on_bad_sample: refuse bad samples, or leave them out.

    Raises:
        DataError: nothing is found, or something is bad.
        ValueError: ``data_format`` is not known.
    """
    layout = find_among(SEGMENTATION_FORMATS, folder, data_format).with_classes()
    if layout.val is None:
        return _split(layout.train, train_transforms, val_transforms, val_fraction, seed, on_bad_sample)
    train_set = ImagesWithMasks(layout.train, train_transforms, on_bad_sample)
    return train_set, ImagesWithMasks(layout.val, val_transforms, on_bad_sample)


@waited("indexing")
def open_saliency_data(
    folder: str | os.PathLike[str],
    data_format: str | None = None,
    *,
    val_data: str | os.PathLike[str] | None = None,
    train_transforms: DenseTransforms | None = None,
    val_transforms: DenseTransforms | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    on_bad_sample: OnBadSample = "raise",
) -> tuple[Dataset[Any], Dataset[Any]]:
    """Open the parts for training and validation of saliency data found in a folder.

    What is found, in the folder or up to two folders beneath: ``<name>-Image`` and ``<name>-Mask`` (DUTS; where both
    ``DUTS-TR`` and ``DUTS-TE`` are there, the second one is for validation), ``images`` and ``masks`` by any of their
    usual names (ECSSD: ``ground_truth_mask``), with folders ``train`` and ``val`` in both or without, and a folder
    with JPEGs and masks of the same names (MSRA).

    Args:
        data_format: ``"saliency"``, or ``None``, which means the same.
        val_data: a folder of the same kind to validate on: its validation part, or all of it where it has none.
        train_transforms: of the training part.
        val_transforms: of the validation part.
        val_fraction: share of the images that become the validation part where there is none.
        seed: chooses them.
        on_bad_sample: refuse bad samples, or leave them out.

    Raises:
        DataError: nothing is found, or something is bad.
        ValueError: ``data_format`` is not known.
    """
    layout = find_among(SALIENCY_FORMATS, folder, data_format)
    val = layout.val
    if val_data is not None:
        other = find_among(SALIENCY_FORMATS, val_data, data_format)
        val = other.val or other.train
    if val is None:
        return _split(layout.train, train_transforms, val_transforms, val_fraction, seed, on_bad_sample)
    train_set = ImagesWithMasks(layout.train, train_transforms, on_bad_sample)
    return train_set, ImagesWithMasks(val, val_transforms, on_bad_sample)


def _split(
    part: DensePart,
    train_transforms: DenseTransforms | None,
    val_transforms: DenseTransforms | None,
    val_fraction: float,
    seed: int,
    on_bad_sample: OnBadSample,
) -> tuple[Dataset[Any], Dataset[Any]]:
    whole = ImagesWithMasks(part, train_transforms, on_bad_sample)
    train_part, val_part = split_dataset(whole, val_fraction, seed, part.masks_folder)
    # The names of the files are shared, only the transforms differ.
    for_val = copy.copy(whole)
    for_val.transforms = val_transforms
    return train_part, Subset(for_val, val_part.indices)


def _find_voc(folder: Path) -> DenseLayout:
    root = _only_root(
        folder,
        [folder, *_folders(folder.glob("VOCdevkit/*")), *_folders(folder.glob("*"))],
        lambda root: (root / "SegmentationClass").is_dir() and (root / "JPEGImages").is_dir(),
        "no SegmentationClass/ and JPEGImages/ as VOC has them, here, in VOCdevkit/* or in */",
    )
    lists = root / "ImageSets" / "Segmentation"
    train, val = (VocSegmentationPart(voc_class_names(root), root, split) for split in ("train", "val"))
    if (lists / "train.txt").is_file():
        return DenseLayout(train, val if (lists / "val.txt").is_file() else None)
    if (lists / "trainval.txt").is_file():
        return DenseLayout(dataclasses.replace(train, split="trainval"), None)
    if lists.is_dir():
        raise DataError(f"{lists}: expected train.txt or trainval.txt, got neither; add the list of training images")
    return DenseLayout(dataclasses.replace(train, split=None), None)


def _find_drive(folder: Path) -> DenseLayout:
    root = _only_root(
        folder,
        [folder, *_folders(folder.glob("*"))],
        lambda root: (root / "training" / "images").is_dir() and (root / "training" / "1st_manual").is_dir(),
        "no training/images/ and training/1st_manual/ as DRIVE has them, here or in */",
    )
    train, test = (DrivePart(DRIVE_CLASSES, root, split) for split in ("training", "test"))
    # The test images are handed out with and without their segmentations.
    return DenseLayout(train, test if test.masks_folder.is_dir() else None)


def _find_masks(folder: Path) -> DenseLayout:
    def is_camvid(root: Path) -> bool:
        return (root / "train").is_dir() and (root / "trainannot").is_dir()

    root = _only_root(
        folder,
        [folder, *_folders(folder.glob("*"))],
        lambda root: is_camvid(root) or ((root / "images").is_dir() and (root / "masks").is_dir()),
        "no images/ and masks/, nor train/ and trainannot/ as CamVid has them, here or in */",
    )
    names = find_class_names(root)
    if is_camvid(root):
        return _camvid(root, names or CAMVID_CLASSES)
    # No names: they are counted when the data set is opened.
    parts = _subfolders(root / "images", root / "masks")
    train, *val = (SegmentationFolderPart(names or (), images, masks) for images, masks in parts)
    return DenseLayout(train, val[0] if val else None)


def _camvid(root: Path, names: tuple[str, ...]) -> DenseLayout:
    ignored = (len(CAMVID_CLASSES),) if len(names) == len(CAMVID_CLASSES) else ()

    def part(name: str) -> DensePart | None:
        images, masks, file = root / name, root / f"{name}annot", root / f"{name}.txt"
        if not (images.is_dir() and masks.is_dir()):
            return None
        return SegmentationFolderPart(names, images, masks, file if file.is_file() else None, ignored)

    train = part("train")
    assert train is not None  # else it would not have been taken for CamVid
    return DenseLayout(train, part("val") or part("test"))


def _find_saliency(folder: Path) -> DenseLayout:
    for pattern in ("", "*", "*/*"):
        roots = _folders(folder.glob(pattern)) if pattern else [folder]
        found = [pair for root in roots for pair in _saliency_folders(root)]
        if found:
            break
    else:
        raise DataError(
            f"{folder}: no images/ and masks/ (also image, imgs; mask, gt, ground_truth_mask), no *-Image/ and *-Mask/ "
            "as DUTS has them, no folder with JPEGs and PNGs of the same names, here, in */ or in */*/; "
            "correct the path"
        )
    if len(found) == 1:
        train, *val = (SaliencyPart((), images, masks) for images, masks in _subfolders(*found[0]))
        return DenseLayout(train, val[0] if val else None)
    by_name = {images.name.casefold(): SaliencyPart((), images, masks) for images, masks in found}
    training, test = by_name.get("duts-tr-image"), by_name.get("duts-te-image")
    if len(found) > 2 or training is None or test is None:
        several = ", ".join(str(images) for images, _ in found[:4])
        raise DataError(f"{folder}: several folders of images with masks: {several}; give the path of one")
    return DenseLayout(training, test)


def _saliency_folders(root: Path) -> list[tuple[Path, Path]]:
    """Folders of images and of masks that lie in a folder, or the folder itself for both."""
    folders = {path.name.casefold(): path for path in _folders(root.glob("*"))}
    images = [folders[name] for name in _IMAGES if name in folders]
    masks = [folders[name] for name in _MASKS if name in folders]
    if images and masks:
        return [(images[0], masks[0])]
    pairs = [
        (path, folders[name.removesuffix("-image") + "-mask"])
        for name, path in sorted(folders.items())
        if name.endswith("-image") and name.removesuffix("-image") + "-mask" in folders
    ]
    return pairs or ([(root, root)] if is_mixed_folder(root) else [])


def _subfolders(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """The folders for training and validation, the second one only if there is one."""
    if not (images / "train").is_dir():
        return [(images, masks)]
    val = [(images / name, masks / name) for name in _VALIDATION if (images / name).is_dir()]
    return [(images / "train", masks / "train"), *val[:1]]


def _only_root(folder: Path, roots: Iterable[Path], holds: Callable[[Path], bool], missing: str) -> Path:
    found = [root for root in roots if holds(root)]
    if not found:
        raise DataError(f"{folder}: {missing}; correct the path")
    if len(found) > 1 and found[0] != folder:
        raise DataError(f"{folder}: several data sets: {', '.join(map(str, found))}; give the path of one")
    return found[0]


def _folders(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.is_dir())


SEGMENTATION_FORMATS: Mapping[str, Callable[[Path], DenseLayout]] = {
    "voc_segmentation": _find_voc,
    "drive": _find_drive,
    "masks": _find_masks,
}
"""Finder of each format for segmentation; it raises DataError where a folder holds nothing of its kind."""

SALIENCY_FORMATS: Mapping[str, Callable[[Path], DenseLayout]] = {"saliency": _find_saliency}
"""Finder of each format for saliency."""
