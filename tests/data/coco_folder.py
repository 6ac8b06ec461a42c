"""A small COCO data set to be damaged by tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Content = dict[str, Any]


def coco_content() -> Content:
    """Three images of 40 x 30 with the ids 3, 1, 2; the last one is empty. Categories 7 and 5, out of order."""
    return {
        "images": [{"id": id_, "file_name": f"{id_}.jpg", "width": 40, "height": 30} for id_ in (3, 1, 2)],
        "annotations": [
            annotation(10, 3, 7, [1, 2, 10, 8], segmentation=[[1, 2, 11, 2, 11, 10, 1, 10]]),
            annotation(11, 1, 5, [5.5, 5.25, 20, 10]),
            annotation(12, 1, 7, [30, 20, 15, 15]),  # reaches out of the image
            annotation(13, 3, 5, [0, 0, 5, 30], iscrowd=1, segmentation={"size": [30, 40], "counts": [0, 150, 1050]}),
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 5, "name": "cat"}],
    }


def annotation(id_: int, image_id: int, category_id: int, bbox: list[float], **more: Any) -> Content:
    area = bbox[2] * bbox[3]
    return {
        "id": id_,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": area,
        "iscrowd": 0,
    } | more


def write_coco_folder(folder: Path, change: Callable[[Content], Any] | None = None) -> Path:
    """Write it in the usual layout, its content changed first; gives back the annotation file."""
    content = coco_content()
    if change is not None:
        change(content)
    (folder / "train").mkdir(parents=True)
    for id_ in (1, 2, 3):
        pixels = np.random.default_rng(id_).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "train" / f"{id_}.jpg")
    file = folder / "annotations" / "instances_train.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content), encoding="utf-8")
    return file
