"""What a recipe writes into its checkpoints, so that the same model can be built from them again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite_imgtools.data.detection_table import BACKGROUND
from ignite_imgtools.handlers import load_checkpoint
from ignite_imgtools.recipes.config import ConfigError, RunConfig, config_from_dict, config_to_dict

__all__ = ["RecipeRecord"]

_MAX_NAMES = 8


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
        if not _is_record(record) or not isinstance(record.get("config"), dict):
            raise ConfigError(f"{checkpoint}: what it says of its run is no record of a recipe; use it in a script")
        try:
            config = config_from_dict(kind, record["config"])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{checkpoint}: settings of its run cannot be used: {error}") from error
        config = dataclasses.replace(
            config, output_dir=checkpoint.absolute().parent.parent, weights="none", resume="auto"
        )
        return cls(name, config, record["class_names"], record.get("details", {}))

    def difference(self, class_names: Sequence[str], details: Mapping[str, Any] | None = None) -> str:
        """In what a data set means something else by a model's outputs than this run does; empty if in nothing.

        Args:
            class_names: of the data set, and
            details: what a record of a run on it would have. What they name goes before the classes, which are then
                no outputs of the model.
        """
        details = details or {}
        if "num_points" in details:
            known, found = self.details.get("num_points"), details["num_points"]
            return "" if known == found else f"knows {known} points of a face, the data set has {found}"
        if "names" in details:
            return _name_difference(("keypoint", "keypoints"), self.details.get("names", []), details["names"])
        return _name_difference(("class", "classes"), self.class_names, class_names)

    def refuse_other_data(
        self, checkpoint: Path, class_names: Sequence[str], details: Mapping[str, Any] | None = None
    ) -> None:
        """Refuse to evaluate ``checkpoint``, which holds this record, on a data set in which a number stands for
        another class: the model would run, and be measured by what it was never taught.

        Raises:
            ConfigError: says what the checkpoint knows and what the data set has.
        """
        if found := self.difference(class_names, details):
            raise ConfigError(f"{checkpoint}: {found}; give --data with the same ones in the same order")

    def state_dict(self) -> dict[str, Any]:
        state = {"name": self.name, "config": config_to_dict(self.config), "class_names": self.class_names}
        return {**state, "details": self.details} if self.details else state

    def check_state_dict(self, state: Any) -> list[str]:
        """Why a run on the data set of this record cannot go on from one that has written ``state``."""
        if not _is_record(state):
            return ["what the file says of its run is no record of a recipe"]
        saved = dataclasses.replace(self, class_names=state["class_names"], details=state.get("details", {}))
        found = saved.difference(self.class_names, self.details)
        return [f"the checkpoint {found}"] if found else []

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore: the record describes the run, the run folder has checked that it is the same."""


def _is_record(state: Any) -> bool:
    """Whether ``state`` says what a recipe's model was taught."""
    if not isinstance(state, dict) or not isinstance(state.get("details", {}), dict):
        return False
    names = state.get("class_names")
    return isinstance(names, list) and all(isinstance(entry, str) for entry in names)


def _name_difference(kind: tuple[str, str], known: Sequence[str], found: Sequence[str]) -> str:
    """How the names of a data set are others than those that a checkpoint knows; empty if they are the same.

    Args:
        kind: what is named: one of them, and several.
    """
    # The background of a detector is no class that anybody has named.
    known, found = ([name for name in names if name != BACKGROUND] for names in (known, found))
    if known == found:
        return ""
    shown_known, shown_found = _excerpts(known, found)
    knows = f"knows {len(known)} {kind[len(known) != 1]} ({shown_known}), the data set has"
    if sorted(known) == sorted(found):
        return f"{knows} them in another order ({shown_found})"
    return f"{knows} {len(found)} ({shown_found})"


def _excerpts(*lists: Sequence[str]) -> list[str]:
    """The same places of lists of names for people to compare: the first ones, or those from the first that differs."""
    first = next((i for i, names in enumerate(zip(*lists, strict=False)) if len(set(names)) > 1), min(map(len, lists)))
    start = 0 if first < _MAX_NAMES else min(first, max(map(len, lists)) - _MAX_NAMES)
    stop = start + _MAX_NAMES
    return [", ".join([*["..."] * (start > 0), *names[start:stop], *["..."] * (len(names) > stop)]) for names in lists]
