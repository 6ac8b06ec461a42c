"""Persons of a data set with keypoints, one sample each; for evaluation, all persons of an image in one sample."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ignite_imgtools.formats import DataError

from .detection_table import Category, DetectionTable, clipped_corners
from .faults import shown
from .subsets import unwrap_subset
from .transforms.keypoints import flip_permutation

__all__ = ["PersonImages", "PersonKeypoints", "collate_person_images", "collate_persons"]

Transform = Callable[[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]]


class PersonKeypoints(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Persons with keypoints, one sample each, from a COCO data set or a part of one.

    A target has ``keypoints`` float32 ``[K, 3]`` (x, y, visibility 0, 1 or 2), ``box`` float32 ``[4]`` xyxy clipped to
    the image, both in pixels, ``score`` float (1 for annotated boxes), ``label`` and ``image_id`` int.

    Args:
        dataset: a :class:`~ignite_imgtools.data.CocoDetection`, or a subset of one; split the images, not the persons.
        detections: a json file of a detector's results in COCO's format: its boxes are taken instead of the annotated
            ones, and keypoints are all 0, since nobody knows whose they are. Detections of other categories, and of
            images that are not in ``dataset``, are left out.
        min_score: detections below it are left out.
        category: the name of the category; needed only where several have keypoints.
        transforms: called as ``transforms(image, target)``, gives the pair back, as
            :class:`~ignite_imgtools.data.transforms.PoseTransform` does.

    Of annotated persons those count that are no crowd, have an annotated keypoint and a box that is not empty.

    Raises:
        DataError: the annotations have no keypoints or no such category, no person is left, or ``detections`` is
            not a file of detections.
        TypeError: ``dataset`` has no such annotations.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        detections: str | os.PathLike[str] | None = None,
        min_score: float = 0.0,
        category: str | None = None,
        transforms: Transform | None = None,
    ):
        base, indices = unwrap_subset(dataset)
        table = getattr(base, "table", None)
        if not isinstance(table, DetectionTable) or not hasattr(base, "images_dir"):
            raise TypeError(f"PersonKeypoints needs a CocoDetection or a subset of one, got {type(base).__name__}")
        self.dataset = dataset
        self.images_dir: Path = base.images_dir
        self.table = table if indices is None else table.take_images(indices)
        self.transforms = transforms
        if self.table.keypoints is None:
            raise DataError(
                f"{self.images_dir}: the annotations have no keypoints; use a file as person_keypoints_train2017.json"
            )
        self.label = _label(self.table.categories, category)
        if detections is None:
            self._take_annotated()
        else:
            self._take_detected(detections, min_score)
        if not len(self):
            source = self.images_dir if detections is None else detections
            advice = "annotate some, or choose other images to validate with"
            raise DataError(
                f"{source}: no {self.category.name} with keypoints in the images of {self.images_dir}; {advice}"
            )

    def __len__(self) -> int:
        return len(self.image_indices)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        """The image, uint8 ``[3, H, W]``, and the person's target, both after ``transforms``.

        Raises:
            DataError: the image cannot be decoded, or has not the size annotated.
        """
        return self.transformed(self.table.read_image(self.images_dir, int(self.image_indices[index])), index)

    def transformed(self, image: Tensor, index: int) -> tuple[Tensor, dict[str, Any]]:
        """As ``self[index]``, for the image decoded already."""
        target = self.person(index)
        return (image, target) if self.transforms is None else self.transforms(image, target)

    def person(self, index: int) -> dict[str, Any]:
        """The target of a person before ``transforms``, without reading the image."""
        return {
            "keypoints": torch.from_numpy(self._keypoints[index].astype(np.float32)),
            "box": torch.from_numpy(self._boxes[index].astype(np.float32)),
            "score": float(self._scores[index]),
            "label": self.label,
            "image_id": int(self.table.image_ids[self.image_indices[index]]),
        }

    def by_image(self) -> PersonImages:
        """The same persons for evaluation: each sample an image, with all its persons."""
        return PersonImages(self)

    def image_size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` of the image that a person is in, without reading it."""
        return self.table.image_size(int(self.image_indices[index]))

    def image_path(self, index: int) -> Path:
        """Path of the image that a person is in."""
        return self.images_dir / self.table.name(int(self.image_indices[index]))

    @property
    def category(self) -> Category:
        """The category of the persons, with the names of its keypoints and the lines to draw between them."""
        return self.table.categories[self.label - 1]

    @property
    def num_keypoints(self) -> int:
        """Keypoints of each person."""
        return int(self._keypoints.shape[1])

    @property
    def flip_permutation(self) -> tuple[int, ...]:
        """Which keypoint takes the place of each when an image is mirrored, by the keypoints' names.

        Raises:
            ValueError: the annotations do not name the keypoints, or one of a side has no counterpart.
        """
        if len(self.category.keypoints) != self.num_keypoints:
            raise ValueError(
                f"category {self.category.name!r} names {len(self.category.keypoints)} of {self.num_keypoints} "
                "keypoints, so their counterparts when mirrored are not known; name them in the annotations"
            )
        return flip_permutation(self.category.keypoints)

    def _take_annotated(self) -> None:
        table = self.table
        assert table.keypoints is not None
        images = np.repeat(np.arange(len(table)), np.diff(table.starts))
        boxes = clipped_corners(table.boxes_xywh, table.sizes[images])
        chosen = (table.labels == self.label) & ~table.iscrowd & (table.keypoints[..., 2] > 0).any(axis=1)
        rows = np.flatnonzero(chosen & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        self.image_indices, self._boxes = images[rows], boxes[rows]
        self._keypoints, self._scores = table.keypoints[rows], np.ones(len(rows))

    def _take_detected(self, file: str | os.PathLike[str], min_score: float) -> None:
        ids, categories, boxes_xywh, scores = _read_detections(file)
        table = self.table
        order = np.argsort(table.image_ids, kind="stable")
        found = np.searchsorted(table.image_ids, ids, sorter=order).clip(max=len(table) - 1)
        images = order[found]
        boxes = clipped_corners(boxes_xywh, table.sizes[images])
        chosen = (table.image_ids[images] == ids) & (categories == self.category.id) & (scores >= min_score)
        rows = np.flatnonzero(chosen & (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        rows = rows[np.argsort(images[rows], kind="stable")]
        self.image_indices, self._boxes, self._scores = images[rows], boxes[rows], scores[rows]
        assert table.keypoints is not None
        self._keypoints = np.zeros((len(rows), table.keypoints.shape[1], 3))


class PersonImages(Dataset[tuple[list[Tensor], dict[str, Any]]]):
    """All persons of an image as one sample, so that an evaluation meets each image once, and complete.

    A sample is a list of crops, one for each person, and ``{"image_id": int, "persons": list of their targets}``;
    images without a person are there too. Images are decoded once. For :func:`collate_person_images`.

    Args:
        persons: with ``transforms`` that cut persons out.
    """

    def __init__(self, persons: PersonKeypoints):
        self.persons = persons
        order = np.argsort(persons.image_indices, kind="stable")
        counts = np.bincount(persons.image_indices, minlength=len(persons.table))
        self._persons_of = np.split(order, np.cumsum(counts)[:-1])

    def __len__(self) -> int:
        return len(self.persons.table)

    def __getitem__(self, index: int) -> tuple[list[Tensor], dict[str, Any]]:
        """The crops and targets of an image's persons.

        Raises:
            DataError: the image cannot be decoded, or has not the size annotated.
        """
        table = self.persons.table
        chosen = self._persons_of[index].tolist()
        samples: list[tuple[Tensor, dict[str, Any]]] = []
        if chosen:
            image = table.read_image(self.persons.images_dir, index)
            samples = [self.persons.transformed(image, person) for person in chosen]
        return [crop for crop, _ in samples], {
            "image_id": int(table.image_ids[index]),
            "persons": [target for _, target in samples],
        }

    @property
    def table(self) -> DetectionTable:
        """The annotations of the persons, and of nothing else: ``coco_index`` makes the truth for a metric of it."""
        return self.persons.table.take_label(self.persons.label)

    def annotated(self, image_id: int) -> tuple[Tensor, Tensor]:
        """An image, uint8 ``[3, H, W]``, and the annotated keypoints of its persons, float32 ``[n, K, 3]``.

        Raises:
            KeyError: no image has this id.
            DataError: the image cannot be decoded, or has not the size annotated.
        """
        table = self.persons.table
        found = np.flatnonzero(table.image_ids == image_id)
        if not len(found):
            raise KeyError(f"no image with the id {image_id}")
        index = int(found[0])
        assert table.keypoints is not None
        rows = table.objects(index)
        points = table.keypoints[rows[table.labels[rows] == self.persons.label]]
        annotated = points[(points[..., 2] > 0).any(axis=1)].astype(np.float32)
        return table.read_image(self.persons.images_dir, index), torch.from_numpy(annotated)

    def image_size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` of an image in pixels, without reading it."""
        return self.persons.table.image_size(index)

    def image_path(self, index: int) -> Path:
        """Path of an image file."""
        return self.persons.images_dir / self.persons.table.name(index)


def collate_persons(samples: Sequence[tuple[Tensor, Mapping[str, Any]]]) -> tuple[Any, Any]:
    """Make a training batch of persons cut to one size.

    Returns:
        ``(images, targets)``: uint8 ``[B, 3, h, w]`` and ``{"keypoints": float32 [B, K, 3], "image_id": list of int}``;
        ``([], [])`` for no samples.

    Raises:
        ValueError: the sizes differ.
    """
    if not samples:
        return [], []
    images = _stacked([image for image, _ in samples])
    targets = [target for _, target in samples]
    return images, {
        "keypoints": torch.stack([target["keypoints"] for target in targets]),
        "image_id": [int(target["image_id"]) for target in targets],
    }


def collate_person_images(samples: Sequence[tuple[Sequence[Tensor], Mapping[str, Any]]]) -> tuple[Any, Any]:
    """Make an evaluation batch of whole images, samples of :class:`PersonImages`.

    Returns:
        ``(crops, targets)``: the crops of all persons, uint8 ``[P, 3, h, w]`` (``[0, 3, 0, 0]`` where there are none),
        those of one image together; and for each image ``{"image_id": int, "to_image": float64 [n, 2, 3], "boxes":
        float32 [n, 4], "scores": float32 [n], "labels": int64 [n]}`` of its ``n`` persons.

    Raises:
        ValueError: the sizes differ.
    """
    crops = [crop for image_crops, _ in samples for crop in image_crops]
    return _stacked(crops) if crops else torch.zeros((0, 3, 0, 0), dtype=torch.uint8), [
        {
            "image_id": int(target["image_id"]),
            "to_image": _rows(target["persons"], "to_image", (2, 3), torch.float64),
            "boxes": _rows(target["persons"], "box", (4,), torch.float32),
            "scores": _rows(target["persons"], "score", (), torch.float32),
            "labels": _rows(target["persons"], "label", (), torch.int64),
        }
        for _, target in samples
    ]


def _rows(persons: Sequence[Mapping[str, Any]], key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    rows = [torch.as_tensor(person[key], dtype=dtype) for person in persons]
    return torch.stack(rows) if rows else torch.zeros((0, *shape), dtype=dtype)


def _stacked(images: Sequence[Tensor]) -> Tensor:
    sizes = {tuple(image.shape[-2:]) for image in images}
    if len(sizes) > 1:
        some = ", ".join(f"{height} x {width}" for height, width in sorted(sizes)[:4])
        raise ValueError(
            f"a batch needs persons of one size (height x width), got {some}: cut them out by "
            "data.transforms.pose_train or pose_eval"
        )
    return torch.stack([image.as_subclass(Tensor) for image in images])


def _label(categories: Sequence[Category], name: str | None) -> int:
    """Label of the category of that name, by default of the one that has keypoints."""
    if name is None:
        found = [label for label, category in enumerate(categories, start=1) if category.keypoints]
        if not found and len(categories) == 1:
            return 1
        if len(found) == 1:
            return found[0]
        some = [categories[label - 1].name for label in found]
        raise DataError(f"expected one category with named keypoints, got {some}; choose one by category=")
    for label, category in enumerate(categories, start=1):
        if category.name == name:
            return label
    raise DataError(f"category {name!r} is not among {shown([category.name for category in categories])}")


def _read_detections(file: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image ids, category ids, boxes xywh and scores of a file of COCO results."""
    if not Path(file).is_file():
        raise DataError(f"{file}: no such file of detections; correct the path")
    try:
        rows = json.loads(Path(file).read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: expected a json list of detections, got no valid json: {error}") from error
    if not isinstance(rows, list):
        raise DataError(f"{file}: expected a json list of detections, got a {type(rows).__name__}; write results")
    ids, categories = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    boxes, scores = np.zeros((len(rows), 4)), np.zeros(len(rows))
    for number, row in enumerate(rows):
        try:
            ids[number], categories[number] = row["image_id"], row["category_id"]
            boxes[number], scores[number] = row["bbox"], row["score"]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{file}: detection {number}: expected image_id, category_id, bbox [x, y, width, height] and score, "
                f"got {shown(row)}; write it anew"
            ) from error
    bad = ~(np.isfinite(boxes).all(axis=1) & np.isfinite(scores))
    if bad.any():
        number = int(bad.argmax())
        raise DataError(
            f"{file}: detection {number}: expected finite numbers, got {shown(rows[number])}; write it anew"
        )
    return ids, categories, boxes, scores
