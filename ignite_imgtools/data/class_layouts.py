"""Finding the parts of a data set for classification in the folder layouts that people have."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Subset

from ignite_imgtools.distributed import keyed_seed
from ignite_imgtools.formats import DataError
from ignite_imgtools.progress import waited

from .class_folders import ClassFolders, ClassFoldersPart, ClassTransforms, class_folder_names
from .faults import Fault, OnBadSample
from .images import IMAGE_SUFFIXES
from .layouts import find_among

__all__ = ["CLASSIFICATION_FORMATS", "ClassLayout", "check_class_folders", "open_classification_data", "split_classes"]

_TRAINING = ("train", "training")
_VALIDATION = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class ClassLayout:
    """A data set found: its parts; ``val`` is ``None`` if there is none."""

    train: ClassFoldersPart
    val: ClassFoldersPart | None


@waited("indexing")
def open_classification_data(
    folder: str | os.PathLike[str],
    data_format: str | None = None,
    *,
    train_transforms: ClassTransforms | None = None,
    val_transforms: ClassTransforms | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    on_bad_sample: OnBadSample = "raise",
) -> tuple[Dataset[Any], Dataset[Any]]:
    """Open the parts for training and validation of a classification data set found in a folder.

    What is found, in the folder itself or in the only folder in it: ``train/<class>/`` and ``val/<class>/`` (also
    ``valid``, ``validation`` or ``test``), or ``<class>/`` alone, of which a share of each class is then held out.

    Both parts have the classes of the training part: :func:`ignite_imgtools.data.class_names` gives them.

    Args:
        data_format: ``"class_folders"``, or ``None``, which means the same.
        train_transforms: of the training part.
        val_transforms: of the validation part.
        val_fraction: share of each class that becomes the validation part where the folder has none.
        seed: chooses these images.
        on_bad_sample: refuse bad samples, or leave them out.

    Raises:
        DataError: nothing is found, something is bad, or the validation part has classes that the other has not.
        ValueError: ``data_format`` is not known, or ``val_fraction`` is not between 0 and 1.
    """
    layout = find_among(CLASSIFICATION_FORMATS, folder, data_format)
    whole = ClassFolders(layout.train.root, transforms=train_transforms, on_bad_sample=on_bad_sample)
    if len(whole.class_names) < 2:
        raise DataError(
            f"{layout.train.root}: expected at least 2 folders of classes, got {whole.num_classes}; add some"
        )
    if layout.val is not None:
        names = whole.class_names
        val_set = ClassFolders(
            layout.val.root, transforms=val_transforms, class_names=names, on_bad_sample=on_bad_sample
        )
        return whole, val_set
    train_indices, val_indices = split_classes(whole.labels, val_fraction, seed)
    if not val_indices:
        raise DataError(f"{layout.train.root}: expected a class of 2 images or more to hold one out of; add images")
    # The names of the files are shared, only the transforms differ.
    for_val = copy.copy(whole)
    for_val.transforms = val_transforms
    return Subset(whole, train_indices), Subset(for_val, val_indices)


def split_classes(labels: np.ndarray, val_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Hold out a share of each class, always the same images for the same seed and labels.

    Args:
        labels: int64 ``[N]``.
        val_fraction: between 0 and 1; a class of two images or more has at least one in each part, a single image is
            one to train on.
        seed: chooses the images.

    Returns:
        Indices for training and for validation, ascending.

    Raises:
        ValueError: ``val_fraction`` is not between 0 and 1.

    >>> train, val = split_classes(np.array([0, 0, 0, 0, 1, 1, 2]), 0.5, seed=0)
    >>> len(train), len(val), 6 in train
    (4, 3, True)
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
    held_out = []
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label).tolist()
        if len(members) > 1:
            count = min(max(round(len(members) * val_fraction), 1), len(members) - 1)
            # A sample's rank is a hash of its own, so that it does not depend on a generator of some version.
            held_out += sorted(members, key=lambda index: keyed_seed(seed, index))[:count]
    kept = np.ones(len(labels), dtype=bool)
    kept[held_out] = False
    return np.flatnonzero(kept).tolist(), sorted(held_out)


def check_class_folders(folder: Path) -> list[Fault]:
    """All faults of a data set of class folders.

    Raises:
        DataError: there is none in the folder.
    """
    layout = _find_class_folders(folder)
    _, faults = layout.train.read()
    if len(layout.train.class_names) < 2:
        came = ", ".join(layout.train.class_names)
        faults.append(Fault(str(layout.train.root), "", "classes", "at least 2 folders", came, "add the others"))
    return faults if layout.val is None else faults + layout.val.read(complete=False)[1]


def _find_class_folders(folder: Path) -> ClassLayout:
    inner = class_folder_names(folder)
    roots = [folder, folder / inner[0]] if len(inner) == 1 else [folder]
    for root in roots:
        train = _part(root, _TRAINING)
        if train is not None:
            return ClassLayout(ClassFoldersPart(train, tuple(class_folder_names(train))), _val_part(root, train))
        if any(_holds_images(root / name) for name in class_folder_names(root)):
            return ClassLayout(ClassFoldersPart(root, tuple(class_folder_names(root))), None)
    raise DataError(
        f"{folder}: no folder for each class with its images, nor train/ and val/ with such folders; correct the path"
    )


def _val_part(root: Path, train: Path) -> ClassFoldersPart | None:
    val = _part(root, _VALIDATION)
    return None if val is None else ClassFoldersPart(val, tuple(class_folder_names(train)))


def _part(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first of the folders ``names`` in ``root`` that has folders with images."""
    for path in (root / name for name in names):
        if path.is_dir() and any(_holds_images(path / name) for name in class_folder_names(path)):
            return path
    return None


def _holds_images(folder: Path) -> bool:
    """Whether a file in ``folder`` is an image by its suffix."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file() for entry in entries)
    except OSError:
        return False


CLASSIFICATION_FORMATS: Mapping[str, Callable[[Path], ClassLayout]] = {"class_folders": _find_class_folders}
"""Finder of each format for classification; it raises DataError where a folder holds nothing of its kind."""
