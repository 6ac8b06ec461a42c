"""The built-in data written as class folders: every image is cut out around one shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .shapes import CLASSES, ShapeObject, create_shapes_image
from .shapes_files import part_seed, save_jpeg

__all__ = ["write_class_folders"]

# Shapes with a shorter side than this, in parts of the image size, are too coarse to be told apart.
_LEAST = 0.15


def write_class_folders(folder: Path, num_train: int, num_val: int, seed: int, image_size: int) -> None:
    """Write ``{train,val}/<class>/NUMBER.jpg``, as many of each class as the numbers allow.

    An image is what is around one shape, half as much again as the shape on each side at most; others may reach in.
    """
    for part, count in (("train", num_train), ("val", num_val)):
        # The classes that come first have one more where the number does not divide.
        wanted = {name: count // len(CLASSES) + (i < count % len(CLASSES)) for i, name in enumerate(CLASSES)}
        written = dict.fromkeys(CLASSES, 0)
        for name, image in _cut_outs(part_seed(seed, part), image_size) if count else ():
            if written[name] < wanted[name]:
                written[name] += 1
                (folder / part / name).mkdir(parents=True, exist_ok=True)
                save_jpeg(image, folder / part / name / f"{written[name]:06d}.jpg")
            if written == wanted:
                break


def _cut_outs(seed: int, image_size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Endlessly the class of a shape and the image around it, uint8 ``[H, W, 3]``."""
    index = 0
    while True:
        shapes = create_shapes_image(seed, index, image_size)
        for shape in shapes.objects:
            if not shape.iscrowd and shape.visible > 0.8 and min(shape.box_xywh()[2:]) >= _LEAST * image_size:
                yield CLASSES[shape.label - 1], _cut_out(shapes.image, shape)
        index += 1


def _cut_out(image: np.ndarray, shape: ShapeObject) -> np.ndarray:
    x, y, width, height = shape.box_xywh()
    margin = max(width, height) // 4
    top, left = max(y - margin, 0), max(x - margin, 0)
    return np.ascontiguousarray(image[top : y + height + margin, left : x + width + margin])
