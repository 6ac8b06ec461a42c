"""The built-in data written in PASCAL VOC's layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from .palette import voc_palette
from .shapes import CLASSES, ShapeObject, ShapesImage, create_shapes_image
from .shapes_files import part_seed, save_jpeg

__all__ = ["write_voc"]


def write_voc(folder: Path, num_train: int, num_val: int, seed: int, image_size: int) -> None:
    """Write ``VOCdevkit/VOC2012/`` with ``ImageSets/{Main,Segmentation}/{train,val,trainval}.txt``, ``Annotations``,
    ``JPEGImages`` and ``SegmentationObject``.

    Boxes are as VOC has them: first and last pixel, counted from 1. VOC knows no crowds: they are one object marked
    difficult.
    """
    root = folder / "VOCdevkit" / "VOC2012"
    lists = [root / "ImageSets" / name for name in ("Main", "Segmentation")]
    for path in (*lists, root / "Annotations", root / "JPEGImages", root / "SegmentationObject"):
        path.mkdir(parents=True)
    all_names = []
    for part, count in (("train", num_train), ("val", num_val)):
        if count == 0:
            continue
        names = [f"{part}_{index + 1:06d}" for index in range(count)]
        for index, name in enumerate(names):
            shapes = create_shapes_image(part_seed(seed, part), index, image_size)
            save_jpeg(shapes.image, root / "JPEGImages" / f"{name}.jpg")
            (root / "Annotations" / f"{name}.xml").write_bytes(_xml(name, shapes))
            _object_numbers(shapes).save(root / "SegmentationObject" / f"{name}.png")
        _write_lists(lists, part, names)
        all_names += names
    _write_lists(lists, "trainval", sorted(all_names))


def _write_lists(folders: Sequence[Path], part: str, names: Sequence[str]) -> None:
    for folder in folders:
        (folder / f"{part}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _object_numbers(shapes: ShapesImage) -> Image.Image:
    """Which object a pixel shows, counted from 1 as in the xml file."""
    numbers = np.zeros(shapes.image.shape[:2], dtype=np.uint8)
    for number, shape in enumerate(shapes.objects, start=1):
        numbers[shape.mask] = number
    image = Image.fromarray(numbers, "P")
    image.putpalette(voc_palette().tobytes())
    return image


def _xml(name: str, shapes: ShapesImage) -> bytes:
    height, width, depth = shapes.image.shape
    root = ElementTree.Element("annotation")
    _add_texts(root, {"folder": "VOC2012", "filename": f"{name}.jpg"})
    _add_texts(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": depth})
    _add_texts(root, {"segmented": 1})
    for shape in shapes.objects:
        _add_object(root, shape, height, width)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8") + b"\n"


def _add_object(root: ElementTree.Element, shape: ShapeObject, height: int, width: int) -> None:
    x, y, box_width, box_height = shape.box_xywh()
    cut = x == 0 or y == 0 or x + box_width == width or y + box_height == height
    element = ElementTree.SubElement(root, "object")
    texts = {"name": CLASSES[shape.label - 1], "pose": "Unspecified", "truncated": int(cut)}
    _add_texts(element, texts | {"occluded": int(shape.visible < 1), "difficult": int(shape.iscrowd)})
    box = {"xmin": x + 1, "ymin": y + 1, "xmax": x + box_width, "ymax": y + box_height}
    _add_texts(ElementTree.SubElement(element, "bndbox"), box)


def _add_texts(element: ElementTree.Element, texts: Mapping[str, object]) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(element, tag).text = str(text)
