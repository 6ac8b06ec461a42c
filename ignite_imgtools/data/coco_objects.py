"""The annotations of a COCO file as flat arrays, each of them checked."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from operator import itemgetter
from typing import Any

import numpy as np

from .detection_table import Category, boxes_xywh_to_clipped_xyxy
from .faults import REACH, shown
from .segmentations import (
    LONGEST_OUTLINE,
    BadSegmentation,
    SegmentationBuilder,
    Segmentations,
    well_formed_segmentations,
)

__all__ = ["ObjectColumns", "as_int", "came_of"]

_MAX_ID = 2**62
_ABSENT = object()


class ObjectColumns:
    """The annotations of a file, column by column.

    ``good`` tells which of them had no fault so far, ``image`` in which image they are.

    Args:
        rows: what the file lists under ``annotations``.
        report: called with each fault: where, what, what was expected, what came, what to do.
    """

    def __init__(self, rows: list[Any], report: Callable[[str, str, str, str, str], None]):
        self._report = report
        self.good = np.ones(len(rows), bool)
        self.rows: list[dict[str, Any]] = rows
        if set(map(type, rows)) - {dict}:
            self.good = np.array([type(row) is dict for row in rows])
            self.rows = [row if type(row) is dict else {} for row in rows]
        for number in np.flatnonzero(~self.good).tolist():
            report(f"annotations[{number}]", "annotation", "an object", shown(rows[number]), "correct it")
        self.image = np.full(len(rows), -1)
        self.sizes = np.zeros((len(rows), 2), np.int64)
        self._check_ids()

    def _refuse(
        self,
        bad: np.ndarray,
        what: str,
        expected: str | Callable[[int], str],
        came: Callable[[int], str],
        advice: str = "correct it",
    ) -> None:
        """Note a fault of each annotation that ``bad`` marks and that had none before."""
        for number in np.flatnonzero(bad & self.good).tolist():
            id_ = as_int(self.rows[number].get("id"))
            where = f"annotations[{number}]" if id_ is None else f"annotation {id_}"
            should = expected if isinstance(expected, str) else expected(number)
            self._report(where, what, should, came(number), advice)
        self.good &= ~bad

    def _column(self, key: str, default: Any = None) -> list[Any]:
        try:
            return list(map(itemgetter(key), self.rows))  # half the time of asking each for it
        except KeyError:
            return [row.get(key, default) for row in self.rows]

    def _integers(self, key: str, default: Any = None) -> np.ndarray:
        """A column of integers; an annotation without one is refused and gets 0."""
        entries = self._column(key, default)
        if set(map(type, entries)) == {int}:
            with suppress(OverflowError):
                column = np.array(entries, np.int64)
                if np.abs(column).max() < _MAX_ID:
                    return column
        values = [as_int(entry) for entry in entries]
        missing = np.fromiter((value is None for value in values), bool, len(values))
        self._refuse(missing, key, "an integer", lambda number: came_of(self.rows[number], key))
        return np.fromiter((value or 0 for value in values), np.int64, len(values))

    def _check_ids(self) -> None:
        ids = self._integers("id")
        known = np.flatnonzero(self.good)
        again = np.ones(len(ids), dtype=bool)
        again[known[np.unique(ids[known], return_index=True)[1]]] = False
        advice = "give each annotation an id of its own, or take the repeated one out"
        self._refuse(again, "id", "one annotation of this id", lambda _: "another one", advice)

    def _reach(self) -> np.ndarray:
        """Largest coordinate, without its sign, that is not taken for a mistake, in the image of each annotation."""
        return REACH * self.sizes.max(1, initial=1)

    def find_images(self, listed_ids: np.ndarray, image_ids: np.ndarray, sizes: np.ndarray) -> None:
        """Find the image of each annotation.

        Args:
            listed_ids: ids of all images in the file.
            image_ids: ids of those that can be used, sorted.
            sizes: of these, height and width.
        """
        ids = self._integers("image_id")
        places = _places(listed_ids, ids)
        unknown = listed_ids[places] != ids
        self._refuse(unknown, "image_id", "the id of an image in the file", lambda number: str(ids[number]))
        self.image = places if np.array_equal(listed_ids, image_ids) else _places(image_ids, ids)
        # The fault of an image that cannot be used has been noted: its annotations go without one.
        self.good &= image_ids[self.image] == ids
        self.sizes = sizes[self.image]

    def find_labels(self, category_ids: np.ndarray) -> np.ndarray:
        """Labels, from 1 in the order of the category ids, which are sorted."""
        ids = self._integers("category_id")
        known = ", ".join(map(str, category_ids[:8])) + (", ..." if len(category_ids) > 8 else "")
        places = _places(category_ids, ids)
        unknown = category_ids[places] != ids
        self._refuse(unknown, "category_id", f"a category of the file ({known})", lambda number: str(ids[number]))
        return places + 1

    def boxes(self) -> np.ndarray:
        """``[A, 4]`` xywh as the file has them."""
        boxes = _numbers(self._column("bbox"), 4)
        expected, came = "4 finite numbers x, y, width, height", lambda number: came_of(self.rows[number], "bbox")
        self._refuse(~np.isfinite(boxes).all(1), "bbox", expected, came)
        if not self.good.all():
            boxes = np.where(self.good[:, None], boxes, 0.0)
        flat = np.minimum(boxes[:, 2], boxes[:, 3]) <= 0
        self._refuse(flat, "bbox", "a width and a height above 0", came, "correct or remove it")
        far = np.abs(boxes).max(1, initial=0) > self._reach()
        near = np.where(far[:, None], 0.0, boxes) if far.any() else boxes
        left, top, right, bottom = boxes_xywh_to_clipped_xyxy(near, self.sizes).T
        outside = (right <= left) | (bottom <= top)

        def came_in(number: int) -> str:
            height, width = self.sizes[number]
            return f"{came(number)} in {width} x {height}"

        self._refuse(outside, "bbox", "a box that overlaps its image", came_in, "correct or remove it")
        return boxes

    def flags(self, key: str) -> np.ndarray:
        """Whether the key is 1; where there is none, it is 0."""
        values = self._integers(key, default=0)
        wrong = (values != 0) & (values != 1)
        self._refuse(wrong, key, "0 or 1", lambda number: str(values[number]))
        return values == 1

    def segmentations(self) -> Segmentations | None:
        """Polygons and run lengths, or ``None`` where no annotation has any."""
        column = self._column("segmentation")
        if not any(column):
            return None
        found = [entry if good else None for entry, good in zip(column, self.good.tolist(), strict=True)]
        sizes = self.sizes.tolist()
        segmentations = well_formed_segmentations(found, sizes)
        if segmentations is None:
            segmentations = self._checked_segmentations(found, sizes)
        # Written so that NaN is refused too. To raster a polygon costs memory by its length, in the image or not.
        reach = segmentations.reach()
        far = ~(reach <= self._reach())
        self._refuse(far, "segmentation", "finite points near the image", lambda _: "points far away or not finite")
        expected = f"outlines of at most {LONGEST_OUTLINE:,} pixels"
        self._refuse(segmentations.endless(reach), "segmentation", expected, lambda _: "a longer one")
        return segmentations

    def _checked_segmentations(self, found: list[Any], sizes: list[list[int]]) -> Segmentations:
        """One after the other, those that are malformed refused."""
        builder, faults = SegmentationBuilder(), dict[int, BadSegmentation]()
        for number, (segmentation, (height, width)) in enumerate(zip(found, sizes, strict=True)):
            try:
                builder.add(segmentation, height, width)
            except BadSegmentation as fault:
                faults[number] = fault
                builder.add(None, height, width)
        bad = np.isin(np.arange(len(self.rows)), list(faults))
        self._refuse(bad, "segmentation", lambda number: faults[number].args[0], lambda number: faults[number].args[1])
        return builder.build()

    def keypoints(self, categories: tuple[Category, ...]) -> np.ndarray | None:
        """``[A, K, 3]``, or ``None`` where no annotation has keypoints."""
        lengths = [len(points) for row in self.rows if isinstance(points := row.get("keypoints"), list) and points]
        if not lengths:
            return None
        named = max(len(category.keypoints) for category in categories)
        count = named or max(Counter(lengths).most_common(1)[0][0] // 3, 1)
        absent = [0.0] * (3 * count)
        points = _numbers([row.get("keypoints") or absent for row in self.rows], 3 * count).reshape(-1, count, 3)
        # Written so that NaN is refused too.
        far = ~(np.abs(points).max((1, 2), initial=0) <= np.maximum(self._reach(), 2))
        wrong = far | (~np.isin(points[:, :, 2], (0, 1, 2))).any(1)
        expected = f"{count} times x, y near the image, visibility 0, 1 or 2"
        self._refuse(wrong, "keypoints", expected, lambda number: _came_of_keypoints(self.rows[number], points[number]))
        return points

    def areas(self, boxes: np.ndarray, segmentations: Segmentations | None) -> np.ndarray:
        """Areas as the file has them; where it has none, that of the mask, or of the box."""
        column = self._column("area", _ABSENT)
        absent = np.zeros(len(column), bool)
        if _ABSENT in column:
            absent = np.array([entry is _ABSENT for entry in column])
        areas = _single_numbers(column)
        wrong = ~((areas >= 0) & (areas <= (2 * self._reach()) ** 2)) & ~absent
        self._refuse(
            wrong, "area", "a number from 0 that fits the image", lambda number: came_of(self.rows[number], "area")
        )
        for number in np.flatnonzero(absent & self.good).tolist():
            areas[number] = boxes[number, 2] * boxes[number, 3]
            if segmentations is not None and segmentations.has_mask(number):
                areas[number] = segmentations.mask(number, *self.sizes[number].tolist()).sum()
        return areas


def _places(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where each value stands in ``known``, which is sorted and not empty; anywhere if it does not."""
    return np.minimum(np.searchsorted(known, values), len(known) - 1)


def as_int(value: Any) -> int | None:
    """An integer, also one written as 3.0; ``None`` for anything else, and for what no id of ours can be."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -_MAX_ID < value < _MAX_ID else None


def _numbers(rows: list[Any], count: int) -> np.ndarray:
    """Rows of ``count`` numbers as float64 ``[N, count]``; NaN where a row is something else."""
    values = array("d")
    try:
        if set(map(type, rows)) == {list} and set(map(len, rows)) == {count}:
            for row in rows:
                values.fromlist(row)
            return np.frombuffer(values, np.float64).reshape(-1, count)
    except (TypeError, OverflowError):
        pass  # one of them is not a number: look at each row
    table = np.full((len(rows), count), np.nan)
    for numbers, row in zip(table, rows, strict=True):
        if type(row) in (list, tuple) and len(row) == count:
            with suppress(TypeError, OverflowError):
                numbers[:] = array("d", row)
    return table


def _single_numbers(entries: list[Any]) -> np.ndarray:
    if set(map(type, entries)) <= {int, float}:
        with suppress(OverflowError):
            return np.array(entries, np.float64)
    return _numbers([(entry,) for entry in entries], 1)[:, 0]


def _came_of_keypoints(row: dict[str, Any], points: np.ndarray) -> str:
    """What is wrong with the keypoints of an annotation; ``points`` are NaN where they are no numbers of that count."""
    value = row.get("keypoints")
    if not isinstance(value, list) or len(value) != points.size:
        return f"{len(value)} numbers" if isinstance(value, list) else shown(value)
    # Which one it is that lies far away depends on the image; the farthest one does.
    bad = ~np.isfinite(points).all(axis=1) | ~np.isin(points[:, 2], (0, 1, 2))
    joint = int(bad.argmax()) if bad.any() else int(np.abs(points).max(axis=1).argmax())
    if np.isnan(points).all():
        numbers = (type(entry) in (int, float) for entry in value)
        joint = next((place // 3 for place, is_number in enumerate(numbers) if not is_number), joint)
    return f"{shown(value[3 * joint : 3 * joint + 3])} as number {joint + 1}"


def came_of(row: dict[str, Any], key: str) -> str:
    """What an object of the file has under a key, for a fault."""
    return shown(row[key]) if key in row else "nothing"
