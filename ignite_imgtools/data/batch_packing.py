"""Batches of many tensors, as they travel from a loader worker: in one piece of shared memory.

Each tensor that a worker process hands over on its own is a file that is opened, sent and mapped: for a batch of eight
images with their targets some forty of them, which take longer than to decode a JPEG, and count against the limit of
open files.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torch.utils.data._utils.pin_memory import pin_memory

__all__ = ["PackedBatch", "pack_batch", "rebuild"]

_ALIGNMENT = 64  # bytes; of every dtype, and of vector instructions
# Smaller tensors travel with the message. They are kept apart from the large ones, too, so that who keeps the boxes
# of an image does not keep all images of its batch.
_SMALL = 2**14  # bytes
# Those that have a kernel to copy; quantised and sub-byte ones are rare in batches.
_DTYPES = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128),
}


class _Place(NamedTuple):
    """Where a tensor is: in the large buffer or the small one, and at which byte."""

    large: bool
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor_in(self, buffer: Tensor) -> Tensor:
        start = self.offset // self.dtype.itemsize
        return torch.empty(0, dtype=self.dtype).set_(buffer.untyped_storage(), start, self.shape, self.stride)


class PackedBatch:
    """What :func:`pack_batch` makes of a batch; :meth:`unpack` gives it back."""

    def __init__(self, content: Any, small: np.ndarray, large: Tensor | None):
        self._content, self._small, self._large = content, small, large

    def unpack(self) -> Any:
        """The batch, in memory that is its own."""
        return self._with_tensors_in(torch.from_numpy(self._small), self._large)

    def pin_memory(self) -> Any:
        """The batch in page-locked memory; a ``DataLoader`` that pins calls it."""
        large = None if self._large is None else self._large.pin_memory()
        return self._with_tensors_in(torch.from_numpy(self._small).pin_memory(), large, pin_memory)

    def _with_tensors_in(
        self, small: Tensor, large: Tensor | None, other: Callable[[Any], Any] = lambda value: value
    ) -> Any:
        def restore(value: Any) -> Any:
            if type(value) is _Place:
                return value.tensor_in(large if value.large and large is not None else small)
            return rebuild(value, restore) if type(value) in (list, tuple, dict) else other(value)

        return restore(self._content)


def pack_batch(batch: Any) -> Any:
    """Gather the tensors of a batch in shared memory, in a loader worker; elsewhere the batch stays as it is.

    Tensors are looked for in lists, tuples and dicts. What is no plain strided tensor on the CPU, or in another
    container, travels by itself. A tensor without gaps keeps its strides, others become contiguous.

    Returns:
        A :class:`PackedBatch`, or the batch itself.
    """
    if get_worker_info() is None:
        return batch
    found: list[tuple[_Place, Tensor]] = []
    ends = [0, 0]  # of what is in the small and in the large buffer

    def replace(value: Any) -> Any:
        if type(value) is not Tensor:
            return rebuild(value, replace)
        if value.dtype not in _DTYPES or not value.is_cpu or value.layout != torch.strided or value.is_nested:
            return value
        if value.requires_grad:
            return value
        large = value.nbytes >= _SMALL
        place = _Place(large, ends[large], value.dtype, tuple(value.shape), _dense_strides(value))
        ends[large] += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
        found.append((place, value))
        return place

    content = replace(batch)
    if not found:
        return batch
    small, large = np.empty(max(1, ends[0]), dtype=np.uint8), None
    if ends[1]:
        # Shared from the start: what is not is copied once more when it is sent.
        large = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(ends[1]))
    for place, tensor in found:
        place.tensor_in(large if place.large and large is not None else torch.from_numpy(small)).copy_(tensor)
    return PackedBatch(content, small, large)


def rebuild(value: Any, function: Callable[[Any], Any]) -> Any:
    """A list, tuple or dict of ``function`` of what is in it; anything else as it is."""
    kind = type(value)
    if kind is list:
        return [function(part) for part in value]
    if kind is tuple:
        return tuple(map(function, value))
    return {key: function(part) for key, part in value.items()} if kind is dict else value


def _dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """The strides of a tensor whose elements lie side by side in some order, else those of a contiguous one."""
    expected = 1
    for size, stride in sorted(zip(tensor.shape, tensor.stride(), strict=True), key=itemgetter(1)):
        if size != 1 and stride != expected:
            return tuple(torch.empty(tensor.shape, device="meta").stride())
        expected *= size
    return tensor.stride()
