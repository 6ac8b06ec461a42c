"""The exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ignite_imgtools.distributed import unwrap_model

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    """A second model whose weights are a moving average of the weights of ``model``.

    Parameters and the floating point buffers of the state dict are averaged, other buffers (counters, masks) are
    copied. The average shares no memory with the model.

    Update number ``t`` (from 0) keeps ``min(decay, (t + 1) / (t + warmup))`` of the average: first about the newest
    ``1 / (warmup - 1)`` of all updates count, until the memory of ``1 / (1 - decay)`` updates is reached. So one
    decay serves short and long runs.

    Args:
        model: the model that is trained; wrappers (DistributedDataParallel, ``torch.compile``) are looked through.
        decay: in 0..1, how much of the average one update keeps.
        warmup: above 1; ``None`` keeps ``decay`` from the first update.

    Attributes:
        module: the averaged model, always in evaluation mode.
        num_updates: how many updates were made.

    Raises:
        ValueError: ``decay`` or ``warmup`` is out of range.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9998, warmup: float | None = 10.0):
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be in 0..1, got {decay}")
        if warmup is not None and warmup <= 1:
            raise ValueError(f"warmup must be above 1 or None, got {warmup}")
        self.decay = decay
        self.warmup = warmup
        self.num_updates = 0
        self._model = unwrap_model(model)
        self.module = copy.deepcopy(self._model)
        self.module.zero_grad(set_to_none=True)
        self.module.requires_grad_(False).eval()
        self._sources, self._averages = _TensorSlots(self._model), _TensorSlots(self.module)

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present weights into the average; no device synchronisation."""
        keep = self.decay
        if self.warmup is not None:
            keep = min(keep, (self.num_updates + 1) / (self.num_updates + self.warmup))
        torch._foreach_lerp_(self._averages.averaged(), self._sources.averaged(), 1 - keep)
        for average, source in zip(self._averages.copied(), self._sources.copied(), strict=True):
            average.copy_(source)
        self.num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        """``{"module": the averaged weights, "num_updates": int}``."""
        return {"module": self.module.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self.module.load_state_dict(state["module"])
        self.num_updates = int(state["num_updates"])


class _TensorSlots:
    """Where the tensors of a model are kept: dicts and keys, since a buffer may be replaced by another tensor."""

    def __init__(self, model: nn.Module):
        self._averaged: list[tuple[dict[str, Any], str]] = []
        self._copied: list[tuple[dict[str, Any], str]] = []
        seen: set[int] = set()
        for tensors, name, saved in _tensors(model):
            if id(tensors[name]) in seen:
                continue
            seen.add(id(tensors[name]))
            # What a state dict leaves out would not be the same after a resume; it is constant as a rule.
            mean = saved and tensors[name].is_floating_point()
            (self._averaged if mean else self._copied).append((tensors, name))

    def averaged(self) -> list[Tensor]:
        return [tensors[name] for tensors, name in self._averaged]

    def copied(self) -> list[Tensor]:
        return [tensors[name] for tensors, name in self._copied]


def _tensors(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, bool]]:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield module._parameters, name, True
        for name, buffer in module._buffers.items():
            if buffer is not None:
                yield module._buffers, name, name not in module._non_persistent_buffers_set
