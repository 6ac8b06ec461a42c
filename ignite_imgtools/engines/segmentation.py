"""Steps and engines of semantic segmentation: a class for every pixel.

Targets are class indices, int64 ``[H, W]``, of which 255 is ignored by losses and metrics. A model returns
``{"out": logits [B, C, H, W][, "aux": logits]}``, ``C`` classes, the background among them where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
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
    "create_segmentation_evaluator",
    "create_segmentation_trainer",
    "segmentation_evaluation_step",
    "segmentation_training_step",
]

_IGNORED = 255


def segmentation_training_step(
    model: nn.Module,
    update: GradientUpdate,
    loss_fn: LossFunction,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Callable[[Engine, Any], dict[str, Any]]:
    """A training step ``step(engine, batch)`` for a segmenter.

    A batch is ``(images, targets)``: uint8 (scaled to 0..1 on the device) or float32 in 0..1 ``[B, 3, H, W]``, and
    int64 ``[B, H, W]``. What the step draws (dropout) depends on ``seed``, iteration and rank alone. Class indices
    that are still on the host are checked there, which costs no synchronisation.

    Args:
        model: with its wrapper, if it has one.
        loss_fn: ``loss_fn(output, targets)`` of the model's output, in float32, returns a dict of terms whose sum is
            the loss, as ``losses.SegmentationLoss`` does.
        mean: of red, green and blue in 0..1, subtracted from the images.
        std: of red, green and blue in 0..1, by which they are then divided.
        device: where batches are moved; by default where the model's parameters are.

    Returns:
        A function that returns the output of :class:`GradientUpdate` and ``batch_size``, this process's number of
        images; it raises :class:`~ignite_imgtools.formats.DataError` for a batch of another form, and for a class
        index that is neither one of the model's classes nor 255.
    """
    return dense_training_step(model, update, loss_fn, _check_labels, mean=mean, std=std, device=device, seed=seed)


def create_segmentation_trainer(
    model: nn.Module,
    update: GradientUpdate,
    loss_fn: LossFunction,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Engine:
    """The trainer of a segmenter: :func:`segmentation_training_step` in an Engine of
    :func:`~ignite_imgtools.engines.create_trainer`."""
    step = segmentation_training_step(model, update, loss_fn, mean=mean, std=std, device=device, seed=seed)
    return create_trainer(step, model, update)


def segmentation_evaluation_step(
    model: nn.Module,
    *,
    ema: ExponentialMovingAverage | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    resize: int | tuple[int, int] | None = None,
    measure_resized: bool = False,
    window: int | tuple[int, int] | None = None,
    overlap: float = 1 / 3,
    flip: bool = False,
    loss_fn: LossFunction | None = None,
    amp_dtype: str | torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Callable[[Engine, Any], dict[str, Any]]:
    """An evaluation step ``step(engine, batch)`` for a segmenter, for images of any sizes.

    A batch is ``(images, targets)``: a list of uint8 or float32 ``[3, H, W]`` and a list of int64 ``[H, W]``. Images
    go through the module inside the wrapper one at a time, so the numbers depend on neither batch size nor processes.

    Args:
        ema: evaluate its weights instead of the model's.
        mean: see :func:`segmentation_training_step`.
        std: see :func:`segmentation_training_step`.
        resize: what the model is shown: images resized to this height and width, or to this short side. Its logits
            are brought back to the image's own size, and compared there.
        measure_resized: compare at the size of ``resize``, to which targets are then resized too (nearest pixel).
            That is what many training scripts report; it leaves out what is small in large images.
        window: cut (resized) images that are larger into windows of this height and width, and average the logits
            where they overlap.
        overlap: the least share of a window that its neighbour covers too.
        flip: take the mean of the logits of an image and of its mirror image.
        loss_fn: compute its terms of each image too.
        amp_dtype: of autocast, as in :class:`GradientUpdate`; logits are returned in float32.
        device: where images are moved; by default where the model's parameters are.

    Returns:
        A function that returns
        ``{"y_pred": a list of logits [C, H, W], "y": a list of targets [H, W], both on the
        device, "batch_size": int}``, so that ignite's metrics attach as they are, unrolling lists as most do and
        ``ConfusionMatrix`` with ``skip_unrolling=False``; with ``loss_fn`` also ``"losses"``:
        ``{term: [batch_size]}``.

    Raises:
        ValueError: an argument is out of range, or ``measure_resized`` is asked for without ``resize``.
    """
    if measure_resized and resize is None:
        raise ValueError("measure_resized compares at the size of resize, which is None: give it")
    return dense_evaluation_step(
        model,
        _check_labels,
        ema=ema,
        mean=mean,
        std=std,
        resize=resize,
        measure_resized=measure_resized,
        window=window,
        overlap=overlap,
        flip=flip,
        loss_fn=loss_fn,
        amp_dtype=amp_dtype,
        device=device,
    )


def create_segmentation_evaluator(
    model: nn.Module,
    metrics: Mapping[str, Metric] | None = None,
    *,
    ema: ExponentialMovingAverage | None = None,
    loss_fn: LossFunction | None = None,
    **options: Any,
) -> Engine:
    """The evaluator of a segmenter: :func:`segmentation_evaluation_step` in an Engine of
    :func:`~ignite_imgtools.engines.create_evaluator`.

    With ``loss_fn`` its ``state.metrics`` hold ``loss`` and each term, the mean over the images of all processes.

    Args:
        options: the further arguments of :func:`segmentation_evaluation_step`.
    """
    step = segmentation_evaluation_step(model, ema=ema, loss_fn=loss_fn, **options)
    metrics = dict(metrics or {})
    if loss_fn is not None:
        metrics["losses"] = MeanDenseLosses()
    return create_evaluator(step, model, metrics, ema=ema)


def _check_labels(targets: Tensor, logits: torch.Size, where: str) -> None:
    # On a device a label out of range is an assertion without a name, and any look at it would wait for the device.
    if targets.dtype != torch.int64 or targets.ndim != 3:
        raise DataError(f"{where}: targets must be int64 [H, W] each, got {targets.dtype} {list(targets.shape[1:])}")
    if targets.device.type != "cpu":
        return
    # Seen as unsigned, negative numbers are large: one comparison finds both.
    labels = targets.numpy().view(np.uint64)
    high = labels[labels >= logits[1]]
    wrong = np.unique(high[high != _IGNORED]).view(np.int64)[:5].tolist()
    if wrong:
        found = ", ".join(map(str, wrong))
        raise DataError(
            f"{where}: class indices must be 0..{logits[1] - 1}, or {_IGNORED} where ignored, got {found}; "
            "check the masks and the number of classes"
        )
