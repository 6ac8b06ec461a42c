"""What all writers of the built-in data share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ignite_imgtools.distributed import keyed_seed
from ignite_imgtools.progress import tick

__all__ = ["PARTS", "part_seed", "save_jpeg"]

PARTS = ("train", "val", "test")


def part_seed(seed: int, part: str) -> int:
    """Seed of a part, so that parts share no image and none depends on another's size."""
    return keyed_seed(seed, PARTS.index(part))


def save_jpeg(image: np.ndarray, path: Path) -> None:
    """Write an image, uint8 ``[H, W, 3]``, with colours as fine as its brightness."""
    Image.fromarray(image).save(path, quality=92, subsampling=0)
    tick()
