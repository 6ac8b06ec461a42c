"""Crops of single persons with their keypoints: one affine map of floating point numbers, its inverse beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .affine import warp
from .keypoints import checked_permutation

__all__ = ["PoseTransform", "pose_eval", "pose_train"]

# Boxes around half a body are drawn from the joints alone, which lie inside of it.
_HALF_BODY_PADDING = 1.5
_FEWEST_JOINTS = 3


@dataclass(frozen=True)
class PoseTransform:
    """Cut a person out of an image, turned, scaled and mirrored at random, to a size that models take.

    The box is made larger, to the shape of the crop, and mapped onto it in one step: the image by bilinear
    interpolation, the keypoints exactly, whether they are then inside the crop or not.

    Coordinates are of pixels: (3, 5) is the centre of column 3 and row 5.

    Args:
        size: ``(height, width)`` of the crop.
        padding: the box is enlarged by this factor.
        scale: it is then enlarged by a random factor of ``1 - scale`` to ``1 + scale``.
        degrees: turned by a random angle of -degrees to degrees.
        rotate_probability: of being turned at all.
        half_body_probability: of taking the box around the visible half of the body, upper or lower, instead of the
            person's, where that half has three annotated joints.
        upper_body: numbers of the keypoints of the upper half; by default those of COCO's 17.
        flip_probability: of being mirrored.
        flip_permutation: which keypoint takes the place of each when an image is mirrored.
        fill: colour where there is no image, 0 to 255.

    Raises:
        ValueError: an argument is out of its range, or images are to be mirrored without a ``flip_permutation``.
    """

    size: tuple[int, int] = (256, 192)
    padding: float = 1.25
    scale: float = 0.0
    degrees: float = 0.0
    rotate_probability: float = 1.0
    half_body_probability: float = 0.0
    upper_body: Sequence[int] = tuple(range(11))
    flip_probability: float = 0.0
    flip_permutation: Sequence[int] | None = None
    fill: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.padding <= 0:
            raise ValueError(f"size and padding must be positive, got {self.size} and {self.padding}")
        if not 0 <= self.scale < 1 or not 0 <= self.degrees <= 180:
            raise ValueError(
                f"scale must be at least 0 and below 1, degrees from 0 to 180, got {self.scale} and {self.degrees}"
            )
        for name in ("rotate_probability", "half_body_probability", "flip_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        if self.flip_permutation is not None:
            checked_permutation(self.flip_permutation)
        elif self.flip_probability:
            raise ValueError("flip_probability needs flip_permutation: which keypoint takes the place of each")

    def __call__(self, image: Tensor, target: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Cut one person out.

        Args:
            image: uint8 ``[3, H, W]``.
            target: with ``box``, float ``[4]`` xyxy, and ``keypoints``, float ``[K, 3]``, in pixels of the image.

        Returns:
            The crop, uint8 ``[3, height, width]``, and the target with ``keypoints`` in pixels of the crop and
            ``to_image``, float64 ``[2, 3]``: from ``(x, y, 1)`` in the crop to ``(x, y)`` in the image. Takes 6
            numbers from torch's generator.
        """
        half, side, zoom, whether, angle, mirror = torch.rand(6, dtype=torch.float64).tolist()
        box, padding = target["box"].double(), self.padding
        if half < self.half_body_probability:
            body = self._half_body(target["keypoints"], upper=side < 0.5)
            box, padding = (box, padding) if body is None else (body, _HALF_BODY_PADDING)
        factor = padding * (1 + (2 * zoom - 1) * self.scale)
        turn = (2 * angle - 1) * self.degrees if whether < self.rotate_probability else 0.0
        flip = mirror < self.flip_probability
        to_crop = _crop_map(box, self.size, factor, turn, flip)

        changed = dict(target)
        changed["keypoints"] = self._map_keypoints(target["keypoints"], to_crop, flip)
        changed["to_image"] = _inverse(to_crop)
        crop = warp(image.as_subclass(Tensor), _edges(to_crop), self.size, self.fill)
        return crop, changed

    def _half_body(self, keypoints: Tensor, upper: bool) -> Tensor | None:
        """Box around the annotated joints of one half, or ``None`` where they are too few."""
        chosen = torch.tensor(
            [(joint in self.upper_body) == upper for joint in range(len(keypoints))], dtype=torch.bool
        )
        places = keypoints[chosen & (keypoints[:, 2] > 0), :2].double()
        if len(places) < _FEWEST_JOINTS:
            return None
        lowest, highest = places.amin(dim=0), places.amax(dim=0)
        # Joints in one line span no box.
        return torch.cat((lowest, torch.maximum(highest, lowest + 1)))

    def _map_keypoints(self, keypoints: Tensor, to_crop: Tensor, flip: bool) -> Tensor:
        places = keypoints[:, :2].double() @ to_crop[:, :2].T + to_crop[:, 2]
        mapped = torch.cat((places.to(keypoints.dtype), keypoints[:, 2:]), dim=1)
        if flip and self.flip_permutation is not None:
            if len(mapped) != len(self.flip_permutation):
                raise ValueError(
                    f"flip_permutation has {len(self.flip_permutation)} keypoints, the person has {len(mapped)}"
                )
            mapped = mapped[list(self.flip_permutation)]
        return mapped


def pose_train(
    size: tuple[int, int] = (256, 192),
    *,
    flip_permutation: Sequence[int] | None,
    upper_body: Sequence[int] = tuple(range(11)),
    scale: float = 0.35,
    degrees: float = 45.0,
    rotate_probability: float = 0.6,
    half_body_probability: float = 0.3,
) -> PoseTransform:
    """What HRNet is trained on: see :class:`PoseTransform`; mirrored every other time where ``flip_permutation`` is
    not ``None``."""
    return PoseTransform(
        size,
        scale=scale,
        degrees=degrees,
        rotate_probability=rotate_probability,
        half_body_probability=half_body_probability,
        upper_body=upper_body,
        flip_probability=0.0 if flip_permutation is None else 0.5,
        flip_permutation=flip_permutation,
    )


def pose_eval(size: tuple[int, int] = (256, 192)) -> PoseTransform:
    """The person's box, a quarter larger, nothing at random."""
    return PoseTransform(size)


def _crop_map(box: Tensor, size: tuple[int, int], factor: float, degrees: float, flip: bool) -> Tensor:
    """From ``(x, y, 1)`` in the image to ``(x, y)`` in the crop, float64 ``[2, 3]``."""
    x1, y1, x2, y2 = box.tolist()
    height, width = size
    # The smallest rectangle of the crop's shape around the box.
    zoom = min(width / max(x2 - x1, 1e-3), height / max(y2 - y1, 1e-3)) / factor
    turn = math.radians(degrees)
    sine, cosine = math.sin(turn) * zoom, math.cos(turn) * zoom
    linear = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    centre = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2], dtype=torch.float64)
    middle = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    # Boxes and sizes count from the edges of pixels, points from their centres.
    matrix = torch.cat((linear, (middle - 0.5 - linear @ (centre - 0.5))[:, None]), dim=1)
    if flip:
        matrix[0] = -matrix[0]
        matrix[0, 2] += width - 1
    return matrix


def _edges(matrix: Tensor) -> Tensor:
    """A map between centres of pixels as one of places counted from the edge of an image."""
    moved = matrix[:, 2] + 0.5 - matrix[:, :2].sum(dim=1) / 2
    return torch.cat((matrix[:, :2], moved[:, None]), dim=1)


def _inverse(matrix: Tensor) -> Tensor:
    linear = torch.linalg.inv(matrix[:, :2])
    return torch.cat((linear, -(linear @ matrix[:, 2:])), dim=1)
