"""The built-in data written as COCO json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .mask_outlines import mask_to_polygons
from .shapes import CLASSES, KEYPOINTS, SKELETON, ShapeObject, ShapesImage, create_shapes_image
from .shapes_files import part_seed, save_jpeg
from .shapes_people import PERSON_KEYPOINTS, PERSON_SKELETON, create_people_image

__all__ = ["write_coco", "write_coco_keypoints"]

Draw = Callable[[int, int, int], ShapesImage]


def write_coco(folder: Path, num_train: int, num_val: int, seed: int, image_size: int) -> None:
    """Write ``annotations/instances_{train,val}.json`` and the images in ``train/`` and ``val/``.

    The json holds instances and keypoints together: polygons of the visible pixels, run lengths for crowds.
    """
    common = {"supercategory": "shape", "keypoints": KEYPOINTS, "skeleton": SKELETON}
    categories = [{"id": label, "name": name} | common for label, name in enumerate(CLASSES, start=1)]
    parts = {"train": num_train, "val": num_val}
    _write(folder, parts, seed, image_size, "instances", "coloured shapes", categories, create_shapes_image)


def write_coco_keypoints(folder: Path, num_train: int, num_val: int, seed: int, image_size: int) -> None:
    """Write ``annotations/person_keypoints_{train,val}.json`` and the images in ``train/`` and ``val/``.

    The images are those of :func:`~ignite_imgtools.data.shapes_people.create_people_image`.
    """
    person = {"id": 1, "name": "person", "supercategory": "person"}
    categories = [person | {"keypoints": PERSON_KEYPOINTS, "skeleton": PERSON_SKELETON}]
    parts = {"train": num_train, "val": num_val}
    _write(folder, parts, seed, image_size, "person_keypoints", "figures", categories, create_people_image)


def _write(
    folder: Path,
    parts: dict[str, int],
    seed: int,
    image_size: int,
    kind: str,
    what: str,
    categories: list[dict[str, Any]],
    draw: Draw,
) -> None:
    (folder / "annotations").mkdir()
    for part, count in parts.items():
        if count == 0:
            continue
        (folder / part).mkdir()
        content: dict[str, Any] = {"info": {"description": f"{what}, seed {seed}"}, "licenses": []}
        content |= {"images": [], "annotations": [], "categories": categories}
        for index in range(count):
            shapes = draw(part_seed(seed, part), index, image_size)
            height, width, _ = shapes.image.shape
            name = f"{index + 1:06d}.jpg"
            save_jpeg(shapes.image, folder / part / name)
            content["images"].append({"id": index + 1, "file_name": name, "height": height, "width": width})
            for shape in shapes.objects:
                id_ = len(content["annotations"]) + 1
                content["annotations"].append({"id": id_, "image_id": index + 1} | _annotation(shape))
        text = json.dumps(content, separators=(",", ":"))
        (folder / "annotations" / f"{kind}_{part}.json").write_text(text, encoding="utf-8")


def _annotation(shape: ShapeObject) -> dict[str, Any]:
    return {
        "category_id": shape.label,
        "bbox": shape.box_xywh(),
        "area": int(shape.mask.sum()),
        "iscrowd": int(shape.iscrowd),
        "segmentation": _run_lengths(shape.mask) if shape.iscrowd else mask_to_polygons(shape.mask),
        "keypoints": shape.keypoints.ravel().tolist(),
        "num_keypoints": int((shape.keypoints[:, 2] > 0).sum()),
    }


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed run lengths: down the columns, beginning with pixels outside."""
    pixels = np.concatenate(([False], mask.ravel(order="F")))
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    counts = np.diff(np.concatenate(([0], changes, [mask.size])))
    return {"size": list(mask.shape), "counts": counts.tolist()}
