"""Reading a folder in PASCAL VOC's layout into flat arrays, in one pass that finds every fault."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ignite_imgtools.formats import DataError

from .detection_table import BACKGROUND, Category, DetectionTable, boxes_xywh_to_clipped_xyxy
from .faults import CLASS_NAME, REACH, Fault, fault_of_error, is_class_name, shown
from .image_faults import examine_image
from .images import IMAGE_SUFFIXES, resolve_inside
from .masks import IGNORED, read_mask
from .ragged import pack_bytes, starts_of
from .regular_files import read_regular_file
from .segmentations import SegmentationBuilder

__all__ = ["VOC_CLASSES", "read_voc"]

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The classes of PASCAL VOC, in its order."""

_MAX_XML = 1 << 24  # bytes; an object is half a kilobyte of it


@dataclass(frozen=True)
class _Object:
    number: int
    name: str
    box: tuple[float, ...]
    difficult: bool
    mask: dict[str, Any] | None = None
    """Compressed run lengths as COCO has them."""
    area: int = 0
    """Pixels of the mask."""


@dataclass
class _Annotation:
    """What one xml file says, as far as it can be used."""

    file_name: str | None = None
    size: tuple[int, int] | None = None
    objects: list[_Object] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def read_voc(
    root: str | os.PathLike[str],
    split: str,
    *,
    class_names: Sequence[str] | None = None,
    difficult_is_crowd: bool = True,
    masks: bool = False,
    check_images: bool = True,
) -> tuple[DetectionTable | None, list[Fault]]:
    """Read the images that ``ImageSets/Main/<split>.txt`` lists; with masks, ``ImageSets/Segmentation/<split>.txt``.

    Args:
        root: the folder that holds ``ImageSets``, ``Annotations`` and ``JPEGImages``.
        split: name of the list.
        class_names: the classes in order of their labels; an entry for the background at the front is ignored. By
            default they are gathered from *all* files in ``Annotations``, so that every split gets the same labels:
            the 20 of VOC in its order if there are no others, else the names found, sorted.
        difficult_is_crowd: note objects marked difficult in ``iscrowd``.
        masks: read ``SegmentationObject`` too, where number ``n`` marks the pixels of the n-th object of the xml file.
            The masks are decoded here and kept as run lengths; areas are those of masks.
        check_images: look at the header and the end of every image file.

    Returns:
        The annotations, without what is bad, or ``None`` if a fault is fatal; images in order of the list. And all
        faults.
    """
    reader = _VocReader(Path(root), split, masks, check_images)
    table = reader.read(list(class_names) if class_names is not None else None, difficult_is_crowd)
    return table, reader.faults


class _VocReader:
    def __init__(self, root: Path, split: str, masks: bool, check_images: bool):
        self.root, self.masks, self.check_images = root, masks, check_images
        lists = root / "ImageSets" / "Segmentation"
        if not (masks and (lists / f"{split}.txt").is_file()):
            lists = root / "ImageSets" / "Main"
        self.list_file = lists / f"{split}.txt"
        self.faults: list[Fault] = []

    def read(self, class_names: list[str] | None, difficult_is_crowd: bool) -> DetectionTable | None:
        stems = self._stems()
        if stems is None:
            return None
        annotations = {stem: self._annotation(stem) for stem in stems.values()}
        if class_names is None:
            class_names = self._find_class_names(annotations)
        elif class_names[:1] == [BACKGROUND]:
            class_names = class_names[1:]
        labels = {name: label for label, name in enumerate(class_names, start=1)}
        images = self._image_files()
        rows: list[tuple[int, str, tuple[int, int], list[_Object]]] = []
        for number, stem in stems.items():
            annotation = annotations[stem]
            if annotation is None:
                continue
            name, size = self._image(stem, annotation, images)
            if name is not None and size is not None:
                good = self._good_objects(stem, annotation, size, labels)
                if self.masks:
                    good = self._with_masks(stem, size, good, annotation)
                rows.append((number, name, size, good))
        if not rows:
            self._fault(self.list_file, "", "images", "at least one that can be used", "none", fatal=True)
            return None
        return _table(rows, labels, difficult_is_crowd, self.masks)

    def _fault(
        self,
        file: Path,
        where: str,
        what: str,
        expected: str,
        came: str,
        advice: str = "correct it",
        fatal: bool = False,
    ) -> None:
        self.faults.append(Fault(str(file), where, what, expected, came, advice, fatal))

    def _stems(self) -> dict[int, str] | None:
        """Names listed, without their suffix, by their place in the list."""
        if not self.list_file.is_file():
            self._fault(self.list_file, "", "list of images", "a file", "nothing there", "correct the path", fatal=True)
            return None
        try:
            lines = read_regular_file(self.list_file).decode("utf-8-sig").splitlines()
        except (UnicodeDecodeError, OSError) as error:
            self._fault(self.list_file, "", "list of images", "UTF-8 text", str(error), "write it anew", fatal=True)
            return None
        stems: dict[int, str] = {}
        seen: set[str] = set()
        for number, line in enumerate(lines):
            # Lists of one class have a second column: 1 where the class is in the image, 0 difficult, -1 not.
            name, _, presence = line.strip().rpartition(" ")
            stem = name.strip() if name and presence in ("-1", "0", "1") else line.strip()
            if stem in seen:
                self._fault(self.list_file, f"line {number + 1}", "name", "each image once", f"{shown(stem)} again")
            elif stem:
                seen.add(stem)
                stems[number] = stem
        return stems

    def _annotation(self, stem: str) -> _Annotation | None:
        """What an image's xml file says, or ``None`` if the image cannot be used."""
        try:
            path = resolve_inside(self.root / "Annotations", f"{stem}.xml")
        except DataError as error:
            self._fault(self.list_file, shown(stem), "name", "one inside of Annotations", str(error))
            return None
        annotation = _read_xml(path)
        if isinstance(annotation, Fault):
            self.faults.append(annotation)
            return None
        self.faults.extend(annotation.faults)
        return annotation

    def _find_class_names(self, annotations: dict[str, _Annotation | None]) -> list[str]:
        names = {obj.name for annotation in annotations.values() if annotation for obj in annotation.objects}
        for path in (self.root / "Annotations").glob("*.xml"):
            # Faults of images that another list names are found when that one is read.
            if path.stem not in annotations and isinstance(annotation := _read_xml(path), _Annotation):
                names.update(obj.name for obj in annotation.objects)
        return list(VOC_CLASSES) if names <= set(VOC_CLASSES) else sorted(names)

    def _image_files(self) -> dict[str, str]:
        """File names in ``JPEGImages`` by stem."""
        folder = self.root / "JPEGImages"
        paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES] if folder.is_dir() else []
        # The last one of a stem stays: the one with the most usual suffix.
        paths.sort(key=lambda path: (IMAGE_SUFFIXES.index(path.suffix.lower()), path.name), reverse=True)
        return {path.stem: path.name for path in paths}

    def _image(
        self, stem: str, annotation: _Annotation, images: dict[str, str]
    ) -> tuple[str | None, tuple[int, int] | None]:
        """File name and ``(height, width)`` of an image; ``None`` for what cannot be used."""
        # VOC's rule is that the image has the name of the annotation; the name inside is often one of old.
        name = images.get(stem) or annotation.file_name or f"{stem}.jpg"
        if annotation.size is not None and not self.check_images:
            return name, annotation.size
        xml = str(self.root / "Annotations" / f"{stem}.xml")
        size, fault = examine_image(self.root / "JPEGImages", name, annotation.size, xml, "filename")
        if fault is not None:
            self.faults.append(fault)
            return None, None
        return name, size

    def _good_objects(
        self, stem: str, annotation: _Annotation, size: tuple[int, int], labels: dict[str, int]
    ) -> list[_Object]:
        good = []
        for obj in annotation.objects:
            fault = _object_fault(obj, size, labels)
            if fault is None:
                good.append(obj)
            else:
                path = self.root / "Annotations" / f"{stem}.xml"
                self._fault(path, f"object {obj.number}", *fault, "correct or remove it")
        return good

    def _with_masks(
        self, stem: str, size: tuple[int, int], objects: list[_Object], annotation: _Annotation
    ) -> list[_Object]:
        """The objects that have a mask, with it."""
        try:
            path = resolve_inside(self.root / "SegmentationObject", f"{stem}.png")
            numbers = read_mask(path).numpy()
        except DataError as error:
            self.faults.append(fault_of_error(error, self.root / "SegmentationObject" / f"{stem}.png"))
            return []
        if numbers.shape != size:
            came = f"{numbers.shape[1]} x {numbers.shape[0]}"
            self._fault(path, "", "size", f"that of the image, {size[1]} x {size[0]}", came)
            return []
        xml = self.root / "Annotations" / f"{stem}.xml"
        known = {obj.number for obj in annotation.objects}
        if strange := sorted(set(np.unique(numbers).tolist()) - known - {0, IGNORED}):
            expected = f"the numbers of the {len(known)} objects in {xml}"
            self._fault(
                path, f"number {strange[0]}", "object", expected, shown(strange), "add the object, or remove it"
            )
        found = []
        for obj in objects:
            pixels = numbers == obj.number
            if pixels.any():
                found.append(replace(obj, mask=_run_lengths(pixels), area=int(pixels.sum())))
            else:
                self._fault(xml, f"object {obj.number}", "mask", f"pixels of {obj.number} in {path}", "none")
        return found


def _run_lengths(pixels: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as mask_utils

    encoded: dict[str, Any] = mask_utils.encode(np.asfortranarray(pixels, dtype=np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def _object_fault(obj: _Object, size: tuple[int, int], labels: dict[str, int]) -> tuple[str, str, str] | None:
    """What is wrong with an object: the field, what was expected, what came."""
    if obj.name not in labels:
        known = ", ".join(list(labels)[:8]) + (", ..." if len(labels) > 8 else "")
        return "name", f"a class ({known})", shown(obj.name)
    xmin, ymin, xmax, ymax = obj.box
    came = f"{xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}"
    if not all(map(math.isfinite, obj.box)):
        return "bndbox", "finite numbers", came
    if xmax <= xmin or ymax <= ymin:
        return "bndbox", "xmin < xmax and ymin < ymax", came
    height, width = size
    far = max(map(abs, obj.box)) > REACH * max(size)
    box = np.array([(0, 0, 0, 0) if far else (xmin, ymin, xmax - xmin, ymax - ymin)])
    left, top, right, bottom = boxes_xywh_to_clipped_xyxy(box, np.array([size]))[0].tolist()
    if right <= left or bottom <= top:
        return "bndbox", "a box that overlaps its image", f"{came} in {width} x {height}"
    return None


def _table(
    rows: list[tuple[int, str, tuple[int, int], list[_Object]]],
    labels: dict[str, int],
    difficult_is_crowd: bool,
    masks: bool,
) -> DetectionTable:
    objects = [obj for *_, of_image in rows for obj in of_image]
    boxes = np.array([obj.box for obj in objects], np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    segmentations = None
    areas = boxes[:, 2] * boxes[:, 3]
    if masks:
        builder = SegmentationBuilder()
        for _, _, size, of_image in rows:
            for obj in of_image:
                builder.add(obj.mask, *size)
        segmentations = builder.build()
        areas = np.array([obj.area for obj in objects], np.float64)
    return DetectionTable(
        image_ids=np.array([number for number, *_ in rows], np.int64),
        sizes=np.array([size for _, _, size, _ in rows], np.int64),
        names=pack_bytes([os.fsencode(name) for _, name, _, _ in rows]),
        starts=starts_of(np.array([len(of_image) for *_, of_image in rows])),
        boxes_xywh=boxes,
        labels=np.array([labels[obj.name] for obj in objects], np.int64),
        areas=areas,
        iscrowd=np.array([obj.difficult and difficult_is_crowd for obj in objects], bool),
        categories=tuple(Category(label, name) for name, label in labels.items()),
        segmentations=segmentations,
    )


def _read_xml(path: Path) -> _Annotation | Fault:
    """What an xml file says, or why it cannot be read."""
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    try:
        if not path.is_file():
            came = "something else" if path.exists() else "nothing there"
            advice = "restore it or take the image off the list"
            return Fault(str(path), "", "annotation file", "a file", came, advice)
        root = ElementTree.fromstring(read_regular_file(path, _MAX_XML))
    except DefusedXmlException:
        came = "a definition of entities"
        return Fault(str(path), "", "xml", "annotations alone", came, "write the file anew")
    except OSError as error:
        return Fault(str(path), "", "annotation file", "a file", str(error.strerror), "correct the list or the file")
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        return Fault(str(path), "", "xml", "a VOC annotation", f"no valid xml: {error}", "write the file anew")
    annotation = _Annotation(file_name=_text(root, "filename") or None)
    size = root.find("size")
    if size is not None:
        height, width = _number(size, "height"), _number(size, "width")
        # Tools that cannot read an image write 0: then the header decides, as where there is no size at all.
        if height != 0 or width != 0:
            if height >= 1 and width >= 1 and height.is_integer() and width.is_integer():
                annotation.size = (int(height), int(width))
            else:
                came = f"{_text(size, 'width')!r:.40} x {_text(size, 'height')!r:.40}"
                advice = "correct it or leave it out"
                return Fault(str(path), "size", "width x height", "integers from 1", came, advice)
    for number, element in enumerate(root.findall("object"), start=1):
        _add_object(annotation, path, number, element)
    return annotation


def _add_object(annotation: _Annotation, path: Path, number: int, element: Any) -> None:
    # Parts of an object (VOC has heads, hands and feet) have boxes of their own further down, which are not meant.
    name, bndbox, difficult = _text(element, "name"), element.find("bndbox"), _text(element, "difficult")
    place = (str(path), f"object {number}")
    if not is_class_name(name):
        annotation.faults.append(Fault(*place, "name", CLASS_NAME, shown(name) if name else "nothing"))
    elif bndbox is None:
        annotation.faults.append(Fault(*place, "bndbox", "xmin, ymin, xmax, ymax", "nothing"))
    elif difficult not in ("", "0", "1"):
        annotation.faults.append(Fault(*place, "difficult", "0 or 1", shown(difficult)))
    else:
        texts = [_text(bndbox, key) for key in ("xmin", "ymin", "xmax", "ymax")]
        try:
            box = tuple(map(float, texts))
        except ValueError:
            annotation.faults.append(Fault(*place, "bndbox", "numbers xmin, ymin, xmax, ymax", shown(texts)))
        else:
            annotation.objects.append(_Object(number, name, box, difficult == "1"))


def _text(element: Any, key: str) -> str:
    return (element.findtext(key) or "").strip()


def _number(element: Any, key: str) -> float:
    """A number, 0 where there is nothing, NaN where there is something else."""
    try:
        return float(_text(element, key) or 0)
    except ValueError:
        return math.nan
