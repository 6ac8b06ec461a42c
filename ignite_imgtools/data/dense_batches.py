"""Batches for dense prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import default_collate

__all__ = ["collate_dense", "collate_dense_lists"]


def collate_dense(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Any, Any]:
    """Make a training batch of samples of the same size.

    Args:
        samples: pairs of an image ``[3, H, W]`` and its target ``[H, W]`` or ``[1, H, W]``.

    Returns:
        ``(images, targets)``, plain tensors ``[B, 3, H, W]`` and ``[B, H, W]`` or ``[B, 1, H, W]``, dtypes as they
        were; ``([], [])`` for no samples.

    Raises:
        ValueError: the sizes differ.
    """
    images, targets = collate_dense_lists(samples)
    if not samples:
        return images, targets
    sizes = {tuple(tensor.shape[-2:]) for tensor in (*images, *targets)}
    if len(sizes) > 1:
        some = ", ".join(f"{height} x {width}" for height, width in sorted(sizes)[:4])
        raise ValueError(
            f"a batch needs images and targets of one size (height x width), got {some}: crop them all to one size, "
            "as data.transforms.segmentation_train does, or take collate_dense_lists"
        )
    return default_collate(images), default_collate(targets)


def collate_dense_lists(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Make an evaluation batch of samples that keep their sizes.

    Args:
        samples: pairs of an image ``[3, H, W]`` and its target ``[H, W]`` or ``[1, H, W]``.

    Returns:
        ``(images, targets)``, lists of plain tensors; ``([], [])`` for no samples.
    """
    return [image.as_subclass(Tensor) for image, _ in samples], [target.as_subclass(Tensor) for _, target in samples]
