"""Batches for classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

__all__ = ["collate_classification"]


def collate_classification(samples: Sequence[tuple[Tensor, Any]]) -> tuple[Any, Any]:
    """Make a batch of samples of the same size.

    Args:
        samples: pairs of an image ``[3, H, W]`` and its label, an int or an int64 tensor of no dimension.

    Returns:
        ``(images, labels)``, plain tensors ``[B, 3, H, W]`` of the images' dtype and int64 ``[B]``; ``([], [])`` for
        no samples.

    Raises:
        ValueError: the sizes differ.
    """
    if not samples:
        return [], []
    images = [image.as_subclass(Tensor) for image, _ in samples]
    sizes = {tuple(image.shape[-2:]) for image in images}
    if len(sizes) > 1:
        some = ", ".join(f"{height} x {width}" for height, width in sorted(sizes)[:4])
        raise ValueError(
            f"a batch needs images of one size (height x width), got {some}: crop them all to one size, as "
            "data.transforms.classification_train and classification_eval do"
        )
    return default_collate(images), torch.stack([torch.as_tensor(label, dtype=torch.int64) for _, label in samples])
