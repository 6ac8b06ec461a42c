"""Logits and true classes of images of several sizes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["random_maps"]


def random_maps(
    num_classes: int = 5, images: int = 4, seed: int = 0, classes: int | None = None, ignored: float = 0.2
) -> tuple[list[Tensor], list[Tensor]]:
    """Logits ``[1, C, H, W]`` and true classes ``[1, H, W]`` below ``classes``, a part of them 255."""
    generator = torch.Generator().manual_seed(seed)
    logits, truth = [], []
    for _ in range(images):
        height, width = torch.randint(1, 9, (2,), generator=generator).tolist()
        logits.append(torch.randn(1, num_classes, height, width, generator=generator))
        true = torch.randint(0, classes or num_classes, (1, height, width), generator=generator)
        true[torch.rand(true.shape, generator=generator) < ignored] = 255
        truth.append(true)
    return logits, truth
