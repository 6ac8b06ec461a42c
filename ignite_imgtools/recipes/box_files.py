"""Boxes of what is in images, given to ``predict`` as a file."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ignite_imgtools.formats import DataError

__all__ = ["GivenBox", "read_boxes"]


class GivenBox(NamedTuple):
    """A box xyxy in pixels of its image, with a score and a name or category id where the file has them."""

    box: tuple[float, float, float, float]
    score: float = 1.0
    name: str | None = None
    category_id: int | None = None


def read_boxes(file: Path, images: Sequence[Path]) -> dict[Path, list[GivenBox]]:
    """The boxes of each of ``images``, none for those that ``file`` does not name.

    Args:
        file: a csv, in each row the name of an image and x1, y1, x2, y2, a header being passed over; or a json list as
            ``predict`` of a detector writes it: ``[{"file": ..., "detections": [{"box": [x1, y1, x2, y2], "score":
            ..., "name": ...}]}]``; or COCO results, ``[{"image_id": ..., "category_id": ..., "bbox": [x, y, width,
            height], "score": ...}]``.
        images: belong to a name that is their path, or else the last part of it; to an ``image_id`` that is the number
            their file is called by, as 000000000139.jpg.

    Raises:
        DataError: it is no such file, or it names none of the images; in one line.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{file}: boxes: expected a csv or json file, {reason}; correct the path") from error
    entries: Iterator[tuple[str | int, list[GivenBox]]]
    entries = _of_json(text, file) if file.suffix.lower() == ".json" else _of_csv(text, file)
    found: dict[Path, list[GivenBox]] = {path: [] for path in images}
    by_name: dict[str | int, list[Path]] = {}
    for path in found:
        by_name.setdefault(path.name, []).append(path)
        if path.stem.isdecimal():
            by_name.setdefault(int(path.stem), []).append(path)
    known = False
    for name, given in entries:
        if isinstance(name, int):
            chosen = by_name.get(name, [])
        else:
            chosen = [Path(name)] if Path(name) in found else by_name.get(Path(name).name, [])
        if len(chosen) > 1:
            raise DataError(f"{file}: {name!r} is the name of {len(chosen)} of the images; give their paths instead")
        known |= bool(chosen)
        for path in chosen:
            found[path] += given
    if not known:
        raise DataError(f"{file}: boxes: names none of the {len(found)} images, such as {next(iter(found), 'none')}")
    return found


def _of_csv(text: str, file: Path) -> Iterator[tuple[str | int, list[GivenBox]]]:
    try:
        rows = [row for row in csv.reader(text.splitlines()) if row]
    except csv.Error as error:
        raise DataError(f"{file}: boxes: {error}; correct the file") from error
    for number, (name, *values) in enumerate(rows, start=1):
        try:
            yield name, [_checked([float(value) for value in values], f"{file}: line {number}")]
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            if number > 1 or any(any(map(str.isdigit, value)) and not value[:1].isalpha() for value in values):
                came = ", ".join(values)
                raise DataError(
                    f"{file}: line {number}: box: expected x1, y1, x2 and y2, got {came}; correct it"
                ) from error


def _of_json(text: str, file: Path) -> Iterator[tuple[str | int, list[GivenBox]]]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: boxes: expected a json list of images, {error}; correct the file") from error
    if not isinstance(entries, list):
        raise DataError(f"{file}: boxes: expected a json list of images, got a {type(entries).__name__}")
    for number, entry in enumerate(entries):
        where = f"{file}: entry {number}"
        if isinstance(entry, dict) and "image_id" in entry:
            yield _coco_result(entry, where)
            continue
        try:
            name, detections = str(entry["file"]), [dict(detection) for detection in entry["detections"]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{where}: expected file and a list of detections, as predict writes them") from error
        yield name, [_detection(detection, where) for detection in detections]


def _coco_result(entry: dict[str, Any], where: str) -> tuple[int, list[GivenBox]]:
    try:
        x, y, width, height = map(float, entry["bbox"])
        image_id, category_id, score = int(entry["image_id"]), int(entry["category_id"]), float(entry["score"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{where}: expected image_id, category_id, bbox [x, y, width, height] and score, got {str(entry)[:60]}; "
            "correct it"
        ) from error
    return image_id, [_checked([x, y, x + width, y + height], where)._replace(score=score, category_id=category_id)]


def _detection(detection: dict[str, Any], where: str) -> GivenBox:
    try:
        values, score = [float(value) for value in detection["box"]], float(detection.get("score", 1.0))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{where}: box: expected [x1, y1, x2, y2], got {str(detection.get('box'))[:60]}; correct it"
        ) from error
    name = detection.get("name")
    return _checked(values, where)._replace(score=score, name=None if name is None else str(name))


def _checked(values: list[float], where: str) -> GivenBox:
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise DataError(f"{where}: box: expected four finite numbers, got {str(values)[:60]}; correct it")
    x1, y1, x2, y2 = values
    if x2 <= x1 or y2 <= y1:
        raise DataError(f"{where}: box: expected x1 < x2 and y1 < y2, got {x1:g} {y1:g} {x2:g} {y2:g}; correct it")
    return GivenBox((x1, y1, x2, y2))
