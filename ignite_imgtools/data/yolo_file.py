"""Reading a data set in YOLO's text format into flat arrays, in one pass that finds every fault."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ignite_imgtools.formats import DataError

from .detection_table import BACKGROUND, Category, DetectionTable
from .faults import Fault, fault_of_error, shown
from .image_faults import examine_image, linked_folders
from .images import IMAGE_SUFFIXES, LONGEST_NAME, image_size, resolve_inside
from .ragged import pack_bytes, starts_of
from .regular_files import exists, read_regular_file
from .yolo_layout import YoloLayout, label_name, read_yolo_layout

__all__ = ["read_yolo"]

# Coordinates rounded to a few digits may be a little above 1.
_TOLERANCE = 1e-4
_NOT_LABELS = {"classes.txt", "labels.txt", "notes.txt", "readme.txt"}

Row = tuple[int, float, float, float, float]


def read_yolo(
    root: str | os.PathLike[str],
    split: str,
    *,
    class_names: Sequence[str] | None = None,
    check_images: bool = True,
) -> tuple[DetectionTable | None, list[Fault]]:
    """Read the images of one part, see :func:`~ignite_imgtools.data.yolo_layout.read_yolo_layout`.

    The sizes of the images, which this format does not note, are read from the headers of their files.

    Args:
        root: the folder that holds ``data.yaml``.
        split: ``"train"`` or ``"val"``.
        class_names: the classes that the data set must have; an entry for the background at the front is ignored.
        check_images: look at the end of every image file too.

    Returns:
        The annotations, without what is bad, or ``None`` if a fault is fatal; images of a folder in order of their
        paths, those of a list in its order. And all faults.
    """
    root = Path(root)
    try:
        layout = read_yolo_layout(root)
    except DataError as error:
        return None, [_fatal(fault_of_error(error, root))]
    names = [name for name in class_names or layout.class_names if name != BACKGROUND]
    if names != list(layout.class_names):
        came = f"{len(layout.class_names)} others"
        return None, [Fault(str(layout.file), "", "names", f"the {len(names)} classes given", came, fatal=True)]
    if split not in layout.parts:
        came = ", ".join(layout.parts)
        return None, [Fault(str(layout.file), "", "parts", f"a part {split!r}", came, "write it", fatal=True)]
    reader = _YoloReader(root, layout, check_images)
    return reader.read(layout.parts[split]), reader.faults


class _YoloReader:
    def __init__(self, root: Path, layout: YoloLayout, check_images: bool):
        self.root, self.layout, self.check_images = root, layout, check_images
        self.faults: list[Fault] = []
        self.labelled = 0

    def read(self, sources: Sequence[str]) -> DetectionTable | None:
        names: dict[str, str] = {}  # of images, with the place that names them
        for source in sources:
            for name, where in self._image_names(source):
                if name in names:
                    self.faults.append(Fault(*self._place(source, where), "image", "each once", f"{shown(name)} again"))
                else:
                    names[name] = f"{source}{', ' if where else ''}{where}"
        rows: list[tuple[int, str, tuple[int, int], list[Row]]] = []
        for number, (name, where) in enumerate(names.items()):
            labels = self._labels(name)
            size, fault = self._size(name, where)
            if fault is not None:
                self.faults.append(fault)
            elif size is not None:
                rows.append((number, name, size, labels))
        where = str(self.root / sources[0])
        if names and not self.labelled:
            expected = f"at least one label file, such as {self.root / label_name(next(iter(names)))}"
            self.faults.append(Fault(where, "", "labels", expected, "none", "put them there", fatal=True))
        elif not rows:
            self.faults.append(Fault(where, "", "images", "at least one that can be used", "none", fatal=True))
        else:
            return _table(rows, self.layout.class_names)
        return None

    def _place(self, source: str, where: str) -> tuple[str, str]:
        return str(self.root / source), where

    def _image_names(self, source: str) -> Iterator[tuple[str, str]]:
        """Path of each image relative to the root, and the line that names it; what is bad is noted."""
        path = self.root / source
        if path.is_dir():
            names = sorted(self._files_below(path))
            yield from ((name, "") for name in names)
            self._find_orphans(names)
            return
        try:
            lines = read_regular_file(path).decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self.faults.append(Fault(str(path), "", "list of images", "UTF-8 text", str(error), fatal=True))
            return
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield self._listed(path.parent, line.strip()), f"line {number}"
                except DataError as error:
                    self.faults.append(fault_of_error(error, path, f"line {number}"))

    def _files_below(self, folder: Path) -> Iterator[str]:
        for parent, folders, files in os.walk(folder):
            self.faults += linked_folders(parent, folders)
            folders[:] = [name for name in folders if not name.startswith(".")]
            for file in files:
                if file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith("."):
                    yield (Path(parent) / file).relative_to(self.root).as_posix()

    def _listed(self, folder: Path, line: str) -> str:
        """Path relative to the root of an image as a list in ``folder`` names it."""
        if len(line) > LONGEST_NAME:
            raise DataError(f"image {shown(line)} has {len(line):,} characters; correct the list")
        root = os.path.abspath(self.root)  # noqa: PTH100  (links stay as they are)
        for start in (folder, self.root):
            path = os.path.normpath(os.path.join(os.path.abspath(start), line))  # noqa: PTH100, PTH118
            name = Path(os.path.relpath(path, root)).as_posix()
            if name.startswith(".."):
                raise DataError(f"image {shown(line)}: expected one inside of {self.root}; correct the list")
            if exists(self.root / name):
                return name
        return Path(os.path.relpath(os.path.join(os.path.abspath(folder), line), root)).as_posix()  # noqa: PTH100, PTH118

    def _find_orphans(self, names: list[str]) -> None:
        """Note label files that no image belongs to: the images have been lost or renamed."""
        expected = {label_name(name) for name in names}
        folders = {label.rpartition("/")[0] for name in names if (label := label_name(name)) != _beside(name)}
        for folder in sorted(folders):
            path = self.root / folder
            for file in sorted(path.glob("*.txt")) if path.is_dir() else ():
                if f"{folder}/{file.name}" not in expected and file.name.lower() not in _NOT_LABELS:
                    advice = "restore the image or remove the file"
                    self.faults.append(Fault(str(file), "", "image", "one of this name", "none", advice))

    def _size(self, name: str, where: str) -> tuple[tuple[int, int] | None, Fault | None]:
        if self.check_images:
            return examine_image(self.root, name, None, str(self.layout.file), where)
        try:
            return image_size(resolve_inside(self.root, name)), None
        except DataError as error:
            return None, fault_of_error(error, self.root / name)

    def _labels(self, name: str) -> list[Row]:
        """The rows of an image's label file that are good; none where there is no file."""
        try:
            path = resolve_inside(self.root, label_name(name))
        except DataError as error:
            self.faults.append(fault_of_error(error, self.root / label_name(name)))
            return []
        if not exists(path):
            return []
        self.labelled += 1
        try:
            text = read_regular_file(path).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            self.faults.append(Fault(str(path), "", "label file", "UTF-8 text", str(error), "write it anew"))
            return []
        rows: dict[Row, int] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            row, fault = _parse(line, len(self.layout.class_names))
            if row is not None and row in rows:
                fault = "row", "each object once", f"line {rows[row]} again"
            elif row is not None:
                rows[row] = number
            if fault is not None:
                self.faults.append(Fault(str(path), f"line {number}", *fault, "correct or remove it"))
        return list(rows)


def _beside(image_name: str) -> str:
    return f"{os.path.splitext(image_name)[0]}.txt"  # noqa: PTH122  (of a name, not of a path)


def _fatal(fault: Fault) -> Fault:
    return Fault(fault.file, fault.where, fault.what, fault.expected, fault.came, fault.advice, fatal=True)


def _parse(line: str, num_classes: int) -> tuple[Row | None, tuple[str, str, str] | None]:
    """A row, or what is wrong with it: the field, what was expected, what came."""
    columns = line.split()
    if len(columns) != 5:
        return None, ("columns", "5: class, x, y, width, height", f"{len(columns)}: {shown(line.strip())}")
    try:
        label, x, y, width, height = map(float, columns)
    except ValueError:
        return None, ("columns", "5 numbers: class, x, y, width, height", shown(line.strip()))
    if not all(map(math.isfinite, (label, x, y, width, height))):
        return None, ("columns", "finite numbers", shown(line.strip()))
    if not label.is_integer() or not 0 <= label < num_classes:
        return None, ("class", f"an integer from 0 to {num_classes - 1}", columns[0])
    if not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in (x, y, width, height)):
        return None, ("box", "x, y, width, height from 0 to 1, as shares of the image", " ".join(columns[1:]))
    if width <= 0 or height <= 0:
        return None, ("box", "width and height above 0", " ".join(columns[1:]))
    return (int(label), x, y, width, height), None


def _table(rows: list[tuple[int, str, tuple[int, int], list[Row]]], class_names: Sequence[str]) -> DetectionTable:
    counts = np.array([len(of_image) for *_, of_image in rows])
    sizes = np.array([size for _, _, size, _ in rows], np.int64)
    values = np.array([row for *_, of_image in rows for row in of_image], np.float64).reshape(-1, 5)
    boxes = values[:, 1:] * np.repeat(np.tile(sizes[:, ::-1], 2), counts, axis=0)
    boxes[:, :2] -= boxes[:, 2:] / 2
    return DetectionTable(
        image_ids=np.array([number for number, *_ in rows], np.int64),
        sizes=sizes,
        names=pack_bytes([os.fsencode(name) for _, name, _, _ in rows]),
        starts=starts_of(counts),
        boxes_xywh=boxes,
        labels=values[:, 0].astype(np.int64) + 1,
        areas=boxes[:, 2] * boxes[:, 3],
        iscrowd=np.zeros(len(values), bool),
        categories=tuple(Category(number, name) for number, name in enumerate(class_names)),
    )
