"""Faces of a data set with their points, one sample each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .faults import OnBadSample, settle_faults
from .images import read_image
from .landmark_parts import LandmarkPart, read_landmarks
from .landmark_points import FACE_FLIPS
from .subsets import unwrap_subset

__all__ = ["FaceLandmarks", "collate_landmarks", "mean_face"]

LandmarkTransforms = Callable[[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]]

# What a sample has after LandmarkTransform, with the dtype in a batch.
_STACKED = {
    "points": torch.float32,
    "image_points": torch.float32,
    "boxes": torch.float32,
    "to_image": torch.float64,
}


class FaceLandmarks(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Faces with points, one sample each; several may be of one image.

    A target has ``points`` float32 ``[K, 2]``, x and y, and ``box`` float32 ``[4]`` xyxy, both in pixels of the image,
    and ``image_id``, the number of the face in the part. A box that is not annotated is the one that just holds the
    points.

    Args:
        part: where the faces are.
        transforms: called as ``transforms(image, target)``, gives the pair back, as
            :class:`~ignite_imgtools.data.transforms.LandmarkTransform` does.
        num_points: how many points each face must have; by default as many as most of them have.
        on_bad_sample: ``"raise"``: anything bad is refused; ``"skip"``: bad faces are left out, ``faults`` tells which.
            What only decoding shows is found when a sample is loaded.

    Raises:
        DataError: there are no faces, or something is bad and ``on_bad_sample="raise"``.
    """

    def __init__(
        self,
        part: LandmarkPart,
        *,
        transforms: LandmarkTransforms | None = None,
        num_points: int | None = None,
        on_bad_sample: OnBadSample = "raise",
    ):
        table, self.faults = read_landmarks(part, num_points)
        settle_faults(self.faults, on_bad_sample, part.data_format)
        assert table is not None  # else there was a fatal fault
        self.part, self.table, self.transforms = part, table, transforms

    def __len__(self) -> int:
        return len(self.table.points)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        """The image, uint8 ``[3, H, W]``, and the target of the face, both after ``transforms``.

        Raises:
            DataError: the file cannot be decoded.
        """
        image, target = read_image(self.image_path(index)), self.face(index)
        return (image, target) if self.transforms is None else self.transforms(image, target)

    def face(self, index: int) -> dict[str, Any]:
        """The target of a face before ``transforms``, without reading the image."""
        return {
            "points": torch.from_numpy(self.table.points[index].astype(np.float32)),
            "box": torch.from_numpy(self.table.boxes[index].astype(np.float32)),
            "image_id": range(len(self))[index],
        }

    def image_size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` of the image that a face is in, without reading it."""
        return self.table.files.size(index)

    def image_path(self, index: int) -> Path:
        """Path of the image that a face is in."""
        return self.table.files.path(index)

    @property
    def file_names(self) -> list[str]:
        """Name of the image of each face, relative to the folder."""
        return [self.table.files.name(index) for index in range(len(self))]

    @property
    def num_points(self) -> int:
        """Points of each face."""
        return int(self.table.points.shape[1])

    @property
    def class_names(self) -> list[str]:
        """Names of the points: their numbers, counted from 0."""
        return [str(number) for number in range(self.num_points)]

    @property
    def flip_permutation(self) -> tuple[int, ...] | None:
        """Which point takes the place of each in the mirror, of 98 or 68 points; ``None`` of any other number."""
        return FACE_FLIPS.get(self.num_points)


def mean_face(dataset: Dataset[Any], padding: float = 1.25) -> Tensor:
    """The mean points of the faces of a data set or of a part of one, as they are cut out for evaluation.

    Args:
        dataset: a :class:`FaceLandmarks` or a subset of one.
        padding: of :func:`~ignite_imgtools.data.transforms.landmark_eval`; what is cut out is a square.

    Returns:
        float32 ``[K, 2]``: x and y as shares of the sides of the square, counted from its edges.

    Raises:
        TypeError: ``dataset`` is neither.
    """
    base, indices = unwrap_subset(dataset)
    if not isinstance(base, FaceLandmarks):
        raise TypeError(f"mean_face needs FaceLandmarks or a subset of one, got {type(base).__name__}")
    chosen = slice(None) if indices is None else indices
    points, boxes = base.table.points[chosen], base.table.boxes[chosen]
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = padding * (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    shares = (points + 0.5 - middles[:, None]) / sides[:, None, None] + 0.5
    return torch.from_numpy(shares.mean(axis=0).astype(np.float32))


def collate_landmarks(samples: Sequence[tuple[Tensor, Mapping[str, Any]]]) -> tuple[Any, Any]:
    """Make a batch of faces cut to one size, for training and for evaluation.

    Returns:
        ``(images, targets)``: uint8 ``[B, 3, h, w]`` and ``{"points": float32 [B, K, 2] in pixels of the crops,
        "image_points": the same in pixels of the images, "boxes": float32 [B, 4] xyxy in pixels of the images,
        "to_image": float64 [B, 2, 3] from (x, y, 1) in a crop to (x, y) in its image, "image_id": list of int}``;
        ``([], [])`` for no samples.

    Raises:
        ValueError: the sizes differ, or faces were not cut out.
    """
    if not samples:
        return [], []
    sizes = {tuple(image.shape[-2:]) for image, _ in samples}
    if len(sizes) > 1 or any("to_image" not in target for _, target in samples):
        some = ", ".join(f"{height} x {width}" for height, width in sorted(sizes)[:4])
        raise ValueError(
            f"a batch needs faces of one size (height x width), got {some}: cut them out by "
            "data.transforms.landmark_train or landmark_eval"
        )
    targets = [{**target, "boxes": target["box"]} for _, target in samples]
    stacked: dict[str, Any] = {
        name: torch.stack([target[name].to(dtype) for target in targets]) for name, dtype in _STACKED.items()
    }
    images = torch.stack([image.as_subclass(Tensor) for image, _ in samples])
    return images, stacked | {"image_id": [int(target["image_id"]) for target in targets]}
