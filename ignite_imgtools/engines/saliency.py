"""Steps and engines of salient object detection: for every pixel, how much it belongs to what catches the eye.

Targets are maps, float32 ``[1, H, W]`` in 0..1. A model returns ``{"out": logits [B, 1, H, W]}``, in training with
whatever else its loss needs, such as the side outputs of U2-Net.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from torch import Tensor, nn

from ignite_imgtools.engines.dense import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LossFunction,
    dense_evaluation_step,
    dense_training_step,
)
from ignite_imgtools.engines.ema import ExponentialMovingAverage
from ignite_imgtools.engines.gradient_update import GradientUpdate
from ignite_imgtools.engines.loops import create_evaluator, create_trainer
from ignite_imgtools.engines.mean_losses import MeanDenseLosses
from ignite_imgtools.formats import DataError

__all__ = [
    "create_saliency_evaluator",
    "create_saliency_trainer",
    "saliency_evaluation_step",
    "saliency_training_step",
]


def saliency_training_step(
    model: nn.Module,
    update: GradientUpdate,
    loss_fn: LossFunction,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Callable[[Engine, Any], dict[str, Any]]:
    """A training step ``step(engine, batch)`` for a saliency model.

    A batch is ``(images, targets)``: uint8 (scaled to 0..1 on the device) or float32 in 0..1 ``[B, 3, H, W]``, and
    float32 ``[B, 1, H, W]`` in 0..1. What the step draws depends on ``seed``, iteration and rank alone.

    Args:
        loss_fn: ``loss_fn(output, targets)`` of the model's output, in float32, returns a dict of terms whose sum is
            the loss, as ``losses.DeepSupervisionLoss`` does.

    The other arguments, and what is returned, are those of
    :func:`~ignite_imgtools.engines.segmentation_training_step`.
    """
    return dense_training_step(model, update, loss_fn, _create_check(), mean=mean, std=std, device=device, seed=seed)


def create_saliency_trainer(
    model: nn.Module,
    update: GradientUpdate,
    loss_fn: LossFunction,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Engine:
    """The trainer of a saliency model: :func:`saliency_training_step` in an Engine of
    :func:`~ignite_imgtools.engines.create_trainer`."""
    step = saliency_training_step(model, update, loss_fn, mean=mean, std=std, device=device, seed=seed)
    return create_trainer(step, model, update)


def saliency_evaluation_step(
    model: nn.Module,
    *,
    ema: ExponentialMovingAverage | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    resize: int | tuple[int, int] | None = None,
    window: int | tuple[int, int] | None = None,
    overlap: float = 1 / 3,
    flip: bool = False,
    loss_fn: LossFunction | None = None,
    amp_dtype: str | torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Callable[[Engine, Any], dict[str, Any]]:
    """An evaluation step ``step(engine, batch)`` for a saliency model, for images of any sizes.

    A batch is ``(images, targets)``: a list of uint8 or float32 ``[3, H, W]`` and a list of float32 ``[1, H, W]``.
    Maps are compared at the image's own size whatever ``resize`` the model is shown.

    The arguments are those of :func:`~ignite_imgtools.engines.segmentation_evaluation_step`.

    Returns:
        A function that returns
        ``{"y_pred": a list of logits [1, H, W], "y": a list of targets [1, H, W], both on the
        device, "batch_size": int}``; with ``loss_fn`` also ``"losses"``: ``{term: [batch_size]}``.

    Raises:
        ValueError: an argument is out of range.
    """
    return dense_evaluation_step(
        model,
        _create_check(),
        ema=ema,
        mean=mean,
        std=std,
        resize=resize,
        measure_resized=False,
        window=window,
        overlap=overlap,
        flip=flip,
        loss_fn=loss_fn,
        amp_dtype=amp_dtype,
        device=device,
    )


def create_saliency_evaluator(
    model: nn.Module,
    metrics: Mapping[str, Metric] | None = None,
    *,
    ema: ExponentialMovingAverage | None = None,
    loss_fn: LossFunction | None = None,
    **options: Any,
) -> Engine:
    """The evaluator of a saliency model: :func:`saliency_evaluation_step` in an Engine of
    :func:`~ignite_imgtools.engines.create_evaluator`.

    With ``loss_fn`` its ``state.metrics`` hold ``loss`` and each term, the mean over the images of all processes.

    Args:
        options: the further arguments of :func:`saliency_evaluation_step`.
    """
    step = saliency_evaluation_step(model, ema=ema, loss_fn=loss_fn, **options)
    metrics = dict(metrics or {})
    if loss_fn is not None:
        metrics["losses"] = MeanDenseLosses()
    return create_evaluator(step, model, metrics, ema=ema)


def _create_check() -> Callable[[Tensor, torch.Size, str], None]:
    unchecked = True

    def check(targets: Tensor, logits: torch.Size, where: str) -> None:
        nonlocal unchecked
        if targets.ndim != 4 or targets.shape[1] != 1 or not targets.is_floating_point():
            raise DataError(
                f"{where}: targets must be floating point [1, H, W] each, got {targets.dtype} {list(targets.shape[1:])}"
            )
        if logits[1] != 1:
            raise DataError(f"{where}: a saliency model has 1 channel of logits, got {logits[1]}")
        if unchecked and targets.device.type == "cpu" and targets.numel():
            # A map of 0..255 that nobody scaled is wrong in its first batch already.
            low, high = (float(value) for value in (targets.numpy().min(), targets.numpy().max()))
            if not 0 <= low <= high <= 1:
                raise DataError(f"{where}: maps must be in 0..1, got {low:g}..{high:g}; scale them")
            unchecked = False

    return check
