"""Batches mixed with themselves: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.transforms import v2

__all__ = ["Mixing", "create_mixing"]

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From images ``[B, 3, H, W]`` and labels int64 ``[B]`` to mixed images and shares of the classes ``[B, C]``."""


def create_mixing(num_classes: int, *, mixup: float = 0.0, cutmix: float = 0.0) -> Mixing | None:
    """Mix each image of a batch with the one before it.

    What is drawn comes from torch's generator of the CPU: in a training step it depends on seed, iteration and rank
    alone, and nothing waits for a device.

    Args:
        num_classes: C.
        mixup: ``alpha`` of mixup, which blends whole images; 0 for none.
        cutmix: ``alpha`` of CutMix, which puts a rectangle of one image into the other; 0 for none. With both, each
            batch gets one of them, as likely as the other.

    Returns:
        The function, for :func:`~ignite_imgtools.engines.classification_training_step`; ``None`` where both are 0.

    Raises:
        ValueError: an argument is negative.
    """
    for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
        if not alpha >= 0:
            raise ValueError(f"{name} must be 0 or more, got {alpha}")
    transforms = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []
    transforms += [v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix else []
    if not transforms:
        return None
    return transforms[0] if len(transforms) == 1 else v2.RandomChoice(transforms)
