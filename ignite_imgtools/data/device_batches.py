"""Batches on their way to a GPU, while it is still at work on the step before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ignite_imgtools.data.batch_packing import rebuild

__all__ = ["BatchMover"]


class BatchMover:
    """Moves the images of batches to a device without waiting for it.

    Targets stay in host memory, where a training step looks at them before it moves them. To a CUDA device they are
    copied on a stream of their own: the host, which waits for nothing in a training step, is ahead of the device, and
    so a batch is copied while the device computes the step before. What the current stream does from then on waits for
    the copies. From page-locked memory the host does not wait for them either.

    Args:
        device: where to; images are looked for in lists, tuples and dicts.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, batch: Any) -> Any:
        """The batch ``(images, targets)`` with its images on the device; of a batch of another form all tensors."""
        if isinstance(batch, tuple) and len(batch) == 2:
            return self._move(batch[0]), batch[1]
        return self._move(batch)

    def _move(self, images: Any) -> Any:
        if self.device.type != "cuda":
            return _with_tensors(images, lambda tensor: tensor.to(self.device, non_blocking=True))
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        current = torch.cuda.current_stream(self.device)

        def move(tensor: Tensor) -> Tensor:
            moved = tensor.to(self.device, non_blocking=True)
            moved.record_stream(current)  # its memory is not given away before the step is done with it
            return moved

        with torch.cuda.stream(self._stream):
            moved = _with_tensors(images, move)
        current.wait_stream(self._stream)
        return moved


def _with_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    return rebuild(value, lambda part: _with_tensors(part, function))
