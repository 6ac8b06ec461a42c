"""The loss of heat-maps: squared errors, weighted joint by joint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["COCO_JOINT_WEIGHTS", "HeatmapLoss"]

COCO_JOINT_WEIGHTS = (1.0,) * 7 + (1.2, 1.2, 1.5, 1.5, 1.0, 1.0, 1.2, 1.2, 1.5, 1.5)
"""Weights for COCO's 17 keypoints that favour the joints hardest to find: elbows and knees 1.2, wrists and ankles 1.5,
as HRNet's authors have them."""


class HeatmapLoss(nn.Module):
    r"""The mean squared error of heat-maps, as a dict of one term.

    With ``e`` the mean over the pixels of the squared error of one joint of one person, and ``w`` the joint's weight,
    0 where it is not annotated:

    .. math:: L = \frac{1}{B} \sum_{b,k} w_{bk} e_{bk}

    Args:
        joint_weights: one for each joint; by default all 1. :data:`COCO_JOINT_WEIGHTS` are for COCO's.
        visibility: what becomes of the flags 1 (annotated, but hidden) and 2 (visible). ``"equal"``: both weigh 1;
            ``"graded"``: the flag is a factor, so that visible joints weigh twice as much as hidden ones.

    Shapes:
        heat-maps and targets ``[B, K, h, w]`` and visibility ``[B, K]`` of 0, 1 and 2 to ``{"loss_heatmap": scalar}``,
        float32; nothing waits for the device.

    Raises:
        ValueError: a weight is negative, or there is not one for each joint, or ``visibility`` is none of the two.

    >>> visibility = torch.tensor([[0.0, 1.0, 2.0]])
    >>> maps = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    >>> HeatmapLoss()(*maps, visibility)["loss_heatmap"].item()
    2.0
    >>> HeatmapLoss(visibility="graded")(*maps, visibility)["loss_heatmap"].item()
    3.0
    """

    joint_weights: Tensor | None

    def __init__(
        self,
        joint_weights: Sequence[float] | Tensor | None = None,
        visibility: Literal["equal", "graded"] = "equal",
    ):
        super().__init__()
        if visibility not in ("equal", "graded"):
            raise ValueError(f"visibility must be 'equal' or 'graded', got {visibility!r}")
        weights = None if joint_weights is None else torch.as_tensor(joint_weights, dtype=torch.float32).clone()
        if weights is not None and not bool((weights >= 0).all()):
            raise ValueError(f"joint_weights must not be negative, got {weights.tolist()}")
        self.register_buffer("joint_weights", weights, persistent=False)
        self.visibility = visibility

    def forward(self, heatmaps: Tensor, targets: Tensor, visibility: Tensor) -> dict[str, Tensor]:
        errors = (heatmaps.float() - targets).square().mean(dim=(2, 3))
        factors = visibility if self.visibility == "graded" else visibility.clamp(max=1)
        weighted = errors * factors
        weights = self.joint_weights
        if weights is not None:
            if len(weights) != errors.shape[1]:
                raise ValueError(
                    f"joint_weights must have one for each of {errors.shape[1]} joints, got {len(weights)}"
                )
            if weights.device != errors.device:
                # Once: a copy in every step would make the host wait.
                self.joint_weights = weights = weights.to(errors.device)
            weighted = weighted * weights
        return {"loss_heatmap": weighted.sum() / max(1, len(errors))}
