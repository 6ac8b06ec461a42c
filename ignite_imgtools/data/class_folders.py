"""Images sorted into folders, one for each class."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ignite_imgtools.formats import DataError

from .faults import CLASS_NAME, Fault, OnBadSample, fault_of_error, is_class_name, settle_faults, shown
from .image_faults import examine_image, linked_folders
from .images import IMAGE_SUFFIXES, read_image, resolve_inside
from .pairs import PairTable
from .ragged import pack_bytes

__all__ = ["ClassFolders", "ClassFoldersPart", "ClassTable", "class_folder_names"]

ClassTransforms = Callable[[Any, Any], tuple[Any, Any]]

# What archives and notebooks leave behind.
_NO_CLASSES = ("__MACOSX", "__pycache__")


@dataclass(frozen=True, eq=False)
class ClassTable:
    """``N`` images and their labels: ``files``, names relative to the folder, and ``labels`` int64 ``[N]``."""

    files: PairTable
    labels: np.ndarray


@dataclass(frozen=True)
class ClassFoldersPart:
    """A part of a data set on disk: a folder that holds one folder for each class.

    Args:
        root: the folder.
        class_names: the classes in order of their labels; folders of others are faults.
    """

    root: Path
    class_names: tuple[str, ...]

    def read(self, *, complete: bool = True) -> tuple[ClassTable | None, list[Fault]]:
        """Find the images and look at the start and the end of each, without decoding.

        Args:
            complete: a class without any image is a fault.

        Returns:
            The images that can be used, or ``None`` if a fault is fatal; and all faults.
        """
        faults = []
        for name in class_folder_names(self.root):
            if name not in self.class_names:
                known = ", ".join(self.class_names[:8]) + (", ..." if self.class_names[8:] else "")
                advice = "add it to the training part, or remove it"
                faults.append(Fault(str(self.root / name), "", "class", f"one of {known}", name, advice))
        good, sizes, labels = [], [], []
        for label, class_name in enumerate(self.class_names):
            if not is_class_name(class_name):
                came, advice = shown(class_name), "rename the folder"
                faults.append(Fault(str(self.root), "", "class", CLASS_NAME, came, advice, fatal=True))
                continue
            names, faults_of_class = _image_names(self.root, class_name)
            faults += faults_of_class
            if not names and complete and not faults_of_class:
                advice = "add some, or remove the folder"
                faults.append(Fault(str(self.root / class_name), "", "images", "at least one", "none", advice))
            for name in names:
                size, fault = examine_image(self.root, name, None, str(self.root / name), "")
                if fault is not None:
                    faults.append(fault)
                elif size is not None:
                    good.append(name)
                    sizes.append(size)
                    labels.append(label)
        if not good:
            expected = "at least one that can be used in a folder of its class"
            faults.append(Fault(str(self.root), "", "images", expected, "none", "correct the path", fatal=True))
            return None, faults
        packed = (pack_bytes([os.fsencode(name) for name in good]),)
        files = PairTable((self.root,), packed, np.array(sizes, dtype=np.int64))
        return ClassTable(files, np.array(labels, dtype=np.int64)), faults


class ClassFolders(Dataset[tuple[Any, Any]]):
    """Images sorted into folders: ``root/<class>/**/<image>``.

    Samples are sorted by class and name. Grey, palette, CMYK and transparent images become RGB, as
    :func:`~ignite_imgtools.data.read_image` says. Files that are no images by their suffix are passed by, and so are
    folders whose names begin with a dot.

    Args:
        root: the folder; nothing outside of it is read.
        transforms: called as ``transforms(image, label)``, gives the pair back.
        class_names: the classes in order of their labels; by default the names of the folders, sorted. A class of
            this list may have no images.
        on_bad_sample: ``"raise"``: anything bad is refused; ``"skip"``: bad images are left out, ``faults`` tells
            which. What only decoding shows is found when a sample is loaded.

    Raises:
        DataError: there are no images, or something is bad and ``on_bad_sample="raise"``.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        transforms: ClassTransforms | None = None,
        class_names: Sequence[str] | None = None,
        on_bad_sample: OnBadSample = "raise",
    ):
        folder = Path(root)
        names = class_folder_names(folder) if class_names is None else list(class_names)
        self.part = ClassFoldersPart(folder, tuple(names))
        table, self.faults = self.part.read(complete=class_names is None)
        settle_faults(self.faults, on_bad_sample, "class_folders")
        assert table is not None  # else there was a fatal fault
        self.table, self.transforms = table, transforms

    def __len__(self) -> int:
        return len(self.table.labels)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """The image, uint8 ``[3, H, W]``, and its label, an int64 tensor of no dimension, both after ``transforms``.

        Raises:
            DataError: the file cannot be decoded.
        """
        image = tv_tensors.Image(read_image(self.image_path(index)))
        target = torch.tensor(self.table.labels[index])
        return (image, target) if self.transforms is None else self.transforms(image, target)

    @property
    def labels(self) -> np.ndarray:
        """The label of each image, int64 ``[N]``."""
        return self.table.labels.copy()

    @property
    def class_names(self) -> list[str]:
        """Name of each class, by its label."""
        return list(self.part.class_names)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.part.class_names)

    @property
    def file_names(self) -> list[str]:
        """Names of the image files, relative to the folder."""
        return [self.table.files.name(index) for index in range(len(self))]

    def image_size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` of an image in pixels, without reading it."""
        return self.table.files.size(index)

    def image_sizes(self) -> np.ndarray:
        """Sizes of all images, int64 ``[N, 2]``: height and width."""
        return self.table.files.sizes.copy()

    def image_path(self, index: int) -> Path:
        """Path of an image file."""
        return self.table.files.path(index)


def class_folder_names(root: Path) -> list[str]:
    """Names of the folders in ``root`` that may be classes, sorted.

    Raises:
        DataError: ``root`` is no folder that can be read.
    """
    try:
        with os.scandir(root) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.is_dir() and not entry.name.startswith(".") and entry.name not in _NO_CLASSES
            )
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{root}: expected a folder with a folder for each class, {reason}; correct the path") from None


def _image_names(root: Path, class_name: str) -> tuple[list[str], list[Fault]]:
    """Names of the images of a class, relative to ``root``, sorted; and links to folders, which are not followed."""
    try:
        top = resolve_inside(root, class_name)
    except DataError as error:
        return [], [fault_of_error(error, root / class_name)]
    found, faults = [], []
    for folder, folders, files in os.walk(top):
        faults += linked_folders(folder, folders)
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(folder, root)
        # Plain strings: a path for each of a million names takes seconds.
        found += [
            f"{below}{os.sep}{name}"
            for name in files
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)
        ]
    return sorted(found), faults
