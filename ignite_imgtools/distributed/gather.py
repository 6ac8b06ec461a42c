"""Arrays and strings of every process, and what the main process does for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch

from ignite_imgtools.formats import DataError

__all__ = ["all_gather_arrays", "all_gather_strings", "is_main_process", "on_main_process"]


def is_main_process() -> bool:
    """Whether this process writes files: the one of rank 0."""
    return idist.get_rank() == 0


def on_main_process(function: Callable[[], Any]) -> Any:
    """Call ``function`` on the main process while the others wait; call this on all processes.

    Returns:
        What ``function`` returned on the main process, ``None`` elsewhere.

    Raises:
        Exception: what ``function`` raised, on the main process; elsewhere one of the same type and message where it
            is an error for users (``DataError``, ``OSError``, ``ValueError``), else a RuntimeError.
    """
    result, error = None, None
    if is_main_process():
        try:
            result = function()
        except Exception as raised:
            error = raised
    kinds: tuple[type[Exception], ...] = (DataError, ValueError, OSError)
    kind = next((k for k in kinds if isinstance(error, k)), RuntimeError)
    note = "" if error is None else f"{kind.__name__}\n{error}"
    told = all_gather_strings(note)[0]
    if error is not None:
        raise error
    if told:
        name, _, message = told.partition("\n")
        raise {k.__name__: k for k in (*kinds, RuntimeError)}[name](message)
    return result


def all_gather_strings(text: str) -> list[str]:
    """``text`` of every process, by rank. Call it on all processes."""
    gathered = all_gather_arrays({"text": np.frombuffer(text.encode(), dtype=np.uint8)})
    return [arrays["text"].tobytes().decode() for arrays in gathered]


def all_gather_arrays(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The named arrays of every process, by rank; shapes may differ between processes, nothing is pickled.

    Two collectives whatever the number of arrays: the sizes, then all bytes in one padded buffer.

    Args:
        arrays: the same names, dtypes and numbers of dimensions on every process; sorted by name on the wire.

    Returns:
        One dict for each process, in order of rank.
    """
    own = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    if idist.get_world_size() == 1:
        return [own]
    # NCCL moves device memory only; gloo is quicker from the host.
    device = idist.device() if idist.backend() == "nccl" else torch.device("cpu")
    shapes = torch.tensor([size for array in own.values() for size in array.shape], dtype=torch.int64, device=device)
    all_shapes = [torch.empty_like(shapes) for _ in range(idist.get_world_size())]
    torch.distributed.all_gather(all_shapes, shapes)

    layouts: list[list[tuple[str, tuple[int, ...], int]]] = []
    for row in all_shapes:
        sizes, layout = iter(row.tolist()), []
        for name, array in own.items():
            shape = tuple(next(sizes) for _ in range(array.ndim))
            layout.append((name, shape, math.prod(shape) * array.itemsize))
        layouts.append(layout)
    capacity = max(sum(nbytes for *_, nbytes in layout) for layout in layouts)

    buffer = np.zeros(capacity, dtype=np.uint8)
    payload = b"".join(array.tobytes() for array in own.values())
    buffer[: len(payload)] = np.frombuffer(payload, dtype=np.uint8)
    sent = torch.from_numpy(buffer).to(device)
    received = [torch.empty_like(sent) for _ in layouts]
    torch.distributed.all_gather(received, sent)

    gathered = []
    for layout, tensor in zip(layouts, received, strict=True):
        raw, offset, unpacked = tensor.cpu().numpy(), 0, {}
        for name, shape, nbytes in layout:
            unpacked[name] = raw[offset : offset + nbytes].view(own[name].dtype).reshape(shape)
            offset += nbytes
        gathered.append(unpacked)
    return gathered
