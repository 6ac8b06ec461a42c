"""Evaluations of dense models that take milliseconds, for the handlers that picture them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor
from torch.nn import functional

from tests.engines.tiny_segmenters import saliency_lists, segmentation_lists

__all__ = ["NAMES", "dense_batches", "saliency_evaluator", "segmentation_evaluator"]

NAMES = ["background", "cat", "dog", "fish"]


def dense_batches(numbers: Sequence[int], size: int = 4, *, saliency: bool = False) -> list[Any]:
    """Evaluation batches of the images with these numbers."""
    create: Callable[[int, int], tuple[list[Tensor], list[Tensor]]] = saliency_lists if saliency else segmentation_lists
    samples = [tuple(part[0] for part in create(1, number)) for number in numbers]
    return [tuple(map(list, zip(*samples[k : k + size], strict=True))) for k in range(0, len(samples), size)]


def segmentation_evaluator() -> Engine:
    """Finds each class one pixel beside where it is; never the fish."""

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        found = []
        for target in batch[1]:
            labels = target.where(target != 255, 0).roll(1, 1)
            found.append(functional.one_hot(labels, len(NAMES)).permute(2, 0, 1).float())
        return {"y_pred": found, "y": batch[1], "batch_size": len(found)}

    return Engine(step)


def saliency_evaluator() -> Engine:
    """Logits of a blurred truth."""

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        found = [functional.avg_pool2d(t[None], 5, 1, 2, count_include_pad=False)[0] * 8 - 4 for t in batch[1]]
        return {"y_pred": found, "y": batch[1], "batch_size": len(found)}

    return Engine(step)


def as_labels(engine: Engine) -> Engine:
    """An evaluator whose predictions are labels."""

    def step(_: Engine, batch: Any) -> dict[str, Any]:
        output = engine._process_function(engine, batch)
        return {**output, "y_pred": [torch.argmax(logits, 0) for logits in output["y_pred"]]}

    return Engine(step)
