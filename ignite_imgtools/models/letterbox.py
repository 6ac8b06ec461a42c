"""Images of any size in one batch: scaled to a common size, in the middle of a grey frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Placement", "letterbox"]

_GREY = 114 / 255


class Placement(NamedTuple):
    """Where an image lies in its batch: pixel ``(x, y)`` of it is at ``(x * scale_x + left, y * scale_y + top)``."""

    scale_x: float
    scale_y: float
    left: int
    top: int

    def to_batch(self, boxes: Tensor) -> Tensor:
        """Boxes of the image, ``[N, 4]`` xyxy in pixels, as boxes in the batch."""
        x1, y1, x2, y2 = boxes.unbind(1)
        # Column by column with Python's numbers: a tensor of them would have to be copied to the device.
        return torch.stack(
            (
                x1 * self.scale_x + self.left,
                y1 * self.scale_y + self.top,
                x2 * self.scale_x + self.left,
                y2 * self.scale_y + self.top,
            ),
            dim=1,
        )

    def to_image(self, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Boxes in the batch as boxes of the image, clipped to its ``(height, width)``."""
        height, width = image_size
        x1, y1, x2, y2 = boxes.unbind(1)
        return torch.stack(
            (
                ((x1 - self.left) / self.scale_x).clamp(0, width),
                ((y1 - self.top) / self.scale_y).clamp(0, height),
                ((x2 - self.left) / self.scale_x).clamp(0, width),
                ((y2 - self.top) / self.scale_y).clamp(0, height),
            ),
            dim=1,
        )


def letterbox(images: Sequence[Tensor], size: int, divisor: int = 32) -> tuple[Tensor, list[Placement]]:
    """Scale each image so that its longer side measures ``size``, and put it into the middle of a grey frame.

    The frame is the smallest whose sides are multiples of ``divisor`` and that holds all images: images of one shape
    carry hardly any. The arithmetic of the sizes is that of
    :func:`ignite_imgtools.data.padded_shapes` with ``min_size = max_size = size``.

    Args:
        images: each float ``[3, H, W]`` in 0..1, all on one device.
        size: in pixels.
        divisor: in pixels.

    Returns:
        The batch, float ``[B, 3, H', W']``, and where each image lies in it.
    """
    scaled = [_scale(image, size) for image in images]
    height, width = (-(-max(image.shape[side] for image in scaled) // divisor) * divisor for side in (1, 2))
    batch = images[0].new_full((len(images), 3, height, width), _GREY)
    placements = []
    for index, (image, small) in enumerate(zip(images, scaled, strict=True)):
        top, left = (height - small.shape[1]) // 2, (width - small.shape[2]) // 2
        batch[index, :, top : top + small.shape[1], left : left + small.shape[2]] = small
        placements.append(Placement(small.shape[2] / image.shape[2], small.shape[1] / image.shape[1], left, top))
    return batch, placements


def _scale(image: Tensor, size: int) -> Tensor:
    height, width = image.shape[1:]
    scale = size / max(height, width)
    wanted = max(1, int(height * scale)), max(1, int(width * scale))
    if wanted == (height, width):
        return image
    # Without antialiasing small objects would flicker where large images shrink; for larger ones it changes nothing.
    return F.interpolate(image[None], wanted, mode="bilinear", antialias=True)[0]
