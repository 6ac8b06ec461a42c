"""Reading a COCO annotation file into flat arrays, in one pass that finds every fault."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ignite_imgtools.formats import one_line
from ignite_imgtools.progress import say

from .coco_objects import ObjectColumns, as_int, came_of
from .detection_table import Category, DetectionTable
from .faults import CLASS_NAME, Fault, is_class_name, shown
from .image_faults import examine_image
from .images import LONGEST_NAME
from .index_cache import CacheEntry
from .ragged import pack_bytes, starts_of

__all__ = ["read_coco"]

# A file of so many megabytes takes seconds to parse.
_LARGE = 50

_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character: valid in json, but no file can be called so


def read_coco(
    annotation_file: str | os.PathLike[str],
    images_dir: str | os.PathLike[str],
    *,
    check_images: bool = True,
    cache: bool = False,
) -> tuple[DetectionTable | None, list[Fault]]:
    """Read a file of COCO's instances or person keypoints.

    Args:
        annotation_file: the json file; of its keys, ``images``, ``annotations`` and ``categories`` are used.
        images_dir: folder that the file names are relative to.
        check_images: look at the header and the end of every image file.
        cache: take the annotations of a large file from the cache of indices, or put them there; see
            :mod:`~ignite_imgtools.data.index_cache`. Images are looked at nonetheless.

    Returns:
        The annotations, without what is bad, or ``None`` if a fault is fatal; images in order of their ids, objects
        of an image in the file's order. And all faults.
    """
    entry = CacheEntry.of(annotation_file) if cache else None
    table = None
    if entry is not None:
        with entry.turn() as first:
            table = entry.load()
            if table is None and first:
                return _read(annotation_file, images_dir, check_images, entry)
    # Where another process had the turn and kept nothing, the file has a fault, which each finds for itself.
    if table is not None and (not check_images or _images_are_good(table, annotation_file, Path(images_dir))):
        return table, []
    return _read(annotation_file, images_dir, check_images)


def _read(
    annotation_file: str | os.PathLike[str],
    images_dir: str | os.PathLike[str],
    check_images: bool,
    entry: CacheEntry | None = None,
) -> tuple[DetectionTable | None, list[Fault]]:
    reader = _CocoReader(str(annotation_file), Path(images_dir), check_images, digested=entry is not None)
    with _garbage_kept():
        table = reader.read()
    # Of the annotation file alone, which may be another one by now; sizes that it lacks are those of today's images.
    by_itself = reader.sizes_noted and not reader.faults
    if entry is not None and table is not None and by_itself and reader.digest == entry.digest:
        entry.save(table)
    return table, reader.faults


def _images_are_good(table: DetectionTable, annotation_file: str | os.PathLike[str], images_dir: Path) -> bool:
    file, sizes = str(annotation_file), table.sizes.tolist()
    for index, (height, width) in enumerate(sizes):
        if examine_image(images_dir, table.name(index), (height, width), file, "")[1] is not None:
            return False
    return True


class _CocoReader:
    def __init__(self, file: str, images_dir: Path, check_images: bool, digested: bool):
        self.file, self.images_dir, self.check_images, self._digested = file, images_dir, check_images, digested
        self.faults: list[Fault] = []
        self.digest = ""
        self.sizes_noted = True

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
        megabytes = Path(self.file).stat().st_size / 1e6
        if megabytes > _LARGE:
            say(one_line(f"reading {self.file}, {megabytes:.0f} MB"))
        try:
            content = _parse(self._read_bytes())
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

    def _read_bytes(self) -> bytes:
        content = Path(self.file).read_bytes()
        if self._digested:
            self.digest = hashlib.sha256(content).hexdigest()
        return content

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
            id_, name = as_int(row.get("id")), row.get("name")
            if id_ is None:
                self._fault(where, "id", "an integer", came_of(row, "id"))
            elif not is_class_name(name):
                self._fault(f"category {id_}", "name", CLASS_NAME, came_of(row, "name"))
            elif id_ in categories:
                self._fault(f"category {id_}", "id", "one category of this id", f"another one, {shown(name)}")
            elif any(name == other.name for other in categories.values()):
                self._fault(f"category {id_}", "name", "a name of its own", f"{shown(name)} again", "rename it")
            else:
                categories[id_] = Category(id_, name, _texts(row.get("keypoints")), _pairs(row.get("skeleton")))
        return tuple(categories[id_] for id_ in sorted(categories))

    def _images(self, rows: list[Any]) -> tuple[np.ndarray, dict[int, tuple[str, int, int]]]:
        """All ids listed, sorted; and name, height and width by id of the images that can be used."""
        ids = [as_int(row.get("id")) if isinstance(row, dict) else None for row in rows]
        times = Counter(ids)
        images: dict[int, tuple[str, int, int]] = {}
        for number, (id_, row) in enumerate(zip(ids, rows, strict=True)):
            if not isinstance(row, dict):
                self._fault(f"images[{number}]", "image", "an object", shown(row))
            elif id_ is None:
                self._fault(f"images[{number}]", "id", "an integer", came_of(row, "id"))
            elif times[id_] > 1:
                came = f"{times[id_]}, this one is {shown(row.get('file_name'))}"
                self._fault(f"image {id_}", "id", "one image of this id", came, "give each image an id of its own")
            elif size := self._image(id_, row):
                images[id_] = (row["file_name"], *size)
        return np.array(sorted(id_ for id_ in times if id_ is not None), np.int64), images

    def _image(self, id_: int, row: dict[str, Any]) -> tuple[int, int] | None:
        """``(height, width)`` of an image that can be used."""
        where, name = f"image {id_}", row.get("file_name")
        if not isinstance(name, str) or len(name) > LONGEST_NAME or _SURROGATE.search(name):
            self._fault(where, "file_name", "a path", came_of(row, "file_name"))
            return None
        noted = None
        self.sizes_noted &= "height" in row or "width" in row
        if "height" in row or "width" in row:
            height, width = as_int(row.get("height")), as_int(row.get("width"))
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
        objects = ObjectColumns(rows, self._fault)
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


def _parse(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        # What Python's parser takes beside json (NaN, lone surrogates), and its own errors, are faults with names.
        return json.loads(content.decode("utf-8"))


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Without the search for cyclic garbage: millions of new objects set it off again and again, and none is any."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(one_line(str(text)) for text in value) if isinstance(value, list) else ()


def _pairs(value: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list):
        return ()
    return tuple((pair[0], pair[1]) for pair in value if isinstance(pair, list) and len(pair) == 2)
