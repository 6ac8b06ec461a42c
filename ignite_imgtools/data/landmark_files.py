"""Points of faces in the files that people have: WFLW's lists, iBUG's .pts, and csv.

Places are of pixels: (0, 0) is the middle of the first one.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.formats import DataError

from .faults import Fault, fault_of_error, shown
from .regular_files import read_regular_file

__all__ = ["WFLW_ATTRIBUTES", "FacePoints", "read_points_csv", "read_pts", "read_wflw_list"]

WFLW_ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
"""What the six flags of a line in WFLW's lists say, in their order."""

_WFLW_POINTS = 98
_WFLW_FIELDS = 2 * _WFLW_POINTS + 4 + len(WFLW_ATTRIBUTES) + 1
# A file of points is small; a larger one is something else.
_MAX_PTS_BYTES = 1_000_000


@dataclass(frozen=True, eq=False)
class FacePoints:
    """The points of one face.

    Args:
        name: of its image file, as the annotations have it.
        points: float64 ``[K, 2]``, x and y in pixels.
        where: the place in the annotations, such as ``line 3``.
        box: of the face as it is annotated, xyxy in pixels; ``None`` where there is none.
        attributes: those of :data:`WFLW_ATTRIBUTES` that are set.
    """

    name: str
    points: NDArray[np.float64]
    where: str
    box: tuple[float, float, float, float] | None = None
    attributes: tuple[str, ...] = ()


def read_wflw_list(path: str | os.PathLike[str]) -> tuple[list[FacePoints], list[Fault]]:
    """Read a list of WFLW, such as ``list_98pt_rect_attr_train.txt``.

    A line holds a face: 98 pairs of x and y, the box as x and y of two corners, six flags, and the image's name
    relative to ``WFLW_images``. An image may come in several lines.

    Returns:
        The faces of the good lines, in their order, and a fault for each other line; one that is fatal if the file
        cannot be read.
    """
    lines, faults = _read_lines(Path(path))
    faces = []
    for number, line in lines:
        where = f"line {number}"
        try:
            faces.append(_wflw_face(line, where))
        except DataError as error:
            faults.append(fault_of_error(error, path, where))
    return faces, faults


def read_pts(path: str | os.PathLike[str], num_points: int | None = 68) -> NDArray[np.float64]:
    """Read the points of a face from a file of iBUG, as 300W, AFW, Helen and LFPW have them.

    Such a file counts pixels from 1, as Matlab does; here 1 is taken off.

    Args:
        num_points: how many points there must be; ``None`` for any number.

    Returns:
        float64 ``[K, 2]``, x and y in pixels.

    Raises:
        DataError: there is no such file, or it is not of this format; names file and line.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size > _MAX_PTS_BYTES:
        raise DataError(f"{path}: expected a file of points, got {path.stat().st_size:,} bytes; correct the path")
    lines, faults = _read_lines(path)
    if faults:
        raise DataError(str(faults[0]))
    header: dict[str, str] = {}
    points: list[list[float]] = []
    inside = ended = False
    for number, line in lines:
        where = f"{path}: line {number}"
        if inside and line != "}":
            points.append(_numbers(line.split(), 2, where))
        elif line in ("{", "}") and inside != (line == "{") and not ended:
            inside, ended = line == "{", line == "}"
        elif ":" in line and not ended:
            name, _, value = line.partition(":")
            header[name.strip()] = value.strip()
        else:
            raise DataError(f"{where}: expected version, n_points, and points in braces, got {shown(line)}; correct it")
    if not ended:
        raise DataError(f"{path}: points: expected a closing brace after them, got the end; restore the file")
    noted = header.get("n_points", str(len(points)))
    wanted = noted if num_points is None else str(num_points)
    if {noted, wanted} != {str(len(points))} or not points:
        came = f"{len(points)}, n_points being {noted}"
        raise DataError(
            f"{path}: points: expected {wanted if points else 'at least one'}, got {came}; correct the file"
        )
    return np.array(points, dtype=np.float64) - 1


def read_points_csv(path: str | os.PathLike[str]) -> tuple[list[FacePoints], list[Fault]]:
    """Read a csv of points: a header, then in each row the name of an image and x and y of each point.

    The names of the columns do not matter beside their number: ``image_name, part_0_x, part_0_y, ...``. Pixels are
    counted from 0.

    Returns:
        The faces of the good rows, in their order, and a fault for each other row; one that is fatal if the file or
        its header cannot be read.
    """
    lines, faults = _read_lines(Path(path))
    if not lines:
        return [], faults or [Fault(str(path), "", "header", "names of columns", "nothing", fatal=True)]
    (_, header), *rows = lines
    try:
        columns = _fields(header)
    except DataError as error:
        return [], [replace(fault_of_error(error, path, "line 1"), fatal=True)]
    count, odd = divmod(len(columns), 2)
    if not odd or not count:
        came = f"{len(columns)} columns"
        expected = "a name, and x and y of each point"
        return [], [*faults, Fault(str(path), "line 1", "header", expected, came, fatal=True)]
    if any(_is_number(field) for field in columns[1:]):
        advice = "put a line of names above the first face"
        came = shown(header)
        return [], [*faults, Fault(str(path), "line 1", "header", "names of columns", came, advice, fatal=True)]
    faces = []
    for number, line in rows:
        where = f"line {number}"
        try:
            name, *values = _fields(line)
            points = np.array(_numbers(values, 2 * count, ""), dtype=np.float64).reshape(count, 2)
            if not name:
                raise DataError("name: expected that of an image, got nothing; correct it")
            faces.append(FacePoints(name, points, where))
        except DataError as error:
            faults.append(fault_of_error(error, path, where))
    return faces, faults


def _wflw_face(line: str, where: str) -> FacePoints:
    # The name may hold blanks, the numbers before it cannot.
    fields = line.split(maxsplit=_WFLW_FIELDS - 1)
    if len(fields) != _WFLW_FIELDS:
        raise DataError(f"fields: expected {_WFLW_FIELDS}, got {len(fields)}; correct the line")
    numbers = _numbers(fields[:-1], _WFLW_FIELDS - 1, "")
    points = np.array(numbers[: 2 * _WFLW_POINTS], dtype=np.float64).reshape(-1, 2)
    x1, y1, x2, y2 = numbers[2 * _WFLW_POINTS : 2 * _WFLW_POINTS + 4]
    flags = numbers[2 * _WFLW_POINTS + 4 :]
    if not set(flags) <= {0.0, 1.0}:
        raise DataError(f"attributes: expected 0 or 1, got {shown([f'{flag:g}' for flag in flags])}; correct the line")
    if x2 <= x1 or y2 <= y1:
        raise DataError(f"box: expected x1 < x2 and y1 < y2, got {x1:g} {y1:g} {x2:g} {y2:g}; correct the line")
    attributes = tuple(name for name, flag in zip(WFLW_ATTRIBUTES, flags, strict=True) if flag)
    return FacePoints(fields[-1], points, where, (x1, y1, x2, y2), attributes)


def _read_lines(path: Path) -> tuple[list[tuple[int, str]], list[Fault]]:
    """Lines that are not empty, with their numbers from 1; unlike names of images, faces may come twice."""
    try:
        text = read_regular_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return [], [Fault(str(path), "", "points", "UTF-8 text", reason, "correct the path or the file", fatal=True)]
    lines: Iterable[tuple[int, str]] = enumerate(map(str.strip, text.splitlines()), start=1)
    return [(number, line) for number, line in lines if line], []


def _fields(line: str) -> list[str]:
    try:
        return [field.strip() for field in next(csv.reader([line]))]
    except csv.Error as error:
        raise DataError(f"fields: {error}; correct the line") from error


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _numbers(fields: Sequence[str], count: int, where: str) -> list[float]:
    place = f"{where}: " if where else ""
    if len(fields) != count:
        raise DataError(f"{place}numbers: expected {count}, got {len(fields)}; correct the line")
    numbers = []
    for field in fields:
        try:
            numbers.append(float(field))
        except ValueError:
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise DataError(f"{place}coordinates: expected finite numbers, got {shown(field)}; correct the line")
    return numbers
