"""Detection data sets from one format into another."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np

from ignite_imgtools.formats import UNPRINTABLE, DataError
from ignite_imgtools.progress import tick, waited

from .detection_table import DetectionTable, clipped_corners
from .faults import OnBadSample
from .images import resolve_inside
from .layouts import find_layout
from .yolo_layout import label_name
from .yolo_writer import yolo_rows, yolo_yaml

__all__ = ["CONVERSIONS", "ConvertedParts", "convert_detection_data"]

_PIXEL_DECIMALS = 2


@dataclass(frozen=True)
class ConvertedParts:
    """What was written: ``images`` and ``objects`` of all parts; and of the objects, ``crowds`` that were left out
    because the format cannot mark them, and ``dropped``, which lie outside of their image, are smaller than the
    rounding, or repeat another one."""

    images: int
    objects: int
    crowds: int
    dropped: int

    def __str__(self) -> str:
        text = f"{self.images} images with {self.objects} objects"
        if self.crowds:
            text += f"; {self.crowds} crowds or difficult objects left out"
        if self.dropped:
            text += f"; {self.dropped} objects dropped that are outside of the image, too small, or there twice"
        return text


@waited("converting")
def convert_detection_data(
    folder: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    to_format: str,
    *,
    data_format: str | None = None,
    crowd: Literal["drop", "keep"] = "drop",
    decimals: int = 6,
    link_images: bool = False,
    on_bad_sample: OnBadSample = "raise",
) -> ConvertedParts:
    """Write the boxes and the images of a detection data set in another format.

    Images are copied as they are. Boxes are clipped to their image and rounded: an edge moves by at most
    ``0.75 * 10 ** -decimals`` of the image's side into YOLO's format, and by 0.005 pixels into the others, which have
    pixels with two digits. So corners that are whole pixels come back exactly from YOLO's format in images of up to
    6,600 pixels. VOC's numbers are taken for edges, as :class:`~ignite_imgtools.data.VocDetection` takes them, and
    written the same way. What is lost: masks, keypoints, and the numbers
    that a format uses for classes and images; VOC lists no classes, so those that do not occur too.

    The folder appears when it is complete. Call it on one process.

    Args:
        folder: see :func:`~ignite_imgtools.data.find_layout`.
        directory: a folder that is empty or does not exist yet.
        to_format: ``"coco"``, ``"voc"`` or ``"yolo"``; not the format that the data set has.
        data_format: of the data set; by default the one that is found.
        crowd: what becomes of crowds (VOC: of difficult objects) in YOLO's format, which cannot mark them:
            ``"drop"`` leaves them out, as training does; ``"keep"`` makes them objects like others.
        decimals: digits in YOLO's format, 4 to 12.
        link_images: make hard links instead of copies where the file system can.
        on_bad_sample: refuse bad images and objects, or leave them out.

    Returns:
        What was written.

    Raises:
        DataError: the data set is bad, or two images would get one name.
        ValueError: an argument is out of its range.
        FileExistsError: the directory is not empty, or is a file.
    """
    if to_format not in CONVERSIONS:
        raise ValueError(f"to_format must be one of {', '.join(CONVERSIONS)}, got {to_format!r}")
    if crowd not in ("drop", "keep"):
        raise ValueError(f"crowd must be 'drop' or 'keep', got {crowd!r}")
    if not 4 <= decimals <= 12:
        raise ValueError(f"decimals must be 4 to 12, got {decimals}")
    layout = find_layout(folder, data_format)
    if layout.data_format == to_format:
        raise ValueError(f"{folder} is in the format {to_format} already; choose another one")
    names: list[str] | None = None
    parts: dict[str, Any] = {}
    for name, part in (("train", layout.train), ("val", layout.val)):
        if part is not None:
            parts[name] = part.open(names, on_bad_sample=on_bad_sample)
            names = parts[name].class_names
    writer = _Writer(crowd == "keep", decimals, link_images, Counter())
    with _appearing(Path(directory)) as unfinished:
        CONVERSIONS[to_format](writer, unfinished, parts)
    counts = writer.counts
    return ConvertedParts(counts["images"], counts["objects"], counts["crowds"], counts["dropped"])


@dataclass(frozen=True)
class _Writer:
    keep_crowds: bool
    decimals: int
    link_images: bool
    counts: Counter[str]

    def to_yolo(self, folder: Path, parts: dict[str, Any]) -> None:
        names = next(iter(parts.values())).class_names[1:]
        (folder / "data.yaml").write_text(yolo_yaml(names, list(parts)), encoding="utf-8")
        for part, dataset in parts.items():
            table: DetectionTable = dataset.table
            labels: set[str] = set()
            for index in range(len(table)):
                name = f"images/{part}/{self._name_in_folder(dataset, index)}"
                label_file = label_name(name)
                if label_file in labels:
                    raise DataError(f"{name}: {label_file} belongs to another image too; rename one of them")
                labels.add(label_file)
                self._place_image(dataset, index, folder / name)
                rows = table.objects(index, crowd=self.keep_crowds)
                self.counts["crowds"] += len(table.objects(index)) - len(rows)
                height, width = table.image_size(index)
                text = yolo_rows(table.labels[rows], table.boxes_xywh[rows], height, width, self.decimals)
                self._count_objects(len(rows), text.count("\n"))
                (folder / label_file).parent.mkdir(parents=True, exist_ok=True)
                (folder / label_file).write_text(text, encoding="utf-8")

    def to_coco(self, folder: Path, parts: dict[str, Any]) -> None:
        (folder / "annotations").mkdir()
        for part, dataset in parts.items():
            table: DetectionTable = dataset.table
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for index in range(len(table)):
                name = self._name_in_folder(dataset, index)
                self._place_image(dataset, index, folder / part / name)
                height, width = table.image_size(index)
                images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
                for row, (x1, y1, x2, y2) in self._rounded_boxes(table, index):
                    box = [x1, y1, round(x2 - x1, _PIXEL_DECIMALS), round(y2 - y1, _PIXEL_DECIMALS)]
                    annotation = {"id": len(annotations) + 1, "image_id": index + 1}
                    annotation |= {"category_id": int(table.labels[row]), "iscrowd": int(table.iscrowd[row])}
                    annotations.append(annotation | {"bbox": box, "area": round(box[2] * box[3], _PIXEL_DECIMALS)})
            categories = [{"id": label, "name": name} for label, name in enumerate(table.class_names) if label]
            content = {"images": images, "annotations": annotations, "categories": categories}
            text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
            (folder / "annotations" / f"instances_{part}.json").write_text(text, encoding="utf-8")

    def to_voc(self, folder: Path, parts: dict[str, Any]) -> None:
        lists = folder / "ImageSets" / "Main"
        for path in (lists, folder / "Annotations", folder / "JPEGImages"):
            path.mkdir(parents=True)
        owners: dict[str, str] = {}
        for part, dataset in parts.items():
            stems = []
            for index in range(len(dataset)):
                name = self._name_in_folder(dataset, index)
                suffix = PurePosixPath(name).suffix
                stem = name.removesuffix(suffix).replace("/", "_")
                if stem in owners:
                    # Parts often number their images alike.
                    stem = f"{part}_{stem}"
                if stem in owners:
                    raise DataError(f"{dataset.image_path(index)}: VOC has one name for it and for {owners[stem]}")
                owners[stem] = str(dataset.image_path(index))
                stems.append(stem)
                self._place_image(dataset, index, folder / "JPEGImages" / f"{stem}{suffix}")
                xml = self._voc_xml(dataset.table, index, f"{stem}{suffix}")
                (folder / "Annotations" / f"{stem}.xml").write_bytes(xml)
            (lists / f"{part}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")

    def _voc_xml(self, table: DetectionTable, index: int, file_name: str) -> bytes:
        root = ElementTree.Element("annotation")
        height, width = table.image_size(index)
        _add(root, {"filename": file_name})
        _add(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
        for row, corners in self._rounded_boxes(table, index):
            element = ElementTree.SubElement(root, "object")
            _add(element, {"name": table.class_names[table.labels[row]], "difficult": int(table.iscrowd[row])})
            box = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
            _add(ElementTree.SubElement(element, "bndbox"), {key: _shortest(value) for key, value in box})
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="utf-8") + b"\n"

    def _rounded_boxes(self, table: DetectionTable, index: int) -> Iterator[tuple[int, list[float]]]:
        """Row and corners in pixels of each object of an image that is not rounded to nothing."""
        rows = table.objects(index)
        corners = clipped_corners(table.boxes_xywh[rows], np.array([table.image_size(index)])).round(_PIXEL_DECIMALS)
        good = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        self._count_objects(len(rows), int(good.sum()))
        yield from zip(rows[good].tolist(), corners[good].tolist(), strict=True)

    def _count_objects(self, there: int, written: int) -> None:
        self.counts["objects"] += written
        self.counts["dropped"] += there - written

    def _name_in_folder(self, dataset: Any, index: int) -> str:
        """Path of an image within the part it belongs to."""
        name = PurePosixPath(dataset.table.name(index))
        # YOLO's names begin with images/PART, or with PART/images.
        if UNPRINTABLE.search(str(name)):
            raise DataError(f"{dataset.image_path(index)}: its name has characters that lists cannot hold; rename it")
        parts = [part for place, part in enumerate(name.parts[:-1]) if place > 1 or part not in _FOLDERS]
        return "/".join([*parts, name.name])

    def _place_image(self, dataset: Any, index: int, path: Path) -> None:
        source = resolve_inside(dataset.images_dir, dataset.table.name(index))
        if path.exists():
            raise DataError(f"{source}: another image has this name already; rename one of them")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.counts["images"] += 1
        tick()
        if self.link_images:
            with contextlib.suppress(OSError):
                os.link(source.resolve(), path)
                return
        shutil.copyfile(source, path)


_FOLDERS = {"images", "train", "val", "valid", "test", "training", "validation"}

CONVERSIONS: dict[str, Callable[[_Writer, Path, dict[str, Any]], None]] = {
    "coco": _Writer.to_coco,
    "voc": _Writer.to_voc,
    "yolo": _Writer.to_yolo,
}
"""Writer of each format."""


def _shortest(value: float) -> str:
    return f"{value:.{_PIXEL_DECIMALS}f}".rstrip("0").rstrip(".")


def _add(element: ElementTree.Element, texts: dict[str, Any]) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(element, tag).text = str(text)


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``folder`` when all went well and vanishes else."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds something already: give a new or an empty folder")
    unfinished = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if folder.is_dir():
            folder.rmdir()
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
