"""Small data sets for segmentation and saliency, to be damaged by tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, height: int = 30, width: int = 40) -> np.ndarray:
    """Smooth colours, which a JPEG keeps: uint8 ``[H, W, 3]``."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


def labels(seed: int, values: list[int], height: int = 30, width: int = 40) -> np.ndarray:
    """Any of the values in any pixel: uint8 ``[H, W]``."""
    return np.random.default_rng(seed).choice(np.array(values, dtype=np.uint8), (height, width))


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette(np.random.default_rng(9).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(path)
    return path


def write_voc(root: Path) -> Path:
    """Images a and b to train with, c to validate; d has a mask, but no list names it, and e none."""
    for seed, stem in enumerate("abcde"):
        save(root / "JPEGImages" / f"{stem}.jpg", photo(seed))
        if stem != "e":
            save(root / "SegmentationClass" / f"{stem}.png", labels(seed, [0, 5, 20, 255]), "P")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\na\n", encoding="utf-8")
    (lists / "val.txt").write_text("c\n", encoding="utf-8")
    return root


def write_drive(root: Path) -> Path:
    """Images 21 and 22 for training, 01 for testing."""
    for number, split in (("21", "training"), ("22", "training"), ("01", "test")):
        folder = root / split
        save(folder / "images" / f"{number}_{split}.tif", photo(int(number)))
        save(folder / "1st_manual" / f"{number}_manual1.gif", labels(int(number), [0, 255]))
        view = np.zeros((30, 40), dtype=np.uint8)
        view[3:27, 4:36] = 255
        save(folder / "mask" / f"{number}_{split}_mask.gif", view)
    return root


def write_masks(root: Path, images: str = "images", masks: str = "masks", stems: str = "abc") -> Path:
    """Images with masks of the classes 0 to 2."""
    for seed, stem in enumerate(stems):
        save(root / images / f"{stem}.jpg", photo(seed))
        save(root / masks / f"{stem}.png", labels(seed, [0, 1, 2, 255]))
    return root


def write_saliency(root: Path, images: str = "images", masks: str = "masks", stems: str = "abc") -> Path:
    """Images with masks of any brightness."""
    for seed, stem in enumerate(stems):
        save(root / images / f"{stem}.jpg", photo(seed))
        save(root / masks / f"{stem}.png", labels(seed, [0, 127, 128, 255]))
    return root
