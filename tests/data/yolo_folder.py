"""A small data set in YOLO's format to be damaged by tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

YAML = "path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n"

# A row of a label file, and what is said of it; the row before it is ``1 0.25 0.2 0.5 0.4``.
BAD_ROWS = [
    (
        "0 0.5 0.5 0.5",
        "columns: expected 5: class, x, y, width, height, got 4: '0 0.5 0.5 0.5'; correct or remove it",
    ),
    ("0 0.1 0.1 0.2 0.1 0.2 0.2", "columns: expected 5: class, x, y, width, height, got 7"),
    ("0 a 0.5 0.5 0.5", "columns: expected 5 numbers: class, x, y, width, height, got '0 a 0.5 0.5 0.5'"),
    ("0 nan 0.5 0.5 0.5", "columns: expected finite numbers, got '0 nan 0.5 0.5 0.5'"),
    ("2 0.5 0.5 0.5 0.5", "class: expected an integer from 0 to 1, got 2"),
    ("-1 0.5 0.5 0.5 0.5", "class: expected an integer from 0 to 1, got -1"),
    ("0.5 0.5 0.5 0.5 0.5", "class: expected an integer from 0 to 1, got 0.5"),
    ("0 20 15 10 10", "box: expected x, y, width, height from 0 to 1, as shares of the image, got 20 15 10 10"),
    ("0 0.5 -0.1 0.5 0.5", "box: expected x, y, width, height from 0 to 1"),
    ("0 0.5 0.5 0 0.5", "box: expected width and height above 0, got 0.5 0.5 0 0.5"),
    ("1 0.25 0.2 0.5 0.4", "row: expected each object once, got line 1 again"),
]


def write_image(path: Path, height: int = 30, width: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_yolo_folder(root: Path, yaml: str = YAML) -> Path:
    """Images a, b and c, the last one without objects, to train with; d to validate; all 40 x 30; gives the folder."""
    for name in ("train/a", "train/b", "train/c", "val/d"):
        write_image(root / "images" / f"{name}.jpg")
    labels = {
        "train/a": "0 0.5 0.5 0.25 0.5\n1 0.25 0.2 0.5 0.4\n",
        "train/b": "1 1 1 0.5 0.5\n",
        "val/d": "0 .5 .5 1 1",
    }
    for name, text in labels.items():
        path = root / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "data.yaml").write_text(yaml, encoding="utf-8")
    return root
