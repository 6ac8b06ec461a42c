"""Transforms of an image together with its mask: what segmentation and saliency models are trained and evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

__all__ = ["DenseTransform", "saliency_eval", "saliency_train", "segmentation_eval", "segmentation_train"]

# Mean colour of ImageNet in 0..255: what models subtract, so that padding is nothing to them.
_FILL = (124, 116, 104)

# Images longer than so many times what their short side may become are shrunk further: a line of pixels would
# else be blown up without bound.
_LONGEST = 10


class DenseTransform:
    """Transforms of torchvision v2, applied to an image and its mask alike.

    Args:
        transforms: called one after the other as ``transform(image, mask)``.
    """

    def __init__(self, transforms: Sequence[Callable[..., Any]] = ()):
        self.transforms = tuple(transforms)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.transforms)})"

    def __call__(self, image: Any, target: Any) -> tuple[Tensor, Tensor]:
        """Transform an image and its mask, which are left as they are.

        Args:
            image: tensor ``[3, H, W]`` or PIL image.
            target: tensor ``[H, W]`` or ``[1, H, W]``; plain tensors will do.

        Returns:
            The image as tv_tensors.Image and the mask as tv_tensors.Mask, of the mask's dtype.

        Raises:
            ValueError: the mask is no tensor, or of another size than the image.
        """
        # v2 passes by what it does not recognise: a plain mask would stay while the image is mirrored.
        image = F.to_image(image)
        if not isinstance(target, Tensor) or target.shape[-2:] != image.shape[-2:]:
            came = f"{list(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
            raise ValueError(f"the mask of an image {list(image.shape)} must be a tensor of its size, got {came}")
        target = target if isinstance(target, tv_tensors.Mask) else tv_tensors.Mask(target)
        if not self.transforms:
            return image, target
        dtype = target.dtype
        target = _small(target)
        for transform in self.transforms:
            image, target = transform(image, target)
        return tv_tensors.wrap(image.contiguous(), like=image), tv_tensors.wrap(target.to(dtype), like=target)


class _Resize:
    """Scales to a fixed height and width."""

    def __init__(self, size: tuple[int, int]):
        self.size = size

    def __repr__(self) -> str:
        return f"Resize({self.size})"

    def __call__(self, image: Tensor, target: Tensor) -> Any:
        return _resize(image, target, self.size)


class _RandomShortSide:
    """Scales an image so that its shorter side is of a random length."""

    def __init__(self, smallest: int, largest: int):
        self.smallest, self.largest = smallest, largest

    def __repr__(self) -> str:
        return f"RandomShortSide({self.smallest}, {self.largest})"

    def __call__(self, image: Tensor, target: Tensor) -> Any:
        length = int(torch.randint(self.smallest, self.largest + 1, ()))
        height, width = image.shape[-2:]
        shorter, longest = min(height, width), _LONGEST * self.largest
        # The arithmetic of torchvision's resize, which gives images of no height where it is bounded.
        size = (min(max(length * side // shorter, 1), longest) for side in (height, width))
        return _resize(image, target, tuple(size))


def _small(target: Tensor) -> Tensor:
    """The mask in uint8 where that holds its numbers: an eighth of the bytes to move."""
    if target.dtype != torch.int64 or not target.numel():
        return target
    least, most = target.aminmax()
    return tv_tensors.wrap(target.to(torch.uint8), like=target) if least >= 0 and most <= 255 else target


def _resize(image: Tensor, target: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    if size[0] * size[1] > image[0].numel():
        # With the channels of a pixel side by side enlarging is up to three times as fast, and gives the same.
        pixels = image.as_subclass(Tensor)[None].contiguous(memory_format=torch.channels_last)[0]
        image = tv_tensors.wrap(pixels, like=image)
    image = F.resize(image, list(size))
    # What torchvision calls nearest takes the pixel up and to the left of the nearest one: on average masks would be
    # half a pixel off their images.
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * (old / new), old - 1).astype(np.int64)
        for new, old in zip(size, target.shape[-2:], strict=True)
    )
    values = target.as_subclass(Tensor).numpy()[..., columns][..., rows, :]
    return image, tv_tensors.wrap(torch.from_numpy(values), like=target)


def segmentation_train(
    base_size: tuple[int, int] = (260, 1040),
    crop_size: int | tuple[int, int] = 480,
    *,
    hflip: float = 0.5,
    vflip: float = 0.0,
    jitter: float = 0.0,
    fill: Sequence[int] = _FILL,
) -> DenseTransform:
    """Augmentation to train a segmentation model with: scale, mirror, change of colours, crop.

    Args:
        base_size: the shorter side becomes one of the lengths from the first to the second, both included, in
            pixels; the longer one follows. Images are scaled with antialiasing, masks by the nearest pixel.
        crop_size: a part of this size, one number or height and width, is cut out anywhere. Smaller images are
            padded: with ``fill``, their masks with 255.
        hflip: probability of mirroring left and right.
        vflip: probability of mirroring up and down.
        jitter: 0 to 1; brightness, contrast and saturation are each multiplied by a number between 1 - ``jitter`` and
            1 + ``jitter``.
        fill: a colour 0 to 255, the one that becomes 0 by the model's normalisation: by default ImageNet's mean.

    Raises:
        ValueError: an argument is out of its range.
    """
    smallest, largest = base_size
    if not 1 <= smallest <= largest:
        raise ValueError(f"base_size must be two lengths from 1 on, the smaller one first, got {base_size}")
    scale = _RandomShortSide(smallest, largest)
    if not 0 <= jitter <= 1:
        raise ValueError(f"jitter must lie between 0 and 1, got {jitter}")
    colours = [v2.ColorJitter(jitter, jitter, jitter)] if jitter else []
    # The crop comes last: what it pads with keeps its colour.
    return DenseTransform([scale, *_flips(hflip, vflip), *colours, _crop(crop_size, fill, ignored=255)])


def segmentation_eval() -> DenseTransform:
    """What a segmentation model is evaluated on: images and masks as they are, as tensors."""
    return DenseTransform()


def saliency_train(
    resize: int | tuple[int, int] = 320,
    crop: int | tuple[int, int] = 288,
    hflip: float = 0.5,
    *,
    fill: Sequence[int] = _FILL,
) -> DenseTransform:
    """Augmentation to train a saliency model with: a fixed size, whatever the shape was, then crop and mirror.

    Args:
        resize: the size to scale to, one number or height and width, in pixels. Images are scaled with antialiasing,
            masks by the nearest pixel.
        crop: a part of this size is cut out anywhere. Where it is larger than ``resize``, images are padded with
            ``fill``, masks with 0.
        hflip: probability of mirroring left and right.
        fill: a colour 0 to 255.

    Raises:
        ValueError: an argument is out of its range.
    """
    scale = _Resize(_checked_size("resize", resize))
    return DenseTransform([scale, _crop(crop, fill, ignored=0, name="crop"), *_flips(hflip, 0.0)])


def saliency_eval() -> DenseTransform:
    """What a saliency model is evaluated on: images and masks as they are, as tensors."""
    return DenseTransform()


def _flips(hflip: float, vflip: float) -> list[Callable[..., Any]]:
    for name, probability in (("hflip", hflip), ("vflip", vflip)):
        if not 0 <= probability <= 1:
            raise ValueError(f"{name} must be a probability from 0 to 1, got {probability}")
    flips = [v2.RandomHorizontalFlip(hflip)] if hflip else []
    return [*flips, v2.RandomVerticalFlip(vflip)] if vflip else flips


def _crop(size: int | tuple[int, int], fill: Sequence[int], *, ignored: int, name: str = "crop_size") -> v2.RandomCrop:
    if len(fill) != 3 or any(not 0 <= value <= 255 for value in fill):
        raise ValueError(f"fill must be three numbers from 0 to 255, got {fill}")
    fills = {tv_tensors.Image: list(fill), tv_tensors.Mask: ignored}
    return v2.RandomCrop(_checked_size(name, size), pad_if_needed=True, fill=fills)


def _checked_size(name: str, size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"{name} must be at least 1 pixel, got {size}")
    return height, width
