"""Dense models that take milliseconds, and batches for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["TinySegmenter", "dense_loss", "saliency_lists", "segmentation_batch", "segmentation_lists"]


class TinySegmenter(nn.Module):
    """Three layers, at half the resolution; its answers depend on a neighbourhood of 9 pixels."""

    def __init__(self, num_classes: int = 3, *, aux: bool = False, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(dropout))
        self.head = nn.Conv2d(6, num_classes, 3, padding=1)
        self.aux_classifier = nn.Conv2d(6, num_classes, 1) if aux else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.features(images)
        output = {"out": self._enlarged(self.head(features), images)}
        if self.aux_classifier is not None and self.training:
            output["aux"] = self._enlarged(self.aux_classifier(features), images)
        return output

    @staticmethod
    def _enlarged(logits: Tensor, images: Tensor) -> Tensor:
        return functional.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


def dense_loss(output: dict[str, Any], targets: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, or its binary form for maps; the head aside counts half."""
    if targets.is_floating_point():
        return {"loss_bce": functional.binary_cross_entropy_with_logits(output["out"], targets)}
    terms = {"loss_ce": functional.cross_entropy(output["out"], targets, ignore_index=255)}
    if "aux" in output:
        terms["loss_aux"] = 0.5 * functional.cross_entropy(output["aux"], targets, ignore_index=255)
    return terms


def segmentation_lists(
    count: int, first: int = 0, num_classes: int = 3, ignored: float = 0.1
) -> tuple[list[Tensor], list[Tensor]]:
    """Images of different sizes, by number, and targets that can be told from their colours."""
    images, targets = [], []
    for number in range(first, first + count):
        generator = torch.Generator().manual_seed(number)
        height, width = (int(side) for side in torch.randint(17, 40, (2,), generator=generator))
        target = torch.randint(0, num_classes, (height // 4 + 1, width // 4 + 1), generator=generator)
        target = target.repeat_interleave(4, 0).repeat_interleave(4, 1)[:height, :width].contiguous()
        noise = torch.randint(0, 60, (3, height, width), generator=generator)
        images.append((noise + 60 * target + 20 * torch.arange(3)[:, None, None]).to(torch.uint8))
        target[torch.rand(height, width, generator=generator) < ignored] = 255
        targets.append(target)
    return images, targets


def segmentation_batch(count: int, first: int = 0, size: int = 16) -> tuple[Tensor, Tensor]:
    """A training batch: the upper left corners of :func:`segmentation_lists`."""
    images, targets = segmentation_lists(count, first)
    return torch.stack([i[:, :size, :size] for i in images]), torch.stack([t[:size, :size] for t in targets])


def saliency_lists(count: int, first: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Images of different sizes and maps of 0 and 1."""
    images, targets = segmentation_lists(count, first, num_classes=2, ignored=0.0)
    return images, [target[None].float() for target in targets]
