"""Transforms of an image that leave its label alone: what classifiers are trained and evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

__all__ = ["ClassificationTransform", "classification_eval", "classification_train"]

# Of images that are longer than so many times their short side the middle is shown: scaling such a strip would
# else need memory without bound.
_LONGEST = 10


class ClassificationTransform:
    """Transforms of torchvision v2, applied to an image; its label passes by.

    Args:
        transforms: called one after the other as ``transform(image)``.
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]] = ()):
        self.transforms = tuple(transforms)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.transforms)})"

    def __call__(self, image: Any, label: Any) -> tuple[Tensor, Any]:
        """Transform an image, tensor ``[3, H, W]`` or PIL image, which is left as it is."""
        image = F.to_image(image)
        for transform in self.transforms:
            image = transform(image)
        return tv_tensors.wrap(image.contiguous(), like=image), label


def classification_train(
    size: int = 224,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    hflip: float = 0.5,
    vflip: float = 0.0,
) -> ClassificationTransform:
    """Augmentation to train a classifier with: a random part of the image, scaled to a square, mirrored or not.

    Args:
        size: side of the square in pixels.
        scale: the part's share of the image's area, from the first number to the second.
        ratio: the part's width to its height, from the first number to the second.
        hflip: probability of mirroring left and right.
        vflip: probability of mirroring up and down.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check_size("size", size)
    for name, value, most in (("scale", scale, 1.0), ("ratio", ratio, float("inf"))):
        if not 0 < value[0] <= value[1] <= most:
            raise ValueError(f"{name} must be two numbers above 0, the smaller one first, got {value}")
    for name, probability in (("hflip", hflip), ("vflip", vflip)):
        if not 0 <= probability <= 1:
            raise ValueError(f"{name} must be a probability from 0 to 1, got {probability}")
    crop = v2.RandomResizedCrop(size, scale, ratio, antialias=True)
    return ClassificationTransform([crop, v2.RandomHorizontalFlip(hflip), v2.RandomVerticalFlip(vflip)])


def classification_eval(size: int = 224, resize: int = 256) -> ClassificationTransform:
    """What a classifier is evaluated on: the short side scaled to ``resize`` pixels, and the middle of the image.

    Args:
        size: side of the square that is cut out, in pixels.
        resize: length that the short side becomes, at least ``size``.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check_size("size", size)
    if resize < size:
        raise ValueError(f"resize must be at least size, {size}, so that the square lies in the image, got {resize}")
    return ClassificationTransform([_middle, v2.Resize(resize, antialias=True), v2.CenterCrop(size)])


def _middle(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    longest = _LONGEST * min(height, width)
    return image if max(height, width) <= longest else F.center_crop(image, [min(height, longest), min(width, longest)])


def _check_size(name: str, size: int) -> None:
    if size < 1:
        raise ValueError(f"{name} must be at least 1 pixel, got {size}")
