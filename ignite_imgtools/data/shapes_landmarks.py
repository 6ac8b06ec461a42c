"""The built-in faces written in the formats of landmarks: as WFLW, as iBUG's .pts, and as csv."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .shapes_faces import IBUG_OF_WFLW, FaceImage, create_face_image
from .shapes_files import part_seed, save_jpeg

__all__ = ["write_points_csv", "write_pts", "write_wflw"]


def write_wflw(folder: Path, num_train: int, num_val: int, seed: int, image_size: int) -> None:
    """Write ``WFLW_images/{train,val}/`` and the lists of 98 points for training and testing; no flag is set."""
    lists = folder / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    lists.mkdir(parents=True)
    for part, of_wflw, count in (("train", "train", num_train), ("val", "test", num_val)):
        lines = []
        for name, face in _faces(folder / "WFLW_images" / part, part, count, seed, image_size):
            points = " ".join(f"{value:.6f}" for value in face.points.ravel().tolist())
            # The box of WFLW just holds the points.
            (x1, y1), (x2, y2) = np.floor(face.points.min(axis=0)), np.ceil(face.points.max(axis=0))
            lines.append(f"{points} {x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f} 0 0 0 0 0 0 {part}/{name}\n")
        if lines:
            (lists / f"list_98pt_rect_attr_{of_wflw}.txt").write_text("".join(lines), encoding="utf-8")


def write_pts(folder: Path, num_train: int, num_val: int, seed: int, image_size: int) -> None:
    """Write 68 points beside each image, in ``trainset/`` and ``testset/``."""
    for part, of_ibug, count in (("train", "trainset", num_train), ("val", "testset", num_val)):
        for name, face in _faces(folder / of_ibug, part, count, seed, image_size):
            # Pixels are counted from 1 there.
            rows = [f"{x:.6f} {y:.6f}" for x, y in (face.points[list(IBUG_OF_WFLW)] + 1).tolist()]
            text = "\n".join(["version: 1", f"n_points: {len(rows)}", "{", *rows, "}", ""])
            (folder / of_ibug / name).with_suffix(".pts").write_text(text, encoding="utf-8")


def write_points_csv(folder: Path, num_train: int, num_val: int, seed: int, image_size: int) -> None:
    """Write ``{train,val}/face_landmarks.csv`` with 68 points of each face, and the images beside it."""
    header = ["image_name", *(f"part_{number}_{axis}" for number in range(len(IBUG_OF_WFLW)) for axis in "xy")]
    for part, count in (("train", num_train), ("val", num_val)):
        rows = [
            [name, *(f"{value:.6f}" for value in face.points[list(IBUG_OF_WFLW)].ravel().tolist())]
            for name, face in _faces(folder / part, part, count, seed, image_size)
        ]
        if rows:
            with (folder / part / "face_landmarks.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _faces(folder: Path, part: str, count: int, seed: int, image_size: int) -> Iterator[tuple[str, FaceImage]]:
    """The names and faces of a part, whose images are written into ``folder``."""
    for index in range(count):
        folder.mkdir(parents=True, exist_ok=True)
        face, name = create_face_image(part_seed(seed, part), index, image_size), f"{index + 1:06d}.jpg"
        save_jpeg(face.image, folder / name)
        yield name, face
