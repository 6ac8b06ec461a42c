"""The built-in data written in YOLO's text format."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from .shapes import CLASSES, ShapesImage, create_shapes_image
from .shapes_files import part_seed, save_jpeg
from .yolo_writer import yolo_rows, yolo_yaml

__all__ = ["write_yolo"]


def write_yolo(folder: Path, num_train: int, num_val: int, seed: int, image_size: int) -> None:
    """Write ``data.yaml``, ``images/{train,val}/`` and ``labels/{train,val}/``.

    Images with crowds are passed over: this format cannot mark them, and what is seen should be annotated.
    """
    parts = [part for part, number in (("train", num_train), ("val", num_val)) if number]
    (folder / "data.yaml").write_text(yolo_yaml(CLASSES, parts), encoding="utf-8")
    for part, number in (("train", num_train), ("val", num_val)):
        if number == 0:
            continue
        images, labels = folder / "images" / part, folder / "labels" / part
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        written = 0
        for index in count():
            shapes = create_shapes_image(part_seed(seed, part), index, image_size)
            if any(shape.iscrowd for shape in shapes.objects):
                continue
            written += 1
            save_jpeg(shapes.image, images / f"{written:06d}.jpg")
            (labels / f"{written:06d}.txt").write_text(_label_file(shapes), encoding="utf-8")
            if written == number:
                break


def _label_file(shapes: ShapesImage) -> str:
    height, width, _ = shapes.image.shape
    boxes = [shape.box_xywh() for shape in shapes.objects]
    return yolo_rows([shape.label for shape in shapes.objects], boxes, height, width)
