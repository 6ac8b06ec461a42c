"""Random affine maps of images with their boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors

__all__ = ["AffineRange", "BoxAffine", "map_boxes", "paste", "warp"]

_PER_OBJECT = ("boxes", "labels", "area", "iscrowd")


@dataclass(frozen=True)
class AffineRange:
    """What an affine map is drawn from, uniformly and each by itself.

    Args:
        degrees: turned by an angle of -degrees to degrees, clockwise as seen.
        translate: moved by -translate to translate, in lengths of the sides of the result.
        scale: enlarged by a factor of 1 - scale to 1 + scale.
        shear: sheared by an angle of -shear to shear degrees, along x and along y.

    Raises:
        ValueError: one is negative, or so large that an image could vanish.
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0

    def __post_init__(self) -> None:
        for name, limit in (("degrees", 180.1), ("translate", 10.0), ("scale", 1.0), ("shear", 60.0)):
            if not 0 <= getattr(self, name) < limit:
                raise ValueError(f"{name} must be at least 0 and below {limit:g}, got {getattr(self, name)}")

    def draw(self, source: tuple[int, int], result: tuple[int, int]) -> Tensor:
        """A map of the centre of the source to the centre of the result, moved by what is drawn.

        Args:
            source: ``(height, width)`` in pixels.
            result: the same of the result.

        Returns:
            float64 ``[2, 3]``: from ``(x, y, 1)`` in the source to ``(x, y)`` in the result, in pixels, where the
            edges of an image are at 0 and at its width or height. Takes 6 numbers from torch's generator.
        """
        angle, zoom, shear_x, shear_y, move_x, move_y = (torch.rand(6, dtype=torch.float64) * 2 - 1).tolist()
        turn = math.radians(angle * self.degrees)
        factor = 1 + zoom * self.scale
        sine, cosine = math.sin(turn) * factor, math.cos(turn) * factor
        rotation = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
        across, down = (math.tan(math.radians(value * self.shear)) for value in (shear_x, shear_y))
        linear = torch.tensor([[1, across], [down, 1]], dtype=torch.float64) @ rotation
        centre = torch.tensor([source[1] / 2, source[0] / 2], dtype=torch.float64)
        wanted = torch.tensor(
            [result[1] * (0.5 + move_x * self.translate), result[0] * (0.5 + move_y * self.translate)],
            dtype=torch.float64,
        )
        return torch.cat((linear, (wanted - linear @ centre)[:, None]), dim=1)


class BoxAffine:
    """A random affine map of an image and its boxes.

    A box becomes the smallest one around what is seen of the turned rectangle; its object is left out where too little
    of it remains. Areas change with the map and with what is cut off.

    Args:
        affine: what is drawn from.
        size: ``(height, width)`` of the result; by default that of the image.
        min_visible: least share of an object's area that must remain.
        min_box_size: least width and height of a box, in pixels.
        fill: colour where there is no image, 0 to 255.
    """

    def __init__(
        self,
        affine: AffineRange,
        *,
        size: tuple[int, int] | None = None,
        min_visible: float = 0.1,
        min_box_size: float = 2.0,
        fill: tuple[int, int, int] = (114, 114, 114),
    ):
        self.affine, self.size = affine, size
        self.min_visible, self.min_box_size, self.fill = min_visible, min_box_size, fill

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.affine}, size={self.size}, min_visible={self.min_visible})"

    def __call__(self, image: Tensor, target: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Draw a map and apply it.

        Args:
            image: uint8 ``[3, H, W]``.
            target: with ``boxes`` that may reach out of the image; what of them does is not seen.

        Raises:
            ValueError: the target has masks or keypoints, which this does not map.
        """
        for key in ("masks", "keypoints"):
            if key in target:
                raise ValueError(f"an affine map of boxes does not map {key}: open the data without them")
        source = (image.shape[1], image.shape[2])
        size = self.size or source
        matrix = self.affine.draw(source, size)
        mapped = tv_tensors.Image(warp(image.as_subclass(Tensor), matrix, size, self.fill))

        boxes = target["boxes"].as_subclass(Tensor)
        seen = boxes.clamp(min=0).minimum(torch.tensor([source[1], source[0]] * 2, dtype=boxes.dtype))
        hulls, areas = map_boxes(seen, matrix, size)
        factor = float(torch.linalg.det(matrix[:, :2]).abs())
        share = (areas / (_areas(boxes) * factor).clamp(min=1e-6)).clamp(max=1)
        kept = (share >= self.min_visible) & ((hulls[:, 2:] - hulls[:, :2]) >= self.min_box_size).all(dim=1)
        changed = dict(target)
        changed["boxes"] = hulls
        if "area" in changed:
            changed["area"] = changed["area"] * factor * share
        for key in _PER_OBJECT:
            if key in changed:
                changed[key] = changed[key][kept]
        changed["boxes"] = tv_tensors.BoundingBoxes(
            changed["boxes"], format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size
        )
        return mapped, changed


def map_boxes(boxes: Tensor, matrix: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What remains in the result of mapped boxes.

    Args:
        boxes: float ``[N, 4]`` xyxy.
        matrix: float64 ``[2, 3]``, see :meth:`AffineRange.draw`.
        size: ``(height, width)`` of the result.

    Returns:
        The smallest boxes that hold what is left of the mapped, turned rectangles once they are cut to the result,
        ``[N, 4]``, and the areas that are left, ``[N]``; zeros where nothing is.
    """
    x1, y1, x2, y2 = boxes.double().unbind(1)
    corners = torch.stack((torch.stack((x1, x2, x2, x1), 1), torch.stack((y1, y1, y2, y2), 1)), 2)
    moved = corners @ matrix[:, :2].T + matrix[:, 2]
    height, width = size
    hulls, areas = [], []
    for polygon in moved.tolist():
        for axis, limit, sign in ((0, 0.0, 1), (0, float(width), -1), (1, 0.0, 1), (1, float(height), -1)):
            polygon = _cut(polygon, axis, limit, sign)
        xs, ys = [x for x, _ in polygon] or [0.0], [y for _, y in polygon] or [0.0]
        hulls.append((min(xs), min(ys), max(xs), max(ys)))
        areas.append(abs(sum(x * ys[i - 1] - xs[i - 1] * y for i, (x, y) in enumerate(polygon))) / 2)
    return boxes.new_tensor(hulls).view(-1, 4), boxes.new_tensor(areas)


def _cut(polygon: list[list[float]], axis: int, limit: float, sign: int) -> list[list[float]]:
    """The part of a convex polygon where ``sign * (coordinate - limit) >= 0`` (Sutherland and Hodgman, 1974)."""
    kept = []
    for start, end in zip(polygon[-1:] + polygon[:-1], polygon, strict=True):
        before, after = sign * (start[axis] - limit), sign * (end[axis] - limit)
        if before * after < 0:
            share = before / (before - after)
            crossing = [a + share * (b - a) for a, b in zip(start, end, strict=True)]
            crossing[axis] = limit
            kept.append(crossing)
        if after >= 0:
            kept.append(end)
    return kept


def warp(image: Tensor, matrix: Tensor, size: tuple[int, int], fill: tuple[int, int, int]) -> Tensor:
    """The mapped image, between pixels by bilinear interpolation.

    Args:
        image: uint8 ``[3, H, W]``.
        matrix: float64 ``[2, 3]``, see :meth:`AffineRange.draw`.
        size: ``(height, width)`` of the result.
        fill: colour where there is no image.

    Returns:
        uint8 ``[3, height, width]``.
    """
    colour = torch.tensor(fill, dtype=torch.float32).view(3, 1, 1)
    if torch.equal(matrix[:, :2], torch.eye(2, dtype=matrix.dtype)) and torch.equal(matrix[:, 2], matrix[:, 2].round()):
        left, top = (int(value) for value in matrix[:, 2])
        result = colour.to(torch.uint8).expand(3, *size).clone()
        paste(result, image, top, left)
        return result
    inverse = torch.linalg.inv(matrix[:, :2])
    x = torch.arange(size[1], dtype=torch.float64) + 0.5 - matrix[0, 2]
    y = torch.arange(size[0], dtype=torch.float64)[:, None] + 0.5 - matrix[1, 2]
    columns, rows = (inverse[axis, 0] * x + inverse[axis, 1] * y for axis in (0, 1))
    grid = torch.stack((columns * (2 / image.shape[2]) - 1, rows * (2 / image.shape[1]) - 1), dim=2).float()
    # What lies outside counts as 0, so the colour to be seen there is taken off before.
    sampled = F.grid_sample((image.float() - colour)[None], grid[None], align_corners=False)[0]
    return (sampled + colour).round_().clamp_(0, 255).to(torch.uint8)


def paste(canvas: Tensor, image: Tensor, top: int, left: int) -> None:
    """Copy the part of ``image`` that lies on ``canvas`` when its corner is put at (left, top)."""
    height, width = canvas.shape[1:]
    y1, y2 = max(top, 0), min(top + image.shape[1], height)
    x1, x2 = max(left, 0), min(left + image.shape[2], width)
    if y1 < y2 and x1 < x2:
        canvas[:, y1:y2, x1:x2] = image[:, y1 - top : y2 - top, x1 - left : x2 - left]


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
