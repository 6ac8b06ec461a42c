"""Parameter groups of an optimizer: parts that learn faster, and parameters that do not decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ignite_imgtools.distributed import unwrap_model

__all__ = ["parameter_groups"]


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    lr_factors: Mapping[str, float] | None = None,
    decay_one_dimensional: bool = True,
) -> list[dict[str, Any]]:
    """The groups to build a ``torch.optim`` optimizer with, of all parameters that are trained.

    Args:
        model: with or without its wrapper.
        lr: learning rate.
        weight_decay: of all groups that decay.
        lr_factors: for parts of the model, by the beginning of their parameters' names as ``{"aux_classifier": 10}``,
            by what ``lr`` is multiplied. A name stands for whole modules: ``"aux"`` is not ``"aux_classifier"``.
        decay_one_dimensional: whether parameters of one dimension, which are biases and the scales of normalisation,
            decay too.

    Returns:
        Up to two groups, with decay and without, for the rest of the model first and then for each of ``lr_factors``;
        schedules scale all of them alike.

    Raises:
        ValueError: a name of ``lr_factors`` is no part of the model with parameters to train, or no parameter is
            trained at all.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    >>> groups = parameter_groups(model, 0.1, 0.01, lr_factors={"1": 10}, decay_one_dimensional=False)
    >>> [(len(group["params"]), group["lr"], group["weight_decay"]) for group in groups]
    [(1, 0.1, 0.01), (1, 0.1, 0.0), (1, 1.0, 0.01), (1, 1.0, 0.0)]
    """
    factors = dict(lr_factors or {})
    members: dict[tuple[str | None, bool], list[nn.Parameter]] = {}
    for name, parameter in unwrap_model(model).named_parameters():
        if parameter.requires_grad:
            part = next((prefix for prefix in factors if f"{name}.".startswith(f"{prefix}.")), None)
            decays = decay_one_dimensional or parameter.ndim > 1
            members.setdefault((part, decays), []).append(parameter)
    if not members:
        raise ValueError("the model has no parameters to train")
    for prefix in factors:
        if not any(part == prefix for part, _ in members):
            raise ValueError(f"lr_factors: {prefix!r} is no part of the model with parameters to train")
    return [
        {
            "params": members[part, decays],
            "lr": lr * (1 if part is None else factors[part]),
            "weight_decay": weight_decay if decays else 0.0,
        }
        for part in (None, *factors)
        for decays in (True, False)
        if (part, decays) in members
    ]
