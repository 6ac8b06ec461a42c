"""Finding and opening the parts of a data set of persons with keypoints, in COCO's layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ignite_imgtools.formats import DataError
from ignite_imgtools.progress import waited

from .faults import OnBadSample, shown
from .layouts import DetectionLayout, find_among, find_coco_part
from .persons import PersonKeypoints
from .subsets import class_names, split_dataset

__all__ = ["PERSON_FORMATS", "find_person_keypoints", "open_person_data"]


@waited("indexing")
def open_person_data(
    folder: str | os.PathLike[str],
    data_format: str | None = None,
    *,
    category: str | None = None,
    detections: str | os.PathLike[str] | None = None,
    min_score: float = 0.0,
    val_fraction: float = 0.2,
    seed: int = 0,
    on_bad_sample: OnBadSample = "raise",
) -> tuple[PersonKeypoints, PersonKeypoints]:
    """Open the persons for training and for validation of a data set found in a folder, without transforms.

    What is found is ``annotations/person_keypoints_{train,val}*.json`` with the images in ``{train,val}*/``, there or
    under ``images/``; or ``annotations/instances_{train,val}*.json`` where these have keypoints.

    Args:
        data_format: ``"coco_keypoints"``, or ``None``, which means the same.
        category: whose keypoints, where several categories have some.
        detections: a detector's results; their boxes are those of the validation part, see :class:`PersonKeypoints`.
        min_score: detections below it are left out.
        val_fraction: share of the images that become the validation part where the folder has none.
        seed: chooses them.
        on_bad_sample: refuse bad samples, or leave them out.

    Raises:
        DataError: nothing is found, something is bad, or the parts have other categories or keypoints.
        ValueError: ``data_format`` is not known, or ``val_fraction`` is not between 0 and 1.
    """
    layout = find_among(PERSON_FORMATS, folder, data_format)
    train: Dataset[Any] = layout.train.open(on_bad_sample=on_bad_sample)
    val: Dataset[Any]
    if layout.val is None:
        train, val = split_dataset(train, val_fraction, seed, layout.train)
    else:
        val = layout.val.open(class_names(train), on_bad_sample=on_bad_sample)
    train_set = PersonKeypoints(train, category=category)
    val_set = PersonKeypoints(val, category=category, detections=detections, min_score=min_score)
    names = [list(part.category.keypoints) for part in (train_set, val_set)]
    if train_set.num_keypoints != val_set.num_keypoints or names[0] != names[1]:
        raise DataError(
            f"{layout.val}: expected the {train_set.num_keypoints} keypoints of the training part, {shown(names[0])}, "
            f"got {val_set.num_keypoints}, {shown(names[1])}; list the same in both"
        )
    return train_set, val_set


def find_person_keypoints(folder: Path) -> DetectionLayout:
    """The parts of a data set of persons with keypoints; see :func:`open_person_data`.

    Raises:
        DataError: there is none, or it is not complete.
    """
    kinds = ("person_keypoints", "instances")
    train = find_coco_part(folder, "train", kinds)
    if train is None:
        raise DataError(
            f"{folder}: no annotations/person_keypoints_train*.json as COCO has it, nor instances_train*.json; "
            "correct the path"
        )
    return DetectionLayout("coco_keypoints", train, find_coco_part(folder, "val", kinds))


PERSON_FORMATS: Mapping[str, Callable[[Path], DetectionLayout]] = {"coco_keypoints": find_person_keypoints}
"""Finder of each format; it raises DataError where a folder holds nothing of its kind."""
