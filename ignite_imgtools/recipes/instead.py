"""What a recipe can do instead of training, once all that a training needs is there."""

from __future__ import annotations

from typing import Any, Protocol

from ignite.engine import Engine
from torch import nn

from ignite_imgtools.engines import GradientUpdate

__all__ = ["Instead"]


class Instead(Protocol):
    """The second argument of a recipe's ``train``."""

    def run(self, trainer: Engine, loader: Any, model: nn.Module, update: GradientUpdate) -> None:
        """Called on every process with a trainer that has not run, whose record is registered with it."""
