"""Weights that another program has trained become a checkpoint of a recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from torch import nn

from ignite_imgtools.engines import GradientUpdate
from ignite_imgtools.formats import resumables
from ignite_imgtools.handlers import save_checkpoint
from ignite_imgtools.handlers.checkpoint_state import state_of
from ignite_imgtools.models.weights import LoadedWeights
from ignite_imgtools.recipes.config import ConfigError
from ignite_imgtools.recipes.records import RecipeRecord

__all__ = ["WeightsImport"]


@dataclasses.dataclass(frozen=True)
class WeightsImport:
    """Write the model of a recipe, with the record that ``evaluate`` and ``predict`` read, and nothing of a training.

    Args:
        out: file to write.
        settings: what the record says instead of what the trainer was made with.
        reports: of the weights that have been loaded since the recipe began.
    """

    out: Path
    settings: dict[str, Any]
    reports: list[LoadedWeights]

    def run(self, trainer: Engine, loader: Any, model: nn.Module, update: GradientUpdate) -> None:
        """Write the file.

        Raises:
            ConfigError: the weights are not those of all of the model.
            CheckpointError: it cannot be written.
        """
        report = self.reports[-1]
        if report.missing or report.other_shape:
            raise ConfigError(
                f"{report}: these are not the weights of all of this model, and nothing is written; give the flags and "
                "the --data that they were trained with"
            )
        record: RecipeRecord = resumables(trainer)["recipe"]
        record = dataclasses.replace(record, config=dataclasses.replace(record.config, **self.settings))
        self.out.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint({"model": state_of(model), "resumables": {"recipe": record.state_dict()}}, self.out)
