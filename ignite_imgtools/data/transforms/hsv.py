"""Random changes of hue, saturation and brightness."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

__all__ = ["HsvJitter", "scale_hsv"]


class HsvJitter:
    """Hue, saturation and value of all pixels, each changed by a factor that is drawn for the image.

    A factor is drawn from ``1 - x`` to ``1 + x``; the hue, a number from 0 (red) over 1/3 (green) to 1, is moved by
    ``-hue`` to ``hue``. Takes 3 numbers from torch's generator.

    Args:
        hue: the defaults of all three are those of YOLOv3's recipe.
        saturation: from 0 to 1.
        value: from 0 to 1.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, hue: float = 0.0138, saturation: float = 0.678, value: float = 0.36):
        for name, number, limit in (("hue", hue, 0.5), ("saturation", saturation, 1.0), ("value", value, 1.0)):
            if not 0 <= number <= limit:
                raise ValueError(f"{name} must be from 0 to {limit:g}, got {number}")
        self.hue, self.saturation, self.value = hue, saturation, value

    def __repr__(self) -> str:
        return f"{type(self).__name__}(hue={self.hue}, saturation={self.saturation}, value={self.value})"

    def __call__(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
        """Change an image, uint8 ``[3, H, W]``; the target stays as it is."""
        hue, saturation, value = (torch.rand(3) * 2 - 1).tolist()
        plain = image.as_subclass(Tensor)
        changed = scale_hsv(plain, hue * self.hue, 1 + saturation * self.saturation, 1 + value * self.value)
        return tv_tensors.Image(changed), target


def scale_hsv(image: Tensor, hue_shift: float, saturation: float, value: float) -> Tensor:
    """Move the hue, and multiply saturation and value, both of which stay within 0..1.

    Args:
        image: uint8 ``[3, H, W]``, RGB.
        hue_shift: in turns around the circle of colours.
        saturation: factor, at least 0.
        value: factor, at least 0.

    Returns:
        uint8 ``[3, H, W]``.
    """
    rgb = image.float()
    brightest, darkest = rgb.amax(dim=0), rgb.amin(dim=0)
    chroma = brightest - darkest
    red, green, blue = rgb
    safe = chroma.clamp(min=1e-6)
    # Sixths of the circle, by the colour that is the brightest; where all are equal there is no hue, and no chroma.
    sector = torch.where(
        brightest == red,
        (green - blue) / safe,
        torch.where(brightest == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = (sector + 6 * hue_shift) % 6
    bright = (brightest * value).clamp(max=255)
    strength = (chroma / brightest.clamp(min=1e-6) * saturation).clamp(max=1) * bright
    offsets = torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1)
    ramp = (offsets + sector) % 6
    ramp = torch.minimum(ramp, 4 - ramp).clamp(0, 1)
    return (bright - strength * ramp).round().to(torch.uint8)
