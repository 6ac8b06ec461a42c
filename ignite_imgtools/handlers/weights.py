"""The model of a checkpoint, for evaluation and prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ignite_imgtools.handlers.checkpoint_file import CheckpointError, load_checkpoint
from ignite_imgtools.handlers.checkpoint_state import load_item, state_of, tensor_differences

__all__ = ["load_model"]


def load_model(path: str | Path, model: nn.Module, *, name: str = "model", average: bool = True) -> None:
    """Load the weights that were evaluated in a run from its checkpoint into ``model``, all or none.

    Args:
        model: on any device, in its wrapper or without.
        name: under which the model was saved.
        average: take the moving average of the weights where the run kept one, as its evaluations did.

    Raises:
        CheckpointError: the file cannot be read, or does not fit; lists differing keys and shapes.
    """
    state = load_checkpoint(path)
    if name not in state:
        raise CheckpointError(f"{path}: holds no {name!r}, only {', '.join(sorted(state))}")
    weights = _average(state) if average else None
    weights = state[name] if weights is None else weights
    if found := tensor_differences(weights, state_of(model)):
        raise CheckpointError(f"{path}: is of another model, nothing was loaded: {'; '.join(found)}")
    load_item(model, weights)


def _average(state: dict[str, Any]) -> dict[str, Any] | None:
    average = state.get("resumables", {}).get("update", {}).get("ema")
    return None if average is None else average["module"]
