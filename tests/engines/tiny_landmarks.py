"""A model of points so small that a step takes a millisecond."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TinyPoints", "landmark_batch"]


class TinyPoints(nn.Module):
    """From images to ``num_points`` points, with weights drawn from a seed."""

    def __init__(self, num_points: int = 5, dropout: float = 0.0):
        super().__init__()
        torch.manual_seed(3)
        layers = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()]
        self.layers = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(72, 2 * num_points))

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.layers(images)
        return output.unflatten(1, (-1, 2))


def landmark_batch(count: int, seed: int = 0, num_points: int = 5) -> tuple[Tensor, dict[str, object]]:
    """Crops of 24 x 16 pixels (height x width) that were cut out of images at twice their size, from (5, 7) on."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 24, 16), generator=generator).to(torch.uint8)
    points = torch.rand(count, num_points, 2, generator=generator) * torch.tensor([16.0, 24.0])
    to_image = torch.tensor([[2.0, 0.0, 5.0], [0.0, 2.0, 7.0]], dtype=torch.float64).repeat(count, 1, 1)
    return images, {
        "points": points,
        "image_points": 2 * points + torch.tensor([5.0, 7.0]),
        "boxes": torch.tensor([[5.0, 7.0, 37.0, 55.0]]).repeat(count, 1),
        "to_image": to_image,
        "image_id": [100 * seed + number for number in range(count)],
    }
