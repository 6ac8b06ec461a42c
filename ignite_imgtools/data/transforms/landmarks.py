"""Faces cut out of images with their points, for training and for evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .pose import PoseTransform

__all__ = ["LandmarkTransform", "landmark_eval", "landmark_train"]


@dataclass(frozen=True)
class LandmarkTransform:
    """Cut a face out of an image, moved, turned, scaled and mirrored at random, to a size that models take.

    A :class:`PoseTransform` does it in one exact map of floating point numbers, after the box was moved. Of faces that
    are several times as large as the result, neighbouring pixels are averaged first, since interpolation would skip
    most of them.

    Coordinates are of pixels: (3, 5) is the centre of column 3 and row 5.

    Args:
        pose: what is cut out of the moved box.
        shift: the box is moved by a random share of its sides of -shift to shift, along x and along y.
        shift_probability: of being moved at all.

    Raises:
        ValueError: an argument is out of its range.
    """

    pose: PoseTransform
    shift: float = 0.0
    shift_probability: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.shift < 1 or not 0 <= self.shift_probability <= 1:
            raise ValueError(
                f"shift must be at least 0 and below 1, shift_probability from 0 to 1, got {self.shift} and "
                f"{self.shift_probability}"
            )

    def __call__(self, image: Tensor, target: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Cut one face out.

        Args:
            image: uint8 ``[3, H, W]``.
            target: with ``box``, float ``[4]`` xyxy, and ``points``, float ``[K, 2]``, in pixels of the image.

        Returns:
            The crop, uint8 ``[3, height, width]``, and the target with ``points`` in pixels of the crop,
            ``image_points`` in those of the image, and ``to_image``, float64 ``[2, 3]``: from ``(x, y, 1)`` in the crop
            to ``(x, y)`` in the image. Takes 9 numbers from torch's generator.
        """
        whether, *moves = torch.rand(3, dtype=torch.float64).tolist()
        x1, y1, x2, y2 = target["box"].double().tolist()
        if whether < self.shift_probability:
            across, down = ((2 * move - 1) * self.shift for move in moves)
            x1, x2 = x1 + across * (x2 - x1), x2 + across * (x2 - x1)
            y1, y2 = y1 + down * (y2 - y1), y2 + down * (y2 - y1)
        near, left, top, step = self._near(image.as_subclass(Tensor), (x1, y1, x2, y2))
        corner = torch.tensor([left, top], dtype=torch.float64)
        box = (torch.tensor([x1, y1, x2, y2], dtype=torch.float64) - corner.repeat(2)) / step
        # Boxes count from the edges of pixels, points from their centres.
        places = (target["points"].double() - corner + 0.5) / step - 0.5
        keypoints = torch.cat((places, torch.full((len(places), 1), 2.0, dtype=torch.float64)), dim=1)
        crop, mapped = self.pose(near, {"box": box, "keypoints": keypoints})

        to_image = mapped["to_image"] * step
        to_image[:, 2] += 0.5 * step - 0.5 + corner
        changed = dict(target)
        changed["points"] = mapped["keypoints"][:, :2].to(target["points"].dtype)
        changed["image_points"] = target["points"]
        changed["to_image"] = to_image
        return crop, changed

    def _near(self, image: Tensor, box: tuple[float, float, float, float]) -> tuple[Tensor, int, int, int]:
        """The part of an image that can be seen in the crop, its left and top edge, and by how much it was shrunk."""
        x1, y1, x2, y2 = box
        height, width = self.pose.size
        # Pixels of the image for one of the crop, before the scale that is still to be drawn.
        stride = self.pose.padding * max((x2 - x1) / width, (y2 - y1) / height)
        # Half the diagonal, for the crop may be turned, and a pixel for the interpolation.
        reach = 0.5 * stride * (1 + self.pose.scale) * (width**2 + height**2) ** 0.5 + stride + 1
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        left, top = (
            int(min(max(place - reach, 0), side)) for place, side in ((x, image.shape[2]), (y, image.shape[1]))
        )
        right, bottom = (
            int(min(max(place + reach + 1, 0), side)) for place, side in ((x, image.shape[2]), (y, image.shape[1]))
        )
        if left >= right or top >= bottom:
            return image, 0, 0, 1
        near, step = image[:, top:bottom, left:right], max(int(stride), 1)
        if step > 1:
            near = F.avg_pool2d(near.float(), step, ceil_mode=True).round_().to(torch.uint8)
        return near, left, top, step


def landmark_train(
    size: int | tuple[int, int] = 256,
    *,
    flip_permutation: Sequence[int] | None,
    padding: float = 1.25,
    scale: float = 0.35,
    degrees: float = 45.0,
    rotate_probability: float = 0.6,
    shift: float = 0.15,
    shift_probability: float = 0.3,
    flip_probability: float = 0.5,
) -> LandmarkTransform:
    """What DeepPose is trained on: see :class:`LandmarkTransform` and :class:`PoseTransform`.

    Args:
        size: of the crop in pixels: a side, or ``(height, width)``.
        flip_permutation: as :func:`~ignite_imgtools.data.face_flip_permutation` gives it; ``None`` mirrors nothing.
    """
    pose = dataclasses.replace(
        landmark_eval(size, padding=padding).pose,
        scale=scale,
        degrees=degrees,
        rotate_probability=rotate_probability,
        flip_probability=0.0 if flip_permutation is None else flip_probability,
        flip_permutation=flip_permutation,
    )
    return LandmarkTransform(pose, shift=shift, shift_probability=shift_probability)


def landmark_eval(size: int | tuple[int, int] = 256, *, padding: float = 1.25) -> LandmarkTransform:
    """The face's box, enlarged by the factor ``padding``, nothing at random."""
    return LandmarkTransform(PoseTransform((size, size) if isinstance(size, int) else size, padding=padding))
