"""The loss of classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ClassificationLoss"]


class ClassificationLoss(nn.Module):
    """Cross-entropy, against a smoothed truth if asked for (Szegedy et al. 2016).

    Called with a model's output ``{"out": logits [B, C]}`` and targets, labels int64 ``[B]`` or shares of the classes
    float32 ``[B, C]`` as mixup has them, it returns ``{"loss_ce": the mean over the images}``.

    Args:
        label_smoothing: ``s``: the true class then counts ``1 - s + s / C``, every other one ``s / C``.

    Raises:
        ValueError: ``label_smoothing`` is not in 0..1.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be 0 or more and below 1, got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(self, output: Mapping[str, Any], targets: Tensor) -> dict[str, Tensor]:
        loss = functional.cross_entropy(output["out"], targets, label_smoothing=self.label_smoothing)
        return {"loss_ce": loss}
