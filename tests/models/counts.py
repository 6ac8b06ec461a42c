"""How large models are."""

from __future__ import annotations

from torch import nn

__all__ = ["parameter_count", "removed_biases"]


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def removed_biases(model: nn.Module) -> int:
    """The biases that the convolutions of a model would have if none were left out."""
    return sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is None)
