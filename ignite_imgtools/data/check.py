"""Finding all that is wrong with a data set, in one pass over its annotations and the headers of its images.

Images are not decoded, unless that is asked for. Masks of segmentation and saliency are: what they say shows in no
header.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ignite_imgtools.formats import DataError
from ignite_imgtools.progress import waited

from .anchors import describe_anchors
from .class_layouts import check_class_folders
from .coco_file import read_coco
from .dense_data import DensePart
from .dense_layouts import SALIENCY_FORMATS, SEGMENTATION_FORMATS, DenseLayout
from .detection_table import DetectionTable
from .faults import Fault, fault_of_error
from .image_faults import images_counted, images_decoded
from .landmark_layouts import LANDMARK_FORMATS, check_landmarks
from .layouts import CocoPart, Part, VocPart, YoloPart, find_layout
from .masks import IGNORED
from .person_check import check_person_keypoints
from .voc_file import read_voc
from .yolo_file import read_yolo

__all__ = ["FORMATS", "Fault", "anchor_report", "check_and_report", "check_dataset", "format_report"]


@waited("checking")
def check_dataset(data_format: str, folder: str | os.PathLike[str], *, decode: bool = False) -> list[Fault]:
    """Find everything that is wrong with a data set, without decoding an image; masks have to be decoded.

    Args:
        data_format: a key of :data:`FORMATS`.
        folder: see :func:`ignite_imgtools.data.layouts.find_layout`,
            :func:`ignite_imgtools.data.open_segmentation_data`, :func:`ignite_imgtools.data.open_saliency_data` and
            :func:`ignite_imgtools.data.open_landmark_data`.
        decode: decode every image too, in this process: that finds damage in the middle of a file, of which training
            would refuse or skip what the decoders refuse, and take as it comes what they make of the rest.

    Returns:
        All faults, by part and file; none if the data set can be used as it is.

    Raises:
        DataError: there is no data set of this format in the folder.
        ValueError: the format is not known.
    """
    if data_format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {data_format!r}")
    with images_decoded() if decode else contextlib.nullcontext():
        return FORMATS[data_format](Path(folder))


def format_report(faults: list[Fault], images: int | None = None) -> str:
    """The faults, one in a line, and a line that counts them, and the ``images`` looked at where they are given."""
    looked_at = "" if images is None else f"; {_counted(images, 'image')} looked at"
    if not faults:
        return f"no faults found{looked_at}"
    files = len({fault.file for fault in faults})
    count = f"{_counted(len(faults), 'fault')} in {_counted(files, 'file')}{looked_at}"
    return "\n".join([*map(str, faults), count])


def check_and_report(data_format: str, folder: str | os.PathLike[str], *, decode: bool = False) -> tuple[bool, str]:
    """Whether :func:`check_dataset` found nothing, and its report with the number of images that it looked at."""
    with images_counted() as images:
        faults = check_dataset(data_format, folder, decode=decode)
    return not faults, format_report(faults, len(images))


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def anchor_report(data_format: str, folder: str | os.PathLike[str]) -> str:
    """Anchors for the training part of a detection data set without faults, and how well they fit, in one line.

    Raises:
        DataError: there is no data set of this format in the folder, or it has faults.
    """
    return describe_anchors(find_layout(folder, data_format).train.open())


def _check_detection(data_format: str, folder: Path) -> list[Fault]:
    layout = find_layout(folder, data_format)
    table, faults = _read(layout.train)
    if layout.val is None:
        return faults
    names = None if table is None else table.class_names
    val_table, val_faults = _read(layout.val, names)
    if names and val_table is not None and val_table.class_names != names:
        came = (
            f"{', '.join(val_table.class_names[1:9])}, ..." if len(names) > 9 else ", ".join(val_table.class_names[1:])
        )
        expected = f"the {len(names) - 1} classes of {layout.train}"
        val_faults.append(Fault(str(layout.val), "", "categories", expected, came, "list the same in both"))
    return faults + val_faults


def _read(part: Part, class_names: list[str] | None = None) -> tuple[DetectionTable | None, list[Fault]]:
    if isinstance(part, CocoPart):
        return read_coco(part.annotation_file, part.images_dir)
    if isinstance(part, VocPart):
        return _read_voc(part, class_names)
    assert isinstance(part, YoloPart)
    return read_yolo(part.root, part.split)


def _read_voc(part: VocPart, class_names: list[str] | None) -> tuple[DetectionTable | None, list[Fault]]:
    table, faults = read_voc(part.root, part.split, class_names=class_names)
    if (part.root / "SegmentationObject").is_dir():
        _, of_masks = read_voc(part.root, part.split, class_names=class_names, masks=True)
        faults += [fault for fault in of_masks if fault not in faults]
    return table, faults


def _check_dense(find: Callable[[Path], DenseLayout], folder: Path) -> list[Fault]:
    layout = find(folder)
    faults = []
    counted = True
    try:
        parts = layout.with_classes().parts()
    except DataError as error:
        # What is wrong with a single file is told below.
        if str(error.args[0]).startswith(f"{layout.train.masks_folder}: "):
            faults.append(fault_of_error(error, layout.train.masks_folder))
        # Whether the files can be read is still worth knowing: every number is taken for a class.
        counted, names = False, tuple(map(str, range(IGNORED)))
        parts = [dataclasses.replace(part, class_names=names) for part in layout.parts()]
    for part in parts:
        table, faults_of_part = part.read()
        faults += faults_of_part
        if table is not None:
            faults_of_masks, values = part.check_targets(table)
            faults += faults_of_masks
            if counted and part.class_names and values and values <= {0, IGNORED}:
                faults.append(_only_background(part, values))
    return faults


def _only_background(part: DensePart, values: set[int]) -> Fault:
    came = f"0 and {IGNORED}, which means ignored" if IGNORED in values else "0 alone"
    advice = f"write class numbers, for a single class 1 and not {IGNORED}"
    return Fault(str(part.masks_folder), "", "class numbers", f"some of {len(part.class_names)} classes", came, advice)


FORMATS: dict[str, Callable[[Path], list[Fault]]] = {
    "coco": lambda folder: _check_detection("coco", folder),
    "voc": lambda folder: _check_detection("voc", folder),
    "yolo": lambda folder: _check_detection("yolo", folder),
    "penn_fudan": lambda folder: find_layout(folder, "penn_fudan").train.open(on_bad_sample="skip").faults,
    **{name: partial(_check_dense, find) for name, find in {**SEGMENTATION_FORMATS, **SALIENCY_FORMATS}.items()},
    "class_folders": check_class_folders,
    "coco_keypoints": check_person_keypoints,
    **{name: partial(check_landmarks, find) for name, find in LANDMARK_FORMATS.items()},
}
"""Checker of each format: called with the folder, returns all faults."""
