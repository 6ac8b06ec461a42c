"""Which class each pixel has: predicted and true, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["pairs_of_class_maps", "predicted_classes"]

Maps = Tensor | Sequence[Tensor]

# Pixels at a time: intermediate results of a usual image stay near the cache, those of a large one do not pile up.
_BLOCK = 2**20


def predicted_classes(logits: Tensor) -> Tensor:
    """The class of the largest logit of each pixel, the first one of equals.

    As ``logits.argmax(1)``, which on a CPU takes five times as long and more: there the largest value is found first
    and then, in bytes, the first class that has it, both by vectorised reductions.

    Args:
        logits: ``[B, C, H, W]``, floating point.

    Returns:
        ``[B, H, W]``, uint8 or int64.

    >>> predicted_classes(torch.tensor([[[[0.5, 0.2]], [[0.5, 0.9]]]])).tolist()
    [[[0, 1]]]
    """
    num_classes = logits.shape[1]
    if logits.device.type != "cpu" or num_classes > 255:
        return logits.argmax(dim=1)
    descending = torch.arange(num_classes, 0, -1, dtype=torch.uint8).unsqueeze(1)
    classes = torch.empty(len(logits), logits[0, 0].numel() if len(logits) else 0, dtype=torch.uint8)
    for image, row in zip(logits, classes, strict=True):
        for block, out in zip(image.reshape(num_classes, -1).split(_BLOCK, 1), row.split(_BLOCK), strict=True):
            is_largest = block == block.amax(dim=0)
            torch.sub(num_classes, is_largest.view(torch.uint8).mul_(descending).amax(dim=0), out=out)
    if classes.numel() and classes.max() == num_classes:
        return logits.max(dim=1).indices  # NaN equals nothing
    return classes.view(len(logits), *logits.shape[2:])


def pairs_of_class_maps(y_pred: Maps, y: Maps, num_classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Predicted and true classes of the images of a batch.

    Args:
        y_pred: logits ``[B, C, H, W]`` (floating point) or classes ``[B, H, W]`` (integer); or a list with an entry
            for each image, with or without the dimension of the batch, of any sizes.
        y: classes ``[B, H, W]``, or a list of ``[1, H, W]`` or ``[H, W]``.
        num_classes: C.

    Yields:
        ``(predicted, true)``, both integer ``[B, H, W]``, for the batch or for each entry of the lists.

    Raises:
        ValueError: the shapes are others, or a predicted class is not in 0..C-1.
    """
    if isinstance(y_pred, Tensor) != isinstance(y, Tensor):
        raise ValueError(f"y_pred and y must be two tensors or two lists, got {_kind(y_pred)} and {_kind(y)}")
    if isinstance(y_pred, Tensor) and isinstance(y, Tensor):
        y_pred, y = [y_pred], [y]
    if len(y_pred) != len(y):
        raise ValueError(f"one prediction for each target is needed, got {len(y_pred)} and {len(y)}")
    for predicted, true in zip(y_pred, y, strict=True):
        if predicted.is_floating_point():
            logits = predicted.unsqueeze(0) if predicted.ndim == 3 else predicted
            if logits.ndim != 4 or logits.shape[1] != num_classes:
                raise ValueError(f"logits must be [B, {num_classes}, H, W], got {list(predicted.shape)}")
            maps = predicted_classes(logits.detach())
        else:
            maps = _checked_classes(predicted, num_classes)
        truth = true.unsqueeze(0) if true.ndim == 2 else true
        if truth.is_floating_point() or maps.shape != truth.shape:
            raise ValueError(
                f"y must be integer {list(maps.shape)} as y_pred says, got {true.dtype} {list(true.shape)}; "
                "enlarge the logits to the size of the truth first"
            )
        yield maps, truth.to(maps.device)


def _checked_classes(maps: Tensor, num_classes: int) -> Tensor:
    if maps.numel():
        lowest, highest = (int(value) for value in torch.aminmax(maps))
        if lowest < 0 or highest >= num_classes:
            raise ValueError(f"predicted classes must be in 0..{num_classes - 1}, got {lowest}..{highest}")
    return maps.unsqueeze(0) if maps.ndim == 2 else maps


def _kind(maps: Maps) -> str:
    return "a tensor" if isinstance(maps, Tensor) else f"a {type(maps).__name__}"
