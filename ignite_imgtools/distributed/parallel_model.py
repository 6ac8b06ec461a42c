"""A model on several processes."""

from __future__ import annotations

from typing import Any, cast

import ignite.distributed as idist
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["broadcast_buffers", "create_parallel_model", "unwrap_model"]


def unwrap_model(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel and ``torch.compile`` wrappers, however they are nested."""
    while True:
        if isinstance(model, DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = cast(nn.Module, model._orig_mod)
        else:
            return model


def create_parallel_model(
    model: nn.Module, device: torch.device | str, *, sync_batchnorm: bool = False, **options: Any
) -> nn.Module:
    """Move ``model`` to ``device`` and, with several processes, wrap it in DistributedDataParallel.

    Beside ``idist.auto_model`` it never wraps in DataParallel, which cannot split a list of images, and keeps to the
    CPU where asked to on a machine with GPUs.

    Args:
        sync_batchnorm: replace BatchNorm by SyncBatchNorm; it needs CUDA, and is left out in a single process.
        options: handed to DistributedDataParallel.
    """
    device = torch.device(device)
    model = model.to(device)
    if idist.get_world_size() == 1:
        return model
    if sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    device_ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, **options)


def broadcast_buffers(model: nn.Module) -> None:
    """Give every process the buffers (running statistics) of the main process; call it on all processes."""
    if idist.get_world_size() == 1:
        return
    with torch.no_grad():
        for buffer in unwrap_model(model).buffers():
            torch.distributed.broadcast(buffer, src=0)
