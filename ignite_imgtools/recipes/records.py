"""What a recipe writes into its checkpoints, so that the same model can be built from them again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ignite_imgtools.handlers import load_checkpoint
from ignite_imgtools.recipes.config import ConfigError, RunConfig, config_from_dict, config_to_dict

__all__ = ["RecipeRecord"]


@dataclasses.dataclass(frozen=True)
class RecipeRecord:
    """What a checkpoint says of the run that wrote it: enough to build the same model again."""

    name: str
    config: RunConfig
    class_names: list[str]
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What else of the data set the model needs to be applied, such as the names of keypoints; as json has it."""

    @classmethod
    def from_checkpoint(cls, checkpoint: Path, name: str, kind: type[RunConfig]) -> RecipeRecord:
        """The record in the file ``checkpoint``; its ``output_dir`` is the run folder that the file lies in.

        Raises:
            CheckpointError: the file is no good checkpoint.
            ConfigError: it is a checkpoint of another recipe, or of a script without one.
        """
        resumables = load_checkpoint(checkpoint).get("resumables")
        record = resumables.get("recipe") if isinstance(resumables, dict) else None
        if not isinstance(record, dict):
            raise ConfigError(f"{checkpoint}: not written by a recipe, so its model is not known; use it in a script")
        if record.get("name") != name:
            raise ConfigError(f"{checkpoint}: a checkpoint of the recipe {record.get('name')}, not of {name}")
        names: Any = record.get("class_names")
        details = record.get("details", {})
        named = isinstance(names, list) and all(isinstance(entry, str) for entry in names)
        if not named or not isinstance(details, dict) or not isinstance(record.get("config"), dict):
            raise ConfigError(f"{checkpoint}: what it says of its run is no record of a recipe; use it in a script")
        try:
            config = config_from_dict(kind, record["config"])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{checkpoint}: settings of its run cannot be used: {error}") from error
        config = dataclasses.replace(
            config, output_dir=checkpoint.absolute().parent.parent, weights="none", resume="auto"
        )
        return cls(name, config, names, details)

    def state_dict(self) -> dict[str, Any]:
        state = {"name": self.name, "config": config_to_dict(self.config), "class_names": self.class_names}
        return {**state, "details": self.details} if self.details else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore: the record describes the run, the run folder has checked that it is the same."""
