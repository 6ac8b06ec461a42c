"""Finding all that is wrong with a data set, in one pass over its annotations and the headers of its images."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .coco_file import read_coco
from .detection_table import DetectionTable
from .faults import Fault
from .layouts import CocoPart, VocPart, find_layout
from .voc_file import read_voc

__all__ = ["FORMATS", "Fault", "check_dataset", "format_report"]


def check_dataset(data_format: str, folder: str | os.PathLike[str]) -> list[Fault]:
    """Find everything that is wrong with a data set, without decoding an image.

    Args:
        data_format: a key of :data:`FORMATS`.
        folder: see :func:`ignite_imgtools.data.layouts.find_layout`.

    Returns:
        All faults, by part and file; none if the data set can be used as it is.

    Raises:
        DataError: there is no data set of this format in the folder.
        ValueError: the format is not known.
    """
    if data_format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {data_format!r}")
    return FORMATS[data_format](Path(folder))


def format_report(faults: list[Fault]) -> str:
    """The faults, one in a line, and a line that counts them."""
    if not faults:
        return "no faults found"
    files = len({fault.file for fault in faults})
    count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in {files} file{'s' if files > 1 else ''}"
    return "\n".join([*map(str, faults), count])


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


def _read(part: CocoPart | VocPart, class_names: list[str] | None = None) -> tuple[DetectionTable | None, list[Fault]]:
    if isinstance(part, CocoPart):
        return read_coco(part.annotation_file, part.images_dir)
    return read_voc(part.root, part.split, class_names=class_names)


FORMATS: dict[str, Callable[[Path], list[Fault]]] = {
    "coco": lambda folder: _check_detection("coco", folder),
    "voc": lambda folder: _check_detection("voc", folder),
}
"""Checker of each format: called with the folder, returns all faults."""
