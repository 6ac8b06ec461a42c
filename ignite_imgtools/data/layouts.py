"""Finding the parts of a detection data set in the folder layouts that people have, and opening them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Dataset, Subset

from ignite_imgtools.formats import DataError
from ignite_imgtools.progress import waited

from .coco import CocoDetection
from .faults import OnBadSample
from .penn_fudan import PennFudan
from .subsets import split_dataset
from .voc import VocDetection
from .yolo import YoloDetection
from .yolo_layout import read_yolo_layout

__all__ = [
    "FORMATS",
    "CocoPart",
    "DetectionLayout",
    "VocPart",
    "YoloPart",
    "find_among",
    "find_coco_part",
    "find_layout",
    "open_detection_data",
]

Transforms = Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]
Layout = TypeVar("Layout")


@dataclass(frozen=True)
class CocoPart:
    """One part of a data set in COCO's format."""

    images_dir: Path
    annotation_file: Path

    def __str__(self) -> str:
        return str(self.annotation_file)

    def open(self, class_names: list[str] | None = None, **options: Any) -> CocoDetection:
        """Open it; ``class_names`` must be those of the file.

        With ``keypoints=True`` the file ``person_keypoints_*`` beside it is taken, if there is one.

        Raises:
            DataError: something is bad, or the file has other classes than ``class_names``.
        """
        file = self.annotation_file
        of_persons = file.with_name(file.name.replace("instances_", "person_keypoints_", 1))
        if options.get("keypoints") and of_persons.is_file():
            file = of_persons
        dataset = CocoDetection(self.images_dir, file, **options)
        if class_names is not None and dataset.class_names != class_names:
            raise DataError(
                f"{file}: categories: expected the {len(class_names) - 1} of the training part, got "
                f"{len(dataset.class_names) - 1} that differ, {_difference(class_names, dataset.class_names)}; "
                "list the same categories in both files"
            )
        return dataset


@dataclass(frozen=True)
class VocPart:
    """One part of a data set in VOC's layout."""

    root: Path
    split: str

    def __str__(self) -> str:
        return str(self.root / "ImageSets" / "Main" / f"{self.split}.txt")

    def open(self, class_names: list[str] | None = None, **options: Any) -> VocDetection:
        """Open it; ``class_names`` are the classes to take for it, by default those found.

        Raises:
            DataError: something is bad, or an object is of another class.
        """
        return VocDetection(self.root, self.split, class_names=class_names, **options)


@dataclass(frozen=True)
class YoloPart:
    """One part of a data set in YOLO's format."""

    root: Path
    split: str

    def __str__(self) -> str:
        return f"{self.root} ({self.split})"

    def open(self, class_names: list[str] | None = None, **options: Any) -> YoloDetection:
        """Open it; ``class_names`` must be its classes.

        Raises:
            DataError: something is bad, or the classes are others.
        """
        return YoloDetection(self.root, self.split, class_names=class_names, **options)


@dataclass(frozen=True)
class PennFudanPart:
    """The Penn-Fudan pedestrians, which have no parts."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def open(self, class_names: list[str] | None = None, *, drop_empty: bool = False, **options: Any) -> PennFudan:
        """Open it; there is a pedestrian in every image, so none is dropped.

        Raises:
            DataError: something is bad.
        """
        return PennFudan(self.root, **options)


Part = CocoPart | VocPart | YoloPart | PennFudanPart
"""A part of any of these formats."""


@dataclass(frozen=True)
class DetectionLayout:
    """A data set found: its format, a key of :data:`FORMATS`, and its parts; ``val`` is ``None`` if there is none."""

    data_format: str
    train: Part
    val: Part | None


def find_layout(folder: str | os.PathLike[str], data_format: str | None = None) -> DetectionLayout:
    """Find the parts of a data set.

    - ``"coco"``: ``annotations/instances_{train,val}*.json``, or ``person_keypoints_{train,val}*.json``, and the images
      in ``{train,val}*/``, with the same ending or none, there or under ``images/``;
    - ``"voc"``: ``ImageSets/Main/{train,val}.txt``, ``Annotations`` and ``JPEGImages`` in the folder itself, in
      ``VOCdevkit/<one>`` or ``<one>`` beneath it; a list ``trainval`` serves where there is no ``train``;
    - ``"penn_fudan"``: ``PNGImages`` and ``PedMasks`` in the folder or beneath it;
    - ``"yolo"``: ``data.yaml``, or lists of images, see
      :func:`~ignite_imgtools.data.yolo_layout.read_yolo_layout`.

    Args:
        data_format: a key of :data:`FORMATS`; by default the one that is found.

    Raises:
        DataError: there is nothing of the kind, or more than one; says what was looked for.
        ValueError: ``data_format`` is not known.
    """
    return find_among(FORMATS, folder, data_format)


def find_among(
    finders: Mapping[str, Callable[[Path], Layout]], folder: str | os.PathLike[str], data_format: str | None
) -> Layout:
    """Find the parts of a data set in one of several formats.

    Args:
        finders: of each format; they raise DataError where a folder holds nothing of their kind.
        data_format: the one to take; by default the one that is found.

    Raises:
        DataError: there is nothing of the kind, or more than one; says what was looked for.
        ValueError: ``data_format`` is not known.
    """
    folder = Path(folder)
    if data_format is not None and data_format not in finders:
        raise ValueError(f"data_format must be one of {', '.join(finders)}, got {data_format!r}")
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with a data set, got {_kind(folder)}; correct the path")
    if data_format is not None:
        return finders[data_format](folder)
    found, missing = {}, []
    for name, finder in finders.items():
        try:
            found[name] = finder(folder)
        except DataError as error:
            missing.append(str(error).removeprefix(f"{folder}: "))
    if not found:
        raise DataError(f"{folder}: no data set found; " + "; ".join(missing))
    if len(found) > 1:
        formats = " and ".join(found)
        raise DataError(f"{folder}: holds data sets in formats {formats}; choose one by its format (--data-format)")
    return next(iter(found.values()))


@waited("indexing")
def open_detection_data(
    folder: str | os.PathLike[str],
    data_format: str | None = None,
    *,
    train_transforms: Transforms | None = None,
    val_transforms: Transforms | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    drop_empty: bool = False,
    on_bad_sample: OnBadSample = "raise",
    **options: Any,
) -> tuple[Dataset[Any], Dataset[Any]]:
    """Open the parts for training and validation of a data set found in a folder.

    Both parts have the same classes: :func:`ignite_imgtools.data.class_names` gives them.

    Args:
        folder: see :func:`find_layout`.
        data_format: see :func:`find_layout`.
        train_transforms: of the training part.
        val_transforms: of the validation part.
        val_fraction: share of the images that become the validation part where the folder has none.
        seed: chooses them.
        drop_empty: leave images without objects out of the training part.
        on_bad_sample: refuse bad samples, or leave them out.
        options: passed on to both parts: those that :class:`CocoDetection`, :class:`VocDetection` or
            :class:`YoloDetection` have.

    Raises:
        DataError: nothing is found, something is bad, or the parts have different classes.
    """
    layout = find_layout(folder, data_format)
    options |= {"on_bad_sample": on_bad_sample}
    if layout.val is not None:
        train_set = layout.train.open(transforms=train_transforms, drop_empty=drop_empty, **options)
        return train_set, layout.val.open(train_set.class_names, transforms=val_transforms, **options)
    whole = layout.train.open(transforms=train_transforms, **options)
    train_part, val_part = split_dataset(whole, val_fraction, seed, layout.train)
    if drop_empty and not isinstance(whole, PennFudan):
        filled = whole.table.count_objects(crowd=False) > 0
        train_part = Subset(whole, np.asarray(train_part.indices)[filled[train_part.indices]].tolist())
    # The annotations are shared, only the transforms differ.
    for_val = copy.copy(whole)
    for_val.transforms = val_transforms
    return train_part, Subset(for_val, val_part.indices)


def _find_coco(folder: Path) -> DetectionLayout:
    train = find_coco_part(folder, "train")
    if train is None:
        raise DataError(f"{folder}: no annotations/instances_train*.json as COCO has it; correct the path")
    return DetectionLayout("coco", train, find_coco_part(folder, "val"))


def find_coco_part(
    folder: Path, part: str, kinds: Sequence[str] = ("instances", "person_keypoints")
) -> CocoPart | None:
    """The part ``"train"`` or ``"val"`` of a data set in COCO's layout; ``None`` if there is none.

    Args:
        kinds: what annotation files are called before the part; the first that is there is taken.

    Raises:
        DataError: there are several files, or no folder with the images.
    """
    found = ((kind, _only_one(folder, f"annotations/{kind}_{part}*.json")) for kind in kinds)
    kind, file = next(((kind, file) for kind, file in found if file is not None), ("", None))
    if file is None:
        return None
    ending = file.stem.removeprefix(f"{kind}_")
    wanted = list(dict.fromkeys((ending, part, f"images/{ending}", f"images/{part}")))
    for name in wanted:
        if (folder / name).is_dir():
            return CocoPart(folder / name, file)
    raise DataError(
        f"{folder}: no folder {', '.join(wanted)} with the images of {file.name}; put them into one of these"
    )


def _find_voc(folder: Path) -> DetectionLayout:
    roots = [folder, *_folders(folder.glob("VOCdevkit/*")), *_folders(folder.glob("*"))]
    found = [root for root in roots if any(_voc_list(root, part).is_file() for part in ("train", "trainval"))]
    if not found:
        raise DataError(
            f"{folder}: no ImageSets/Main/train.txt as VOC has it, here, in VOCdevkit/* or in */; correct the path"
        )
    if len(found) > 1 and found[0] != folder:
        raise DataError(f"{folder}: several data sets: {', '.join(map(str, found))}; give the path of one")
    root = found[0]
    if not _voc_list(root, "train").is_file():
        return DetectionLayout("voc", VocPart(root, "trainval"), None)
    val = VocPart(root, "val") if _voc_list(root, "val").is_file() else None
    return DetectionLayout("voc", VocPart(root, "train"), val)


def _find_yolo(folder: Path) -> DetectionLayout:
    layout = read_yolo_layout(folder)
    val = YoloPart(folder, "val") if "val" in layout.parts else None
    return DetectionLayout("yolo", YoloPart(folder, "train"), val)


def _find_penn_fudan(folder: Path) -> DetectionLayout:
    roots = [folder, *_folders(folder.glob("*"))]
    found = [root for root in roots if (root / "PNGImages").is_dir() and (root / "PedMasks").is_dir()]
    if not found:
        raise DataError(f"{folder}: no PNGImages and PedMasks as Penn-Fudan has them, here or in */; correct the path")
    if len(found) > 1 and found[0] != folder:
        raise DataError(f"{folder}: several data sets: {', '.join(map(str, found))}; give the path of one")
    return DetectionLayout("penn_fudan", PennFudanPart(found[0]), None)


def _voc_list(root: Path, part: str) -> Path:
    return root / "ImageSets" / "Main" / f"{part}.txt"


def _folders(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.is_dir())


def _only_one(folder: Path, pattern: str) -> Path | None:
    files = sorted(folder.glob(pattern))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(f"{folder}: several files {pattern}: {names}; leave one of them there")
    return files[0] if files else None


def _difference(expected: list[str], got: list[str]) -> str:
    """The first label named differently."""
    for label in range(1, max(len(expected), len(got))):
        names = [repr(names[label]) if label < len(names) else "nothing" for names in (expected, got)]
        if names[0] != names[1]:
            return f"the first at label {label}: {names[0]} and {names[1]}"
    return "none"


def _kind(path: Path) -> str:
    return "a file" if path.exists() else "nothing there"


FORMATS: dict[str, Callable[[Path], DetectionLayout]] = {
    "coco": _find_coco,
    "voc": _find_voc,
    "yolo": _find_yolo,
    "penn_fudan": _find_penn_fudan,
}
"""Finder of each format; it raises DataError where a folder holds nothing of its kind."""
