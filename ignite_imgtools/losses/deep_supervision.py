"""The loss of a model that is also told the truth about the maps its output is mixed of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DeepSupervisionLoss"]


class DeepSupervisionLoss(nn.Module):
    """Binary cross-entropy of U2-Net's output and of each of its side maps, all of weight 1: their sum is the loss.

    Shapes:
        ``{"out": logits [B, 1, H, W][, "sides": six logits of that shape]}`` and targets float32 ``[B, 1, H, W]`` in
        0..1 to ``{"loss_fused": scalar[, "loss_side1": scalar, ...]}``, float32 means over pixels and images.
        Without sides, as in evaluation, the first term alone.
    """

    def forward(self, output: Mapping[str, Any], targets: Tensor) -> dict[str, Tensor]:
        named = {"loss_fused": output["out"]}
        named |= {f"loss_side{number}": side for number, side in enumerate(output.get("sides", ()), start=1)}
        return {name: F.binary_cross_entropy_with_logits(logits.float(), targets) for name, logits in named.items()}
