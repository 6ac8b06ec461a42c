"""Small data sets of faces in each format, written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["face", "save_image", "write_csv", "write_pts", "write_wflw"]


def face(number: int, count: int = 68) -> np.ndarray:
    """Points within 10..50, of each number others: float64 ``[count, 2]``, to a quarter of a pixel."""
    return np.random.default_rng(number).integers(40, 200, (count, 2)) / 4


def save_image(path: Path, number: int = 0) -> None:
    """An image of 60 x 50 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(path)


def write_wflw(folder: Path, names: dict[str, list[str]]) -> Path:
    """Lists of 98 points, faces numbered from 0 over all parts; the box of face ``n`` begins at ``(n, 1)``."""
    lists = folder / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    lists.mkdir(parents=True)
    number = 0
    for part, faces in names.items():
        lines = []
        for name in faces:
            save_image(folder / "WFLW_images" / name, number)
            points = " ".join(map(str, face(number, 98).ravel().tolist()))
            lines.append(f"{points} {number} 1 40 42 0 0 1 0 0 0 {name}\n")
            number += 1
        (lists / f"list_98pt_rect_attr_{part}.txt").write_text("".join(lines))
    return folder


def write_pts(folder: Path, names: list[str], count: int = 68) -> Path:
    """Points beside images, faces numbered from 0; names are without suffixes."""
    for number, name in enumerate(names):
        save_image(folder / f"{name}.png", number)
        rows = "\n".join(f"{x + 1} {y + 1}" for x, y in face(number, count).tolist())
        (folder / f"{name}.pts").write_text(f"version: 1\nn_points: {count}\n{{\n{rows}\n}}\n")
    return folder


def write_csv(file: Path, names: list[str], count: int = 68, first: int = 0) -> Path:
    """A csv of points beside its images, faces numbered from ``first``."""
    header = ",".join(["image_name", *(f"part_{i}_{axis}" for i in range(count) for axis in "xy")])
    rows = []
    for number, name in enumerate(names, start=first):
        save_image(file.parent / name, number)
        rows.append(",".join([name, *map(str, face(number, count).ravel().tolist())]))
    file.write_text("\n".join([header, *rows, ""]))
    return file.parent
