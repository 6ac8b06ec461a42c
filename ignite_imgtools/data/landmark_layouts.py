"""Finding the parts of data sets of faces in the folder layouts that people have."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset, Subset

from ignite_imgtools.distributed import keyed_seed
from ignite_imgtools.formats import DataError
from ignite_imgtools.progress import waited

from .faults import Fault, OnBadSample
from .landmark_parts import CsvPart, LandmarkPart, PtsPart, WflwPart, read_landmarks
from .landmarks import FaceLandmarks, LandmarkTransforms
from .layouts import find_among

__all__ = ["LANDMARK_FORMATS", "LandmarkLayout", "check_landmarks", "open_landmark_data"]

_TRAINING = ("train", "training", "trainset")
_VALIDATION = ("val", "valid", "validation", "test", "testset")
# 300W has no training part of this folder: it is the challenging half of what is tested.
_TEST_FOLDER = "ibug"


@dataclass(frozen=True)
class LandmarkLayout:
    """A data set found: its parts; ``val`` is ``None`` if there is none."""

    train: LandmarkPart
    val: LandmarkPart | None


@waited("indexing")
def open_landmark_data(
    folder: str | os.PathLike[str],
    data_format: str | None = None,
    *,
    train_transforms: LandmarkTransforms | None = None,
    val_transforms: LandmarkTransforms | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    on_bad_sample: OnBadSample = "raise",
) -> tuple[Dataset[Any], Dataset[Any]]:
    """Open the parts for training and validation of a data set of faces found in a folder.

    - ``"wflw"``: ``WFLW_images`` and in ``WFLW_annotations`` the lists ``list_98pt_rect_attr_{train,test}.txt``, in the
      folder itself or in the only folder in it;
    - ``"pts"``: files ``.pts`` of iBUG beside their images, in the folder or at any depth below it. Those in folders
      ``testset`` (or ``test``, ``val``, ...) are for validation, and then ``ibug`` too, as is the custom with 300W;
    - ``"points_csv"``: a csv of points beside its images, in the folder itself or in the only folder in it; or one in
      ``train/`` and one in ``val/`` (``valid``, ``validation``, ``test``), or ``*train*.csv`` and ``*val*.csv``
      (``*test*.csv``) in one folder.

    Both parts have as many points.

    Args:
        data_format: one of these; by default the one that is found.
        train_transforms: of the training part.
        val_transforms: of the validation part.
        val_fraction: share of the images that become the validation part where the folder has none; all faces of an
            image are in the same part.
        seed: chooses them.
        on_bad_sample: refuse bad samples, or leave them out.

    Raises:
        DataError: nothing is found, something is bad, or the parts have different numbers of points.
        ValueError: ``data_format`` is not known, or ``val_fraction`` is not between 0 and 1.
    """
    layout = find_among(LANDMARK_FORMATS, folder, data_format)
    whole = FaceLandmarks(layout.train, transforms=train_transforms, on_bad_sample=on_bad_sample)
    if layout.val is not None:
        val_set = FaceLandmarks(
            layout.val, transforms=val_transforms, num_points=whole.num_points, on_bad_sample=on_bad_sample
        )
        return whole, val_set
    train_indices, val_indices = _split_images(whole.file_names, val_fraction, seed, layout.train)
    # The points are shared, only the transforms differ.
    for_val = copy.copy(whole)
    for_val.transforms = val_transforms
    return Subset(whole, train_indices), Subset(for_val, val_indices)


def check_landmarks(find: Callable[[Path], LandmarkLayout], folder: Path) -> list[Fault]:
    """All faults of a data set of faces.

    Raises:
        DataError: there is none in the folder.
    """
    layout = find(folder)
    table, faults = read_landmarks(layout.train)
    if layout.val is None:
        return faults
    return faults + read_landmarks(layout.val, None if table is None else table.points.shape[1])[1]


def _split_images(names: list[str], val_fraction: float, seed: int, part: LandmarkPart) -> tuple[list[int], list[int]]:
    """Indices of the faces for training and for validation; the faces of an image stay together."""
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
    images = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if len(images) < 2:
        raise DataError(f"{part}: faces: expected those of 2 images or more to hold some out, got {len(images)}")
    count = min(max(round(len(images) * val_fraction), 1), len(images) - 1)
    # An image's rank is a hash of its own, so that it does not depend on a generator of some version.
    held_out = set(sorted(images.values(), key=lambda number: keyed_seed(seed, number))[:count])
    in_val = [images[name] in held_out for name in names]
    return [i for i, held in enumerate(in_val) if not held], [i for i, held in enumerate(in_val) if held]


def _find_wflw(folder: Path) -> LandmarkLayout:
    for root in _roots(folder):
        images, annotations = root / "WFLW_images", root / "WFLW_annotations"
        if images.is_dir() and annotations.is_dir():
            train, test = (_wflw_list(annotations, part) for part in ("train", "test"))
            if train is None and test is None:
                raise DataError(f"{annotations}: no list_98pt_rect_attr_train.txt as WFLW has it; restore it")
            first = train or test
            assert first is not None
            both = train is not None and test is not None
            return LandmarkLayout(WflwPart(images, first), WflwPart(images, test) if both and test else None)
    raise DataError(f"{folder}: no WFLW_images and WFLW_annotations as WFLW has them; correct the path")


def _wflw_list(annotations: Path, part: str) -> Path | None:
    found = sorted(annotations.rglob(f"list_98pt_rect_attr_{part}.txt"))
    if len(found) > 1:
        raise DataError(f"{annotations}: several lists {', '.join(map(str, found))}; leave one of them there")
    return found[0] if found else None


def _find_pts(folder: Path) -> LandmarkLayout:
    names = []
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(path, folder)
        # Plain strings: a path for each of a million names takes seconds.
        names += [
            name if below == "." else f"{below}{os.sep}{name}"
            for name in files
            if name.endswith(".pts") and not name.startswith(".")
        ]
    if not names:
        raise DataError(f"{folder}: no files .pts as iBUG has them, here or below; correct the path")
    names.sort()
    test = [name for name in names if _in_folder(name, _VALIDATION)]
    train = [name for name in names if name not in set(test)]
    if test and any(not _in_folder(name, (_TEST_FOLDER,)) for name in train):
        test = sorted([*test, *(name for name in train if _in_folder(name, (_TEST_FOLDER,)))])
        train = [name for name in train if not _in_folder(name, (_TEST_FOLDER,))]
    if not train or not test:
        return LandmarkLayout(PtsPart(folder, tuple(names)), None)
    return LandmarkLayout(PtsPart(folder, tuple(train)), PtsPart(folder, tuple(test)))


def _in_folder(name: str, folders: Iterable[str]) -> bool:
    return not {part.lower() for part in Path(name).parts[:-1]}.isdisjoint(folders)


def _find_csv(folder: Path) -> LandmarkLayout:
    for root in _roots(folder):
        train, val = (_csv_of_folders(root, names) for names in (_TRAINING, _VALIDATION))
        if train is not None:
            return LandmarkLayout(CsvPart(train), None if val is None else CsvPart(val))
        files = sorted(root.glob("*.csv"))
        if len(files) == 1:
            return LandmarkLayout(CsvPart(files[0]), None)
        if files:
            return LandmarkLayout(CsvPart(_only(root, files, ("train",))), CsvPart(_only(root, files, ("val", "test"))))
    raise DataError(f"{folder}: no csv of points, here, in train/ or in the only folder; correct the path")


def _csv_of_folders(root: Path, names: Iterable[str]) -> Path | None:
    """The only csv in the first of the folders ``names`` of ``root`` that has any."""
    for path in (root / name for name in names):
        files = sorted(path.glob("*.csv"))
        if len(files) > 1:
            raise DataError(f"{path}: several csv: {', '.join(file.name for file in files)}; leave one of them there")
        if files:
            return files[0]
    return None


def _only(root: Path, files: list[Path], words: tuple[str, ...]) -> Path:
    found = [file for file in files if any(word in file.stem.lower() for word in words)]
    if len(found) != 1:
        listed = ", ".join(file.name for file in files)
        wanted = " or ".join(f"*{word}*.csv" for word in words)
        raise DataError(f"{root}: several csv: {listed}; leave one of them there, or one {wanted} for each part")
    return found[0]


def _roots(folder: Path) -> list[Path]:
    """The folder, and the only one in it."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [folder, inner[0]] if len(inner) == 1 else [folder]


LANDMARK_FORMATS: Mapping[str, Callable[[Path], LandmarkLayout]] = {
    "wflw": _find_wflw,
    "pts": _find_pts,
    "points_csv": _find_csv,
}
"""Finder of each format of faces; it raises DataError where a folder holds nothing of its kind."""
