"""Parts of data sets of faces on disk: their points and images, found and checked without decoding an image."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ignite_imgtools.formats import DataError

from .faults import Fault, fault_of_error
from .image_faults import examine_image
from .images import IMAGE_SUFFIXES, resolve_inside
from .landmark_files import FacePoints, read_points_csv, read_pts, read_wflw_list
from .pairs import PairTable
from .ragged import pack_bytes

__all__ = ["CsvPart", "LandmarkPart", "LandmarkTable", "PtsPart", "WflwPart", "read_landmarks"]

# Points of a face may lie outside of its image, but not by more than the longer side of it.
_REACH = 1.0
# Points of one face that is annotated twice differ by a small part of its size.
_SAME_FACE = 0.1


@dataclass(frozen=True, eq=False)
class LandmarkTable:
    """``N`` faces with ``K`` points each.

    Args:
        files: the image of each face.
        points: float64 ``[N, K, 2]``, x and y in pixels; (0, 0) is the centre of the first one.
        boxes: float64 ``[N, 4]`` xyxy, as annotated, or those that just hold the points.
        annotated: bool ``[N]``: whether the box was annotated.
    """

    files: PairTable
    points: np.ndarray
    boxes: np.ndarray
    annotated: np.ndarray


@dataclass(frozen=True)
class WflwPart:
    """A list of WFLW, and the folder that the images named in it are in."""

    images_dir: Path
    file: Path
    data_format = "wflw"
    # Two faces of a crowd are never as near as that; still only what is certain is refused in a published list.
    same_face = 0.0

    def __str__(self) -> str:
        return str(self.file)

    def faces(self) -> tuple[list[tuple[FacePoints, Path]], list[Fault]]:
        """Each face with the file of its annotation, and what is wrong with lines."""
        faces, faults = read_wflw_list(self.file)
        return [(face, self.file) for face in faces], faults


@dataclass(frozen=True)
class CsvPart:
    """A csv of points, which lies beside the images that it names."""

    file: Path
    data_format = "points_csv"
    same_face = _SAME_FACE

    def __str__(self) -> str:
        return str(self.file)

    @property
    def images_dir(self) -> Path:
        """Folder of the images."""
        return self.file.parent

    def faces(self) -> tuple[list[tuple[FacePoints, Path]], list[Fault]]:
        """Each face with the file of its annotation, and what is wrong with lines."""
        faces, faults = read_points_csv(self.file)
        return [(face, self.file) for face in faces], faults


@dataclass(frozen=True)
class PtsPart:
    """Files of iBUG, each beside the image of the same name: ``files`` are relative to ``images_dir``."""

    images_dir: Path
    files: tuple[str, ...]
    data_format = "pts"
    same_face = 0.0

    def __str__(self) -> str:
        return f"{self.images_dir} ({len(self.files)} files .pts)"

    def faces(self) -> tuple[list[tuple[FacePoints, Path]], list[Fault]]:
        """Each face with the file of its annotation, and what is wrong with files."""
        faces, faults = [], []
        images = _images_by_stem(self.images_dir, {os.path.dirname(name) for name in self.files})  # noqa: PTH120
        for name in self.files:
            path = self.images_dir / name
            found = images.get(name.removesuffix(".pts"), [])
            if len(found) != 1:
                expected = f"one of the same name beside it ({', '.join(IMAGE_SUFFIXES[:3])}, ...)"
                came = ", ".join(os.path.basename(image) for image in found) or "none"  # noqa: PTH119
                faults.append(Fault(str(path), "", "image", expected, came, "add the image, or leave one of them"))
                continue
            try:
                faces.append((FacePoints(found[0], read_pts(resolve_inside(self.images_dir, name), None), ""), path))
            except DataError as error:
                faults.append(fault_of_error(error, path))
        return faces, faults


LandmarkPart = WflwPart | CsvPart | PtsPart
"""A part in any of these formats."""


def read_landmarks(part: LandmarkPart, num_points: int | None = None) -> tuple[LandmarkTable | None, list[Fault]]:
    """Read the points of a part, and look at the start and the end of each image, without decoding.

    Args:
        num_points: how many points each face must have; by default as many as most of them have.

    Returns:
        The faces that can be used, or ``None`` if a fault is fatal; and all faults.
    """
    faces, faults = part.faces()
    if any(fault.fatal for fault in faults):
        return None, faults
    if num_points is None and faces:
        num_points = Counter(len(face.points) for face, _ in faces).most_common(1)[0][0]
    sizes: dict[str, tuple[tuple[int, int] | None, Fault | None]] = {}
    of_image: dict[str, list[tuple[FacePoints, Path]]] = {}
    kept, kept_sizes = [], []
    for face, file in faces:
        if face.name not in sizes:
            sizes[face.name] = examine_image(part.images_dir, face.name, None, str(file), face.where)
            # Where several faces are in an image, what is wrong with it is told once.
            fault = sizes[face.name][1]
            faults += [] if fault is None else [fault]
        size, fault = sizes[face.name]
        if size is None or fault is not None:
            continue
        others = of_image.setdefault(face.name, [])
        found = _fault_of_face(face, file, size, num_points) or _fault_of_twin(face, file, others, part.same_face)
        if found is not None:
            faults.append(found)
            continue
        others.append((face, file))
        kept.append(face)
        kept_sizes.append(size)
    if not kept:
        advice = f"the first of {len(faults)} faults is {faults[0]}" if faults else "correct the path"
        faults.append(Fault(str(part), "", "faces", "at least one that can be used", "none", advice, fatal=True))
        return None, faults
    return _to_table(part.images_dir, kept, kept_sizes), faults


def _to_table(images_dir: Path, faces: Sequence[FacePoints], sizes: Sequence[tuple[int, int]]) -> LandmarkTable:
    points = np.stack([face.points for face in faces])
    annotated = np.array([face.box is not None for face in faces])
    boxes = np.array([_extent(face.points) if face.box is None else face.box for face in faces], dtype=np.float64)
    names = (pack_bytes([os.fsencode(face.name) for face in faces]),)
    return LandmarkTable(PairTable((images_dir,), names, np.array(sizes, dtype=np.int64)), points, boxes, annotated)


def _fault_of_face(face: FacePoints, file: Path, size: tuple[int, int], num_points: int | None) -> Fault | None:
    """What is wrong with a face in an image of ``size``, if anything is."""
    if len(face.points) != num_points:
        advice = "complete it, or remove it"
        return Fault(str(file), face.where, "points", str(num_points), str(len(face.points)), advice)
    height, width = size
    limit = _REACH * max(size)
    outside = np.maximum(-face.points, face.points - (width, height)).max(axis=1)
    if outside.max() > limit:
        number = int(outside.argmax())
        x, y = face.points[number].tolist()
        expected = f"at most {limit:g} pixels outside of {face.name}, {width} x {height}"
        return Fault(str(file), face.where, f"point {number}", expected, f"({x:g}, {y:g})")
    x1, y1, x2, y2 = _extent(face.points)
    if x2 - x1 < 2 or y2 - y1 < 2:
        came = f"{x2 - x1:g} x {y2 - y1:g}"
        advice = "write them in pixels" if max(x2, y2) <= 2 else "correct them"
        return Fault(str(file), face.where, "points", "a face of more than a pixel", came, advice)
    if face.box is not None:
        x1, y1, x2, y2 = face.box
        if min(x2, width) <= max(x1, 0) or min(y2, height) <= max(y1, 0):
            came = f"{x1:g} {y1:g} {x2:g} {y2:g}"
            return Fault(str(file), face.where, "box", f"one within {face.name}, {width} x {height}", came)
    return None


def _fault_of_twin(
    face: FacePoints, file: Path, others: Sequence[tuple[FacePoints, Path]], tolerance: float
) -> Fault | None:
    """A fault where the same face of an image was annotated before, its points as far away as ``tolerance`` allows."""
    x1, y1, x2, y2 = _extent(face.points)
    limit = tolerance * math.sqrt((x2 - x1) * (y2 - y1))
    for other, _ in others:
        if np.sqrt(((face.points - other.points) ** 2).sum(axis=1)).mean() <= limit:
            came = f"the one of {other.where} again" if other.where else "it again"
            return Fault(str(file), face.where, face.name, "each of its faces once", came, "remove one of them")
    return None


def _extent(points: np.ndarray) -> tuple[float, float, float, float]:
    """The box xyxy, counted from the edges of pixels, that just holds the middles of the points' pixels."""
    (x1, y1), (x2, y2) = (points.min(axis=0) + 0.5).tolist(), (points.max(axis=0) + 0.5).tolist()
    return x1, y1, x2, y2


def _images_by_stem(root: Path, folders: set[str]) -> dict[str, list[str]]:
    """Names of the images in some folders, relative to ``root``, by their names without suffixes."""
    found: dict[str, list[str]] = {}
    for folder in sorted(folders):
        with os.scandir(root / folder) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            stem, suffix = os.path.splitext(os.path.join(folder, name))  # noqa: PTH118, PTH122  # plain strings: fast
            if suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                found.setdefault(stem, []).append(stem + suffix)
    return found
