"""Losses of points that a model regresses: Wing and its alternatives."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

__all__ = ["LandmarkLoss", "LandmarkLossKind", "soft_wing", "wing"]

LandmarkLossKind = Literal["wing", "soft_wing", "l1", "smooth_l1", "l2"]


def wing(distance: Tensor, width: float = 10.0, curvature: float = 2.0) -> Tensor:
    """Wing loss (Feng et al. 2018, equation 5): ``w ln(1 + d / e)`` below ``d = w``, ``d - C`` from there on.

    ``C = w - w ln(1 + w / e)`` makes it continuous. Small distances thus have a large gradient, ``w / (e + d)``.

    Args:
        distance: ``d``, 0 or more, in pixels.
        width: ``w``.
        curvature: ``e``.
    """
    offset = width - width * math.log1p(width / curvature)
    return torch.where(distance < width, width * torch.log1p(distance / curvature), distance - offset)


def soft_wing(distance: Tensor, start: float = 2.0, width: float = 20.0, curvature: float = 0.5) -> Tensor:
    """Soft Wing loss (Lin et al. 2021): ``d`` below ``d = s``, ``w ln(1 + d / e) + B`` from there on.

    ``B = s - w ln(1 + s / e)`` makes it continuous. What is almost right, as noise of the annotation, pulls less than
    by :func:`wing`.

    Args:
        distance: ``d``, 0 or more, in pixels.
        start: ``s``.
        width: ``w``.
        curvature: ``e``.
    """
    offset = start - width * math.log1p(start / curvature)
    return torch.where(distance < start, distance, width * torch.log1p(distance / curvature) + offset)


class LandmarkLoss(nn.Module):
    """The sum of a loss over the coordinates of the points of a face, averaged over the faces.

    Called with predicted and true points ``[B, K, 2]`` in pixels of the image that the model was shown and, if not all
    count, ``visible`` ``[B, K]``, above 0 where they do, it returns ``{"loss_<kind>": ...}``. It is computed in
    float32, whatever the model computes in: half precision knows a coordinate of 200 pixels to an eighth at best.

    Args:
        kind: ``"wing"``, ``"soft_wing"``, ``"l1"`` (``d``), ``"smooth_l1"`` (``d^2 / 2`` below 1, ``d - 1/2`` from
            there on) or ``"l2"`` (``d^2``), of the distance ``d`` in each coordinate.
        width: of Wing.
        curvature: of Wing.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, kind: LandmarkLossKind = "wing", *, width: float = 10.0, curvature: float = 2.0):
        super().__init__()
        if kind not in get_args(LandmarkLossKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(LandmarkLossKind))}, got {kind!r}")
        if not (width > 0 and curvature > 0):
            raise ValueError(f"width and curvature must be above 0, got {width} and {curvature}")
        self.kind, self.width, self.curvature = kind, width, curvature

    def forward(self, points: Tensor, truth: Tensor, visible: Tensor | None = None) -> dict[str, Tensor]:
        if points.ndim != 3 or points.shape[2] != 2 or points.shape != truth.shape:
            raise ValueError(
                f"predicted and true points must both be [B, K, 2], got {list(points.shape)} and {list(truth.shape)}"
            )
        with torch.autocast(points.device.type, enabled=False):
            points, truth = points.float(), truth.float()
            if visible is not None:
                # Put where they were predicted, points that do not count have no gradient, whatever the truth says.
                truth = torch.where(visible[..., None] > 0, truth, points.detach())
            values = self._of_distance((points - truth).abs())
            return {f"loss_{self.kind}": values.sum() / max(len(points), 1)}

    def _of_distance(self, distance: Tensor) -> Tensor:
        if self.kind == "wing":
            return wing(distance, self.width, self.curvature)
        if self.kind == "soft_wing":
            return soft_wing(distance)
        if self.kind == "smooth_l1":
            return torch.where(distance < 1, distance.square() / 2, distance - 0.5)
        return distance.square() if self.kind == "l2" else distance
