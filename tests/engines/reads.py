"""Count what makes the host wait for a device."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torchvision  # noqa: F401  (registers its operators)
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["CountReads"]

# What Python cannot answer before the device has: the value of an element, equality, and shapes that depend on values.
_READS = {
    torch.ops.aten._local_scalar_dense.default: "item",
    torch.ops.aten.equal.default: "equal",
    torch.ops.aten.nonzero.default: "nonzero",
    torch.ops.aten.masked_select.default: "masked_select",
    torch.ops.aten._unique2.default: "unique",
    torch.ops.torchvision.nms.default: "nms",
}


class CountReads(TorchDispatchMode):
    """Counts calls that wait for a device, by kind, as they would be on one."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS:
            self.reads[_READS[func]] += 1
        elif func is torch.ops.aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.reads["boolean index"] += 1
        return func(*args, **(kwargs or {}))
