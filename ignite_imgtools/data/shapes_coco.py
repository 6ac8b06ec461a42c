"""The built-in data written as COCO json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .mask_outlines import mask_to_polygons
from .shapes import CLASSES, KEYPOINTS, SKELETON, ShapeObject, create_shapes_image
from .shapes_files import part_seed, save_jpeg

__all__ = ["write_coco"]


def write_coco(folder: Path, num_train: int, num_val: int, seed: int, image_size: int) -> None:
    """Write ``annotations/instances_{train,val}.json`` and the images in ``train/`` and ``val/``.

    The json holds instances and keypoints together: polygons of the visible pixels, run lengths for crowds.
    """
    (folder / "annotations").mkdir()
    for part, count in (("train", num_train), ("val", num_val)):
        if count == 0:
            continue
        (folder / part).mkdir()
        content: dict[str, Any] = {"info": {"description": f"coloured shapes, seed {seed}"}, "licenses": []}
        content |= {"images": [], "annotations": [], "categories": _categories()}
        for index in range(count):
            shapes = create_shapes_image(part_seed(seed, part), index, image_size)
            height, width, _ = shapes.image.shape
            name = f"{index + 1:06d}.jpg"
            save_jpeg(shapes.image, folder / part / name)
            content["images"].append({"id": index + 1, "file_name": name, "height": height, "width": width})
            for shape in shapes.objects:
                id_ = len(content["annotations"]) + 1
                content["annotations"].append({"id": id_, "image_id": index + 1} | _annotation(shape))
        text = json.dumps(content, separators=(",", ":"))
        (folder / "annotations" / f"instances_{part}.json").write_text(text, encoding="utf-8")


def _categories() -> list[dict[str, Any]]:
    common = {"supercategory": "shape", "keypoints": KEYPOINTS, "skeleton": SKELETON}
    return [{"id": label, "name": name} | common for label, name in enumerate(CLASSES, start=1)]


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
