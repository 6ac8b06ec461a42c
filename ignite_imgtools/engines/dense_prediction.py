"""Ways to ask a dense model: mirrored too, in windows, at another size.

Each takes a function from images ``[B, 3, H, W]`` to logits ``[B, C, H, W]`` and returns another one, so they nest.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["flipped", "resized", "sliding_window", "window_starts"]

Predict = Callable[[Tensor], Tensor]


def flipped(predict: Predict) -> Predict:
    """The mean of what ``predict`` says of an image and of its mirror image, turned back."""

    def both(images: Tensor) -> Tensor:
        return (predict(images) + predict(images.flip(-1)).flip(-1)) / 2

    return both


def sliding_window(predict: Predict, window: int | tuple[int, int], overlap: float = 1 / 3) -> Predict:
    """``predict`` on windows that cover the image, its logits averaged where they overlap.

    An image that is no larger than the window is not cut; one that is larger in a single direction is cut in that.

    Args:
        window: height and width in pixels, or one number for both.
        overlap: the least share of a window that its neighbour covers too, from 0 to below 1. Windows are spread
            evenly, the last one ending where the image does.

    Raises:
        ValueError: an argument is out of range.
    """
    height, width = (window, window) if isinstance(window, int) else window
    if height < 1 or width < 1:
        raise ValueError(f"window must be at least 1 pixel, got {height} x {width}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be in 0..1, below 1, got {overlap}")

    def in_windows(images: Tensor) -> Tensor:
        rows = window_starts(images.shape[-2], height, overlap)
        columns = window_starts(images.shape[-1], width, overlap)
        if len(rows) == len(columns) == 1:
            return predict(images)
        total, count = None, images.new_zeros(images.shape[-2:])
        for top in rows:
            for left in columns:
                part = (slice(top, top + height), slice(left, left + width))
                logits = predict(images[(..., *part)])
                if total is None:
                    total = logits.new_zeros(*logits.shape[:2], *images.shape[-2:])
                total[(..., *part)] += logits
                count[part] += 1
        assert total is not None  # there is a window
        return total.div_(count)

    return in_windows


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin that cover ``length`` pixels: as few as overlap by the share ``overlap``, spread evenly.

    >>> window_starts(100, 40, 0.25), window_starts(40, 40, 0.25), window_starts(41, 40, 0.0)
    ([0, 30, 60], [0], [0, 1])
    """
    if length <= window:
        return [0]
    step = max(1.0, window * (1 - overlap))
    gaps = math.ceil((length - window) / step)
    return [round(i * (length - window) / gaps) for i in range(gaps + 1)]


def resized(predict: Predict, resize: int | tuple[int, int], *, back: bool = True) -> Predict:
    """``predict`` on images of another size.

    Args:
        resize: height and width that images are resized to, or the length of their short side, the other one in
            proportion; in pixels.
        back: bring the logits back to the size that the images came in.

    Raises:
        ValueError: a length is below 1.
    """
    if min((resize,) if isinstance(resize, int) else resize) < 1:
        raise ValueError(f"resize must be at least 1 pixel, got {resize}")

    def at_size(images: Tensor) -> Tensor:
        own = (images.shape[-2], images.shape[-1])
        logits = predict(_interpolate(images, _size_for(own, resize)))
        return _interpolate(logits, own) if back else logits

    return at_size


def _size_for(own: tuple[int, int], resize: int | tuple[int, int]) -> tuple[int, int]:
    if not isinstance(resize, int):
        return resize
    height, width = own
    # Rounded down, as torchvision's Resize has it.
    return (resize, resize * width // height) if height <= width else (resize * height // width, resize)


def _interpolate(values: Tensor, size: tuple[int, int]) -> Tensor:
    if values.shape[-2:] == torch.Size(size):
        return values
    # Antialiasing takes every pixel into account where a picture is made smaller, as the resize in training does.
    smaller = size[0] < values.shape[-2] or size[1] < values.shape[-1]
    return functional.interpolate(values, size, mode="bilinear", align_corners=False, antialias=smaller)
