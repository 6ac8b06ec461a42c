"""Reading a COCO annotation file into flat arrays, in one pass that finds every fault."""

from __future__ import annotations

import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .detection_table import Category, DetectionTable, boxes_xywh_to_clipped_xyxy
from .faults import Fault, shown
from .image_faults import examine_image
from .ragged import pack_bytes, starts_of
from .segmentations import BadSegmentation, SegmentationBuilder, Segmentations

__all__ = ["REACH", "read_coco"]

REACH = 10.0
"""How far coordinates may lie from the image, in lengths of its longer side, before they are taken for a mistake."""

_MAX_ID = 2**62
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: valid in json, but no file can be called so


def read_coco(
    annotation_file: str | os.PathLike[str], images_dir: str | os.PathLike[str], *, check_images: bool = True
) -> tuple[DetectionTable | None, list[Fault]]:
    """Read a file of COCO's instances or person keypoints.

    Args:
        annotation_file: the json file; of its keys, ``images``, ``annotations`` and ``categories`` are used.
        images_dir: folder that the file names are relative to.
        check_images: look at the header and the end of every image file.

    Returns:
        The annotations, without what is bad, or ``None`` if a fault is fatal; images in order of their ids, objects
        of an image in the file's order. And all faults.
    """
    reader = _CocoReader(str(annotation_file), Path(images_dir), check_images)
    return reader.read(), reader.faults


class _CocoReader:
    def __init__(self, file: str, images_dir: Path, check_images: bool):
        self.file, self.images_dir, self.check_images = file, images_dir, check_images
        self.faults: list[Fault] = []

    def read(self) -> DetectionTable | None:
        content = self._read_json()
        if content is None:
            return None
        lists = {key: self._list(content, key) for key in ("images", "annotations", "categories")}
        if any(fault.fatal for fault in self.faults):
            return None
        categories = self._categories(lists["categories"])
        listed_ids, images = self._images(lists["images"])
        if categories and images:
            return self._objects(lists["annotations"], categories, listed_ids, images)
        for key, rows in (("images", images), ("categories", categories)):
            if not rows:
                self._fault("", key, "at least one that can be used", "none", "correct the file", fatal=True)
        return None

    def _fault(
        self, where: str, what: str, expected: str, came: str, advice: str = "correct it", fatal: bool = False
    ) -> None:
        self.faults.append(Fault(self.file, where, what, expected, came, advice, fatal))

    def _read_json(self) -> Any:
        # Looked at before it is opened: opening a pipe would wait for ever.
        if not Path(self.file).is_file():
            came = "something else" if Path(self.file).exists() else "nothing there"
            self._fault("", "annotation file", "a file", came, "correct the path", fatal=True)
            return None
        try:
            content = json.loads(Path(self.file).read_bytes().decode("utf-8"))
        except UnicodeDecodeError as error:
            self._fault("", "encoding", "UTF-8", f"byte {error.start} that is not", "save it as UTF-8", fatal=True)
        except RecursionError:
            self._fault("", "json", "COCO annotations", "endless nesting", "write the file anew", fatal=True)
        except OSError as error:
            self._fault("", "annotation file", "a readable file", str(error.strerror), "correct that", fatal=True)
        except ValueError as error:
            advice = "save it as UTF-8 without a byte order mark" if "BOM" in str(error) else "write the file anew"
            self._fault("", "json", "COCO annotations", f"no valid json: {error}", advice, fatal=True)
        else:
            if isinstance(content, dict):
                return content
            came = f"a {type(content).__name__}"
            self._fault("", "json", "an object with images, annotations, categories", came, fatal=True)
        return None

    def _list(self, content: dict[str, Any], key: str) -> list[Any]:
        """What is listed under a key."""
        rows = content.get(key)
        if not isinstance(rows, list):
            came = "nothing" if rows is None else f"a {type(rows).__name__}"
            advice = "use a file of instances or keypoints" if key == "categories" else "write the file anew"
            self._fault("", key, "a list", came, advice, fatal=True)
            return []
        return rows

    def _categories(self, rows: list[Any]) -> tuple[Category, ...]:
        categories: dict[int, Category] = {}
        for number, row in enumerate(rows):
            where = f"categories[{number}]"
            if not isinstance(row, dict):
                self._fault(where, "category", "an object", shown(row))
                continue
            id_, name = _as_int(row.get("id")), row.get("name")
            if id_ is None:
                self._fault(where, "id", "an integer", _came(row, "id"))
            elif not isinstance(name, str) or not name:
                self._fault(f"category {id_}", "name", "a name", _came(row, "name"))
            elif id_ in categories:
                self._fault(f"category {id_}", "id", "one category of this id", f"another one, {name!r}")
            elif any(name == other.name for other in categories.values()):
                self._fault(f"category {id_}", "name", "a name of its own", f"{name!r} again", "rename it")
            else:
                categories[id_] = Category(id_, name, _texts(row.get("keypoints")), _pairs(row.get("skeleton")))
        return tuple(categories[id_] for id_ in sorted(categories))

    def _images(self, rows: list[Any]) -> tuple[np.ndarray, dict[int, tuple[str, int, int]]]:
        """All ids listed, sorted; and name, height and width by id of the images that can be used."""
        ids = [_as_int(row.get("id")) if isinstance(row, dict) else None for row in rows]
        times = Counter(ids)
        images: dict[int, tuple[str, int, int]] = {}
        for number, (id_, row) in enumerate(zip(ids, rows, strict=True)):
            if not isinstance(row, dict):
                self._fault(f"images[{number}]", "image", "an object", shown(row))
            elif id_ is None:
                self._fault(f"images[{number}]", "id", "an integer", _came(row, "id"))
            elif times[id_] > 1:
                came = f"{times[id_]}, this one is {shown(row.get('file_name'))}"
                self._fault(f"image {id_}", "id", "one image of this id", came, "give each image an id of its own")
            elif size := self._image(id_, row):
                images[id_] = (row["file_name"], *size)
        return np.array(sorted(id_ for id_ in times if id_ is not None), np.int64), images

    def _image(self, id_: int, row: dict[str, Any]) -> tuple[int, int] | None:
        """``(height, width)`` of an image that can be used."""
        where, name = f"image {id_}", row.get("file_name")
        if not isinstance(name, str) or _SURROGATE.search(name):
            self._fault(where, "file_name", "a path", _came(row, "file_name"))
            return None
        noted = None
        if "height" in row or "width" in row:
            height, width = _as_int(row.get("height")), _as_int(row.get("width"))
            if height is None or width is None or height < 1 or width < 1:
                came = f"{shown(row.get('width'))} x {shown(row.get('height'))}"
                self._fault(where, "width and height", "integers from 1", came, "correct them or leave both out")
                return None
            noted = (height, width)
        if noted is not None and not self.check_images:
            return noted
        size, fault = examine_image(self.images_dir, name, noted, self.file, where)
        if fault is not None:
            self.faults.append(fault)
            return None
        return size

    def _objects(
        self,
        rows: list[Any],
        categories: tuple[Category, ...],
        listed_ids: np.ndarray,
        images: dict[int, tuple[str, int, int]],
    ) -> DetectionTable:
        image_ids = np.array(sorted(images), np.int64)
        sizes = np.array([images[id_][1:] for id_ in image_ids.tolist()], np.int64)
        objects = _Objects(self, rows)
        objects.find_images(listed_ids, image_ids, sizes)
        labels = objects.find_labels(np.array([category.id for category in categories], np.int64))
        boxes = objects.boxes()
        iscrowd = objects.flags("iscrowd")
        segmentations = objects.segmentations()
        keypoints = objects.keypoints(categories)
        areas = objects.areas(boxes, segmentations)

        good = np.flatnonzero(objects.good)
        order = good[np.argsort(objects.image[good], kind="stable")]
        return DetectionTable(
            image_ids=image_ids,
            sizes=sizes,
            names=pack_bytes([os.fsencode(images[id_][0]) for id_ in image_ids.tolist()]),
            starts=starts_of(np.bincount(objects.image[order], minlength=len(image_ids))),
            boxes_xywh=boxes[order],
            labels=labels[order],
            areas=areas[order],
            iscrowd=iscrowd[order],
            categories=categories,
            segmentations=None if segmentations is None else segmentations.take(order),
            keypoints=None if keypoints is None else keypoints[order],
        )


class _Objects:
    """The annotations of a file, column by column; ``good`` tells which of them had no fault so far."""

    def __init__(self, reader: _CocoReader, rows: list[Any]):
        self.reader = reader
        self.good = np.fromiter((type(row) is dict for row in rows), bool, len(rows))
        self.rows: list[dict[str, Any]] = [row if type(row) is dict else {} for row in rows]
        for number in np.flatnonzero(~self.good).tolist():
            reader._fault(f"annotations[{number}]", "annotation", "an object", shown(rows[number]))
        self.image = np.full(len(rows), -1)
        self.sizes = np.zeros((len(rows), 2), np.int64)
        self._check_ids()

    def refuse(
        self,
        bad: np.ndarray,
        what: str,
        expected: str | Callable[[int], str],
        came: Callable[[int], str],
        advice: str = "correct it",
    ) -> None:
        """Note a fault of each annotation that ``bad`` marks and that had none before."""
        for number in np.flatnonzero(bad & self.good).tolist():
            id_ = _as_int(self.rows[number].get("id"))
            where = f"annotations[{number}]" if id_ is None else f"annotation {id_}"
            should = expected if isinstance(expected, str) else expected(number)
            self.reader._fault(where, what, should, came(number), advice)
        self.good &= ~bad

    def _integers(self, key: str, default: Any = None) -> np.ndarray:
        """A column of integers; an annotation without one is refused and gets 0."""
        values = [_as_int(row.get(key, default)) for row in self.rows]
        missing = np.fromiter((value is None for value in values), bool, len(values))
        self.refuse(missing, key, "an integer", lambda number: _came(self.rows[number], key))
        return np.fromiter((value or 0 for value in values), np.int64, len(values))

    def _check_ids(self) -> None:
        ids = self._integers("id")
        first = np.zeros(len(ids), dtype=bool)
        first[np.unique(ids, return_index=True)[1]] = True
        advice = "give each annotation an id of its own, or take the repeated one out"
        self.refuse(~first, "id", "one annotation of this id", lambda _: "another one", advice)

    def find_images(self, listed_ids: np.ndarray, image_ids: np.ndarray, sizes: np.ndarray) -> None:
        ids = self._integers("image_id")
        unknown = ~np.isin(ids, listed_ids)
        self.refuse(unknown, "image_id", "the id of an image in the file", lambda number: str(ids[number]))
        # The fault of an image that cannot be used has been noted: its annotations go without one.
        self.good &= np.isin(ids, image_ids)
        self.image = np.clip(np.searchsorted(image_ids, ids), 0, len(image_ids) - 1)
        self.sizes = sizes[self.image]

    def find_labels(self, category_ids: np.ndarray) -> np.ndarray:
        ids = self._integers("category_id")
        known = ", ".join(map(str, category_ids[:8])) + (", ..." if len(category_ids) > 8 else "")
        unknown = ~np.isin(ids, category_ids)
        self.refuse(unknown, "category_id", f"a category of the file ({known})", lambda number: str(ids[number]))
        return np.searchsorted(category_ids, ids) + 1

    def boxes(self) -> np.ndarray:
        """``[A, 4]`` xywh as the file has them."""
        boxes = _numbers((row.get("bbox") for row in self.rows), 4)
        expected, came = "4 finite numbers x, y, width, height", lambda number: _came(self.rows[number], "bbox")
        self.refuse(~np.isfinite(boxes).all(1), "bbox", expected, came)
        boxes = np.where(self.good[:, None], boxes, 0.0)
        flat = np.minimum(boxes[:, 2], boxes[:, 3]) <= 0
        self.refuse(flat, "bbox", "a width and a height above 0", came, "correct or remove it")
        far = np.abs(boxes).max(1, initial=0) > REACH * self.sizes.max(1, initial=1)
        left, top, right, bottom = boxes_xywh_to_clipped_xyxy(np.where(far[:, None], 0.0, boxes), self.sizes).T
        outside = (right <= left) | (bottom <= top)

        def came_in(number: int) -> str:
            height, width = self.sizes[number]
            return f"{came(number)} in {width} x {height}"

        self.refuse(outside, "bbox", "a box that overlaps its image", came_in, "correct or remove it")
        return boxes

    def flags(self, key: str) -> np.ndarray:
        values = self._integers(key, default=0)
        wrong = (values != 0) & (values != 1)
        self.refuse(wrong, key, "0 or 1", lambda number: str(values[number]))
        return values == 1

    def segmentations(self) -> Segmentations | None:
        if not any(row.get("segmentation") for row in self.rows):
            return None
        builder, faults = SegmentationBuilder(), dict[int, BadSegmentation]()
        for number, (row, (height, width)) in enumerate(zip(self.rows, self.sizes.tolist(), strict=True)):
            try:
                builder.add(row.get("segmentation") if self.good[number] else None, height, width)
            except BadSegmentation as fault:
                faults[number] = fault
                builder.add(None, height, width)
        bad = np.isin(np.arange(len(self.rows)), list(faults))
        self.refuse(bad, "segmentation", lambda number: faults[number].args[0], lambda number: faults[number].args[1])
        segmentations = builder.build()
        # Written so that NaN is refused too. To raster a polygon costs memory by its length, in the image or not.
        far = ~(segmentations.reach() <= REACH * self.sizes.max(1, initial=1))
        self.refuse(far, "segmentation", "finite points near the image", lambda _: "points far away or not finite")
        return segmentations

    def keypoints(self, categories: tuple[Category, ...]) -> np.ndarray | None:
        """``[A, K, 3]``, or ``None`` where no annotation has keypoints."""
        lengths = [len(points) for row in self.rows if isinstance(points := row.get("keypoints"), list) and points]
        if not lengths:
            return None
        named = max(len(category.keypoints) for category in categories)
        count = named or max(Counter(lengths).most_common(1)[0][0] // 3, 1)
        absent = [0.0] * (3 * count)
        points = _numbers((row.get("keypoints") or absent for row in self.rows), 3 * count).reshape(-1, count, 3)
        wrong = ~np.isfinite(points).all((1, 2)) | (~np.isin(points[:, :, 2], (0, 1, 2))).any(1)
        expected = f"{count} times x, y, visibility 0, 1 or 2"
        self.refuse(wrong, "keypoints", expected, lambda number: _came(self.rows[number], "keypoints"))
        return points

    def areas(self, boxes: np.ndarray, segmentations: Segmentations | None) -> np.ndarray:
        """Areas as the file has them; where it has none, that of the mask, or of the box."""
        areas = _numbers(([row["area"]] if "area" in row else [-1.0] for row in self.rows), 1)[:, 0]
        absent = np.fromiter(("area" not in row for row in self.rows), bool, len(self.rows))
        wrong = ~(np.isfinite(areas) & (areas >= 0)) & ~absent
        self.refuse(wrong, "area", "a finite number from 0", lambda number: _came(self.rows[number], "area"))
        for number in np.flatnonzero(absent & self.good).tolist():
            areas[number] = boxes[number, 2] * boxes[number, 3]
            if segmentations is not None and segmentations.has_mask(number):
                areas[number] = segmentations.mask(number, *self.sizes[number].tolist()).sum()
        return areas


def _as_int(value: Any) -> int | None:
    """An integer, also one written as 3.0; ``None`` for anything else, and for what no id of ours can be."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -_MAX_ID < value < _MAX_ID else None


def _numbers(rows: Iterable[Any], count: int) -> np.ndarray:
    """Rows of ``count`` numbers as float64 ``[N, count]``; NaN where a row is something else."""
    values = array("d")
    for row in rows:
        before = len(values)
        with suppress(TypeError, OverflowError):
            values.extend(row)
        if len(values) - before != count or type(row) is not list:
            del values[before:]
            values.extend([float("nan")] * count)
    return np.array(values, np.float64).reshape(-1, count)


def _came(row: dict[str, Any], key: str) -> str:
    return shown(row[key]) if key in row else "nothing"


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _pairs(value: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list):
        return ()
    return tuple((pair[0], pair[1]) for pair in value if isinstance(pair, list) and len(pair) == 2)
