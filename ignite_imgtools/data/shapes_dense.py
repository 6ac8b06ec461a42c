"""The built-in data written in the formats of segmentation and saliency: the masks are the visible pixels, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from .masks import IGNORED
from .palette import voc_palette
from .shapes import CLASSES, ShapesImage, create_shapes_image
from .shapes_files import part_seed, save_jpeg

__all__ = ["label_map", "write_drive", "write_masks", "write_saliency", "write_voc_segmentation"]

_CLASS_LIST = "".join(f"{name}\n" for name in ("background", *CLASSES))


def write_voc_segmentation(folder: Path, num_train: int, num_val: int, seed: int, image_size: int) -> None:
    """Write ``VOCdevkit/VOC2012/`` with ``ImageSets/Segmentation/{train,val,trainval}.txt``, ``JPEGImages``,
    ``SegmentationClass``, and ``classes.txt``.

    As in VOC, masks are palette images, and a border one pixel to either side of an object's edge is 255.
    """
    root = folder / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    for path in (lists, root / "JPEGImages", root / "SegmentationClass"):
        path.mkdir(parents=True)
    (root / "classes.txt").write_text(_CLASS_LIST, encoding="utf-8")
    palette = voc_palette().tobytes()
    all_names = []
    for part, count in (("train", num_train), ("val", num_val)):
        names = []
        for name, shapes in _images(part, count, seed, image_size):
            names.append(f"{part}_{name}")
            save_jpeg(shapes.image, root / "JPEGImages" / f"{part}_{name}.jpg")
            mask = Image.fromarray(np.where(_borders(shapes), np.uint8(IGNORED), label_map(shapes)), "P")
            mask.putpalette(palette)
            mask.save(root / "SegmentationClass" / f"{part}_{name}.png")
        if names:
            (lists / f"{part}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        all_names += names
    (lists / "trainval.txt").write_text("".join(f"{name}\n" for name in sorted(all_names)), encoding="utf-8")


def write_drive(folder: Path, num_train: int, num_val: int, seed: int, image_size: int) -> None:
    """Write ``DRIVE/{training,test}/`` with ``images`` (tif), ``1st_manual`` and ``mask`` (gif).

    What is to be found are the shapes, all of one class; the field of view is an ellipse, black outside.
    """
    for part, split, count in (("train", "training", num_train), ("val", "test", num_val)):
        folders = [folder / "DRIVE" / split / name for name in ("images", "1st_manual", "mask")]
        for name, shapes in _images(part, count, seed, image_size):
            for path in folders:
                path.mkdir(parents=True, exist_ok=True)
            view = _ellipse(*shapes.image.shape[:2])
            found = (label_map(shapes) > 0) & view
            image = Image.fromarray(shapes.image * view[..., None].astype(np.uint8))
            image.save(folders[0] / f"{name}_{split}.tif", compression="tiff_lzw")
            _save_binary(found, folders[1] / f"{name}_manual1.gif")
            _save_binary(view, folders[2] / f"{name}_{split}_mask.gif")


def write_masks(folder: Path, num_train: int, num_val: int, seed: int, image_size: int) -> None:
    """Write ``images/{train,val}/``, ``masks/{train,val}/``, grey PNGs of the class numbers, and ``classes.txt``."""
    (folder / "classes.txt").write_text(_CLASS_LIST, encoding="utf-8")
    for part, count in (("train", num_train), ("val", num_val)):
        for name, shapes in _images(part, count, seed, image_size):
            images, masks = (folder / kind / part for kind in ("images", "masks"))
            for path in (images, masks):
                path.mkdir(parents=True, exist_ok=True)
            save_jpeg(shapes.image, images / f"{name}.jpg")
            Image.fromarray(label_map(shapes)).save(masks / f"{name}.png")


def write_saliency(folder: Path, num_train: int, num_val: int, seed: int, image_size: int) -> None:
    """Write ``DUTS-TR/DUTS-TR-{Image,Mask}/``, and ``DUTS-TE`` for validation: every shape is salient."""
    for part, split, count in (("train", "DUTS-TR", num_train), ("val", "DUTS-TE", num_val)):
        images, masks = (folder / split / f"{split}-{kind}" for kind in ("Image", "Mask"))
        for name, shapes in _images(part, count, seed, image_size):
            for path in (images, masks):
                path.mkdir(parents=True, exist_ok=True)
            save_jpeg(shapes.image, images / f"{part}_{name}.jpg")
            _save_binary(label_map(shapes) > 0, masks / f"{part}_{name}.png")


def label_map(shapes: ShapesImage) -> np.ndarray:
    """Class number of each pixel, 0 for the background: uint8 ``[H, W]``."""
    labels = np.zeros(shapes.image.shape[:2], dtype=np.uint8)
    for shape in shapes.objects:
        labels[shape.mask] = shape.label
    return labels


def _images(part: str, count: int, seed: int, image_size: int) -> Iterator[tuple[str, ShapesImage]]:
    """Names, counted from 1, and images of a part."""
    for index in range(count):
        yield f"{index + 1:06d}", create_shapes_image(part_seed(seed, part), index, image_size)


def _borders(shapes: ShapesImage) -> np.ndarray:
    """Whether a pixel touches one of another object or of the background with a side: bool ``[H, W]``."""
    owner = np.zeros(shapes.image.shape[:2], dtype=np.int64)
    for number, shape in enumerate(shapes.objects, start=1):
        owner[shape.mask] = number
    around = np.pad(owner, 1, mode="edge")
    neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    return np.any([neighbour != owner for neighbour in neighbours], axis=0)


def _ellipse(height: int, width: int) -> np.ndarray:
    """An ellipse as high and wide as 96 % of the canvas, in whole numbers: bool ``[H, W]``."""
    x, y = 2 * np.arange(width, dtype=np.int64) + 1 - width, 2 * np.arange(height, dtype=np.int64)[:, None] + 1 - height
    inside: np.ndarray = 10_000 * ((x * height) ** 2 + (y * width) ** 2) <= 9_216 * (height * width) ** 2
    return inside


def _save_binary(mask: np.ndarray, path: Path) -> None:
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(path)
