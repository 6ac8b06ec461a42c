"""Writing the built-in data set in the formats that people have."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ignite_imgtools.progress import waited

from .shapes_classes import write_class_folders
from .shapes_coco import write_coco, write_coco_keypoints
from .shapes_dense import write_drive, write_masks, write_saliency, write_voc_segmentation
from .shapes_landmarks import write_points_csv, write_pts, write_wflw
from .shapes_voc import write_voc
from .shapes_yolo import write_yolo

__all__ = ["FORMATS", "make_data"]

FORMATS: dict[str, Callable[[Path, int, int, int, int], None]] = {
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
    "voc_segmentation": write_voc_segmentation,
    "drive": write_drive,
    "masks": write_masks,
    "saliency": write_saliency,
    "class_folders": write_class_folders,
    "coco_keypoints": write_coco_keypoints,
    "wflw": write_wflw,
    "pts": write_pts,
    "points_csv": write_points_csv,
}
"""Writer of each format: called with an empty folder, the numbers of images for training and for validation, the
seed and the image size."""


@waited("writing the built-in data")
def make_data(
    data_format: str,
    directory: str | os.PathLike[str],
    *,
    num_train: int = 400,
    num_val: int = 100,
    seed: int = 0,
    image_size: int = 160,
) -> Path:
    """Write the built-in data set (:mod:`ignite_imgtools.data.shapes`, for landmarks
    :mod:`ignite_imgtools.data.shapes_faces`) into a folder.

    The folder appears when it is complete: the work is done in a folder beside it. Call it on one process.

    Args:
        data_format: a key of :data:`FORMATS`.
        directory: a folder that is empty or does not exist yet.
        num_train: number of images for training.
        num_val: number of images for validation.
        seed: chooses the images; the same seed gives the same files.
        image_size: longer side of the largest images in pixels, at least 64.

    Returns:
        The folder.

    Raises:
        ValueError: an argument is out of its range.
        FileExistsError: the folder is not empty, or is a file.
    """
    if data_format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {data_format!r}")
    for name, value, least in (("num_train", num_train, 1), ("num_val", num_val, 0), ("image_size", image_size, 64)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    folder = Path(directory)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds something already: give a new or an empty folder")
    unfinished = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        FORMATS[data_format](unfinished, num_train, num_val, seed, image_size)
        if folder.is_dir():
            folder.rmdir()
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return folder
