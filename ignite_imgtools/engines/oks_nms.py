"""Which of several poses found in one place are left out: non-maximum suppression by the similarity of keypoints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["COCO_KEYPOINT_SIGMAS", "keypoint_similarity", "oks_nms"]

COCO_KEYPOINT_SIGMAS = tuple(
    value / 1000 for value in (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)
)
"""Standard deviations of COCO's 17 keypoints, relative to the square root of a person's area."""


def keypoint_similarity(keypoints: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """The object keypoint similarity (OKS) of each pose with each, all keypoints counted.

    The mean over the keypoints of ``exp(-distance² / (2 * area * (2 * sigma)²))``, the area being the mean of the two.

    Args:
        keypoints: ``[N, K, 2]`` or ``[N, K, 3]``; x and y in pixels.
        areas: ``[N]`` in square pixels.
        sigmas: ``[K]``.

    Returns:
        ``[N, N]``, symmetric, in 0..1.
    """
    places = keypoints[..., :2]
    squares = (places[:, None] - places[None]).square().sum(dim=-1)
    mean_areas = (areas[:, None] + areas[None]) / 2
    spread = 2 * mean_areas.clamp(min=1e-12)[..., None] * (2 * sigmas).square()
    return torch.exp(-squares / spread).mean(dim=-1)


def oks_nms(
    keypoints: Tensor,
    scores: Tensor,
    areas: Tensor,
    groups: Tensor,
    *,
    threshold: float = 0.9,
    sigmas: Sequence[float] | Tensor = COCO_KEYPOINT_SIGMAS,
) -> Tensor:
    """The poses that are kept: from the highest score downwards, those not too similar to one kept before.

    All images are done in one call, whose result is fetched from the device once.

    Args:
        keypoints: ``[N, K, 2]`` or ``[N, K, 3]``; x and y in pixels.
        scores: ``[N]``; of equal ones the earlier comes first.
        areas: ``[N]`` in square pixels.
        groups: integers ``[N]``: poses of different groups, as images, leave each other alone.
        threshold: a similarity above it is too much.
        sigmas: one for each keypoint, by default those of COCO's.

    Returns:
        bool ``[N]`` on the host, true for those kept.

    Raises:
        ValueError: there is not one of ``sigmas`` for each keypoint.
    """
    if len(sigmas) != keypoints.shape[1]:
        raise ValueError(f"sigmas must have one for each of {keypoints.shape[1]} keypoints, got {len(sigmas)}")
    order = torch.argsort(scores, descending=True, stable=True)
    places = keypoints[order].float()
    spread = torch.as_tensor(sigmas, dtype=torch.float32).to(keypoints.device)
    alike = keypoint_similarity(places, areas[order].float(), spread) > threshold
    alike &= groups[order][:, None] == groups[order][None]
    rivals, ranks = alike.cpu().numpy(), order.cpu().numpy()
    kept = np.zeros(len(ranks), dtype=bool)
    open_ = np.ones(len(ranks), dtype=bool)
    for rank, place in enumerate(ranks):
        if open_[rank]:
            kept[place] = True
            open_ &= ~rivals[rank]
    return torch.from_numpy(kept)
