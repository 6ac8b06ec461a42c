"""What is wrong with annotations of persons' keypoints, beyond what nobody could train on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .coco_file import read_coco
from .coco_objects import as_int, came_of
from .detection_table import Category, DetectionTable
from .faults import Fault, shown
from .layouts import CocoPart
from .person_layouts import find_person_keypoints
from .transforms.keypoints import flip_permutation

__all__ = ["check_person_keypoints"]


def check_person_keypoints(folder: Path) -> list[Fault]:
    """All faults of a data set of persons with keypoints.

    Beside those that a training refuses: keypoints that are marked as visible outside of their image, a
    ``num_keypoints`` that does not count them, which changes the evaluation, and names and lines that fit no keypoint.

    Raises:
        DataError: there is none in the folder.
    """
    layout = find_person_keypoints(folder)
    faults: list[Fault] = []
    known: tuple[Category, ...] = ()
    for part in (layout.train, layout.val):
        if not isinstance(part, CocoPart):
            continue
        table, found = read_coco(part.annotation_file, part.images_dir)
        faults += found
        if table is None:
            continue
        faults += _faults(str(part), table)
        if known and _names(known) != _names(table.categories):
            came = _described(table.categories)
            faults.append(Fault(str(part), "", "categories", _described(known), came, "list the same in both"))
        known = known or table.categories
    return faults


def _faults(file: str, table: DetectionTable) -> Iterator[Fault]:
    if table.keypoints is None:
        advice = "use a file as person_keypoints_train2017.json"
        yield Fault(file, "", "keypoints", "some annotations with keypoints", "none", advice)
        return
    count = table.keypoints.shape[1]
    for category in table.categories:
        yield from _category_faults(file, category, count)
    rows = json.loads(Path(file).read_bytes())["annotations"]
    sizes = dict(zip(table.image_ids.tolist(), table.sizes.tolist(), strict=True))
    names = next((category.keypoints for category in table.categories if category.keypoints), ())
    for row in rows:
        # What else is wrong has been told by the reader.
        if isinstance(row, dict) and (points := _points(row, count)) is not None:
            yield from _annotation_faults(file, row, points, sizes.get(as_int(row.get("image_id")) or 0), names)


def _category_faults(file: str, category: Category, count: int) -> Iterator[Fault]:
    where = f"category {category.id}"
    if not category.keypoints:
        # In a file of many classes only some have keypoints.
        return
    if len(category.keypoints) != count:
        yield Fault(file, where, "keypoints", f"{count} names", str(len(category.keypoints)))
    try:
        flip_permutation(category.keypoints)
    except ValueError as error:
        yield Fault(file, where, f"keypoints: {error}", advice="name left and right alike, or it cannot be mirrored")
    for line in category.skeleton:
        if not all(type(joint) is int and 1 <= joint <= count for joint in line):
            expected = f"lines between two numbers from 1 to {count}"
            yield Fault(file, where, "skeleton", expected, shown(list(line)))


def _annotation_faults(
    file: str, row: dict[str, Any], points: np.ndarray, size: list[int] | None, names: tuple[str, ...]
) -> Iterator[Fault]:
    where = f"annotation {row.get('id')}"
    labelled = int((points[:, 2] > 0).sum())
    if as_int(row.get("num_keypoints")) != labelled:
        advice = "count those whose visibility is not 0"
        yield Fault(file, where, "num_keypoints", str(labelled), came_of(row, "num_keypoints"), advice)
    if size is None:
        return
    height, width = size
    inside = ((points[:, :2] >= 0) & (points[:, :2] <= (width, height))).all(axis=1)
    for joint in np.flatnonzero(~inside & (points[:, 2] == 2)).tolist():
        name = f"keypoint {joint + 1}" + (f" ({names[joint]})" if joint < len(names) else "")
        x, y = points[joint, :2].tolist()
        expected = f"a place in {width} x {height} if its visibility is 2"
        yield Fault(file, where, name, expected, f"{x:g}, {y:g}", "correct the place, or make its visibility 0")


def _points(row: dict[str, Any], count: int) -> np.ndarray | None:
    """Keypoints ``[count, 3]`` of an annotation that has good ones."""
    value = row.get("keypoints")
    if not isinstance(value, list) or len(value) != 3 * count or not all(type(v) in (int, float) for v in value):
        return None
    try:
        points = np.array(value, np.float64).reshape(count, 3)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return points if np.isfinite(points).all() and np.isin(points[:, 2], (0, 1, 2)).all() else None


def _names(categories: tuple[Category, ...]) -> list[tuple[str, tuple[str, ...]]]:
    return [(category.name, category.keypoints) for category in categories]


def _described(categories: tuple[Category, ...]) -> str:
    return shown([(category.name, len(category.keypoints)) for category in categories])
