"""Steps and engines of classification: a class for every image.

A model returns logits ``[B, C]``, or a dict with them under ``"out"``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from torch import Tensor, nn

from ignite_imgtools.distributed import seed_step, unwrap_model
from ignite_imgtools.engines.dense import IMAGENET_MEAN, IMAGENET_STD, LossFunction, create_normaliser
from ignite_imgtools.engines.ema import ExponentialMovingAverage
from ignite_imgtools.engines.gradient_update import GradientUpdate, autocast_dtype
from ignite_imgtools.engines.loops import create_evaluator, create_trainer, evaluation_mode, model_device
from ignite_imgtools.engines.mean_losses import MeanDenseLosses
from ignite_imgtools.engines.mixing import Mixing
from ignite_imgtools.formats import DataError

__all__ = [
    "classification_evaluation_step",
    "classification_training_step",
    "create_classification_evaluator",
    "create_classification_predictor",
    "create_classification_trainer",
]


def classification_training_step(
    model: nn.Module,
    update: GradientUpdate,
    loss_fn: LossFunction,
    *,
    mixing: Mixing | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Callable[[Engine, Any], dict[str, Any]]:
    """A training step ``step(engine, batch)`` for a classifier.

    A batch is ``(images, labels)``: uint8 (scaled to 0..1 on the device) or float32 in 0..1 ``[B, 3, H, W]``, and
    int64 ``[B]``. What the step draws (mixing, dropout) depends on ``seed``, iteration and rank alone. Labels that are
    still on the host are checked there, which costs no synchronisation.

    Args:
        model: with its wrapper, if it has one.
        loss_fn: ``loss_fn({"out": logits}, targets)``, in float32, returns a dict of terms whose sum is the loss, as
            ``losses.ClassificationLoss`` does; with ``mixing`` targets are shares of the classes ``[B, C]``.
        mixing: of images and labels on the device, as :func:`~ignite_imgtools.engines.create_mixing` makes it.
        mean: of red, green and blue in 0..1, subtracted from the images.
        std: of red, green and blue in 0..1, by which they are then divided.
        device: where batches are moved; by default where the model's parameters are.

    Returns:
        A function that returns the output of :class:`GradientUpdate` and ``batch_size``, this process's number of
        images; it raises :class:`~ignite_imgtools.formats.DataError` for a batch of another form, and for a label that
        is none of the model's classes.
    """
    target_device = model_device(model) if device is None else torch.device(device)
    normalise = create_normaliser(mean, std, target_device)

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        images, labels = batch
        _check_batch(images, labels)
        prepared, truth = normalise(images), labels.to(target_device, non_blocking=True)
        seed_step(seed, engine.state.iteration)
        if mixing is not None:
            prepared, truth = mixing(prepared, truth)

        def forward() -> Mapping[str, Tensor]:
            logits = _logits(model(prepared))
            # Only now is the number of classes known; a device has begun to compute meanwhile.
            _check_labels(labels, logits.shape[1])
            return loss_fn({"out": logits}, truth)

        result: dict[str, Any] = update(engine, model, forward)
        result["batch_size"] = images.shape[0]
        return result

    return step


def create_classification_trainer(
    model: nn.Module,
    update: GradientUpdate,
    loss_fn: LossFunction,
    *,
    mixing: Mixing | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Engine:
    """The trainer of a classifier: :func:`classification_training_step` in an Engine of
    :func:`~ignite_imgtools.engines.create_trainer`."""
    step = classification_training_step(
        model, update, loss_fn, mixing=mixing, mean=mean, std=std, device=device, seed=seed
    )
    return create_trainer(step, model, update)


def create_classification_predictor(
    model: nn.Module,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    flip: bool = False,
    amp_dtype: str | torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Callable[[Tensor], Tensor]:
    """A function that asks ``model``, in evaluation mode, about images of one size.

    Args:
        model: without its wrapper.

    The other arguments are those of :func:`classification_evaluation_step`.

    Returns:
        From images, uint8 or float32 in 0..1 ``[B, 3, H, W]``, to logits, float32 ``[B, C]`` on the device.
    """
    target_device = model_device(model) if device is None else torch.device(device)
    normalise = create_normaliser(mean, std, target_device)
    dtype = autocast_dtype(amp_dtype)

    def predict(images: Tensor) -> Tensor:
        autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if dtype is not None:
            autocast = torch.autocast(target_device.type, dtype)
        with torch.inference_mode(), evaluation_mode(model), autocast:
            prepared = normalise(images)
            logits = _logits(model(prepared))
            return (logits + _logits(model(prepared.flip(-1)))) / 2 if flip else logits

    return predict


def classification_evaluation_step(
    model: nn.Module,
    *,
    ema: ExponentialMovingAverage | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    flip: bool = False,
    batched: bool = False,
    loss_fn: LossFunction | None = None,
    amp_dtype: str | torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Callable[[Engine, Any], dict[str, Any]]:
    """An evaluation step ``step(engine, batch)`` for a classifier.

    A batch is ``(images, labels)``: uint8 or float32 ``[B, 3, H, W]``, or a list of images, and labels int64 ``[B]``.
    Images go through the module inside the wrapper.

    Args:
        ema: evaluate its weights instead of the model's.
        mean: see :func:`classification_training_step`.
        std: see :func:`classification_training_step`.
        flip: take the mean of the logits of an image and of its mirror image.
        batched: let the images of a batch through together. By default they go one at a time, so that the numbers
            depend on neither batch size nor processes; together they are several times faster on a GPU, and logits may
            differ in their last bits.
        loss_fn: compute its terms of each image too.
        amp_dtype: of autocast, as in :class:`GradientUpdate`; logits are returned in float32.
        device: where images are moved; by default where the model's parameters are.

    Returns:
        A function that returns ``{"y_pred": logits [B, C], "y": labels [B], both on the device, "batch_size": int}``,
        so that ignite's metrics attach as they are; with ``loss_fn`` also ``"losses"``: ``{term: [batch_size]}``.
    """
    module = unwrap_model(model) if ema is None else ema.module
    target_device = model_device(module) if device is None else torch.device(device)
    predict = create_classification_predictor(
        module, mean=mean, std=std, flip=flip, amp_dtype=amp_dtype, device=target_device
    )

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        images, labels = batch
        if not len(images):
            # A process without images; with several there is one such batch.
            none = torch.zeros(0, 0, device=target_device)
            output: dict[str, Any] = {"y_pred": none, "y": none.long()[:, 0:0].flatten(), "batch_size": 0}
            return output if loss_fn is None else {**output, "losses": {}}
        parts = [images] if batched and isinstance(images, Tensor) else [image[None] for image in images]
        logits = torch.cat([predict(part) for part in parts])
        _check_labels(labels, logits.shape[1])
        truth = labels.to(target_device, non_blocking=True)
        output = {"y_pred": logits, "y": truth, "batch_size": len(images)}
        if loss_fn is not None:
            with torch.inference_mode():
                terms = [loss_fn({"out": logits[i : i + 1]}, truth[i : i + 1]) for i in range(len(images))]
                output["losses"] = {name: torch.stack([term[name] for term in terms]) for name in terms[0]}
        return output

    return step


def create_classification_evaluator(
    model: nn.Module,
    metrics: Mapping[str, Metric] | None = None,
    *,
    ema: ExponentialMovingAverage | None = None,
    loss_fn: LossFunction | None = None,
    **options: Any,
) -> Engine:
    """The evaluator of a classifier: :func:`classification_evaluation_step` in an Engine of
    :func:`~ignite_imgtools.engines.create_evaluator`.

    With ``loss_fn`` its ``state.metrics`` hold ``loss`` and each term, the mean over the images of all processes.

    Args:
        options: the further arguments of :func:`classification_evaluation_step`.
    """
    step = classification_evaluation_step(model, ema=ema, loss_fn=loss_fn, **options)
    metrics = dict(metrics or {})
    if loss_fn is not None:
        metrics["losses"] = MeanDenseLosses()
    return create_evaluator(step, model, metrics, ema=ema)


def _logits(output: Any) -> Tensor:
    logits: Tensor = output if isinstance(output, Tensor) else output["out"]
    if logits.ndim != 2:
        raise ValueError(f"a classifier must return logits [B, C], got {list(logits.shape)}")
    return logits.float()


def _check_batch(images: Any, labels: Any) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4:
        shape = list(images.shape) if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise DataError(
            f"images of a training batch must be stacked, [B, 3, H, W], got {shape}: crop them to one size and "
            "collate with collate_classification"
        )
    if not isinstance(labels, Tensor) or labels.shape != images.shape[:1]:
        shape = list(labels.shape) if isinstance(labels, Tensor) else f"a {type(labels).__name__}"
        raise DataError(f"a training batch must have one label for each of its {images.shape[0]} images, got {shape}")


def _check_labels(labels: Tensor, num_classes: int) -> None:
    if labels.dtype != torch.int64:
        raise DataError(f"labels must be int64, got {labels.dtype}")
    # On a device a label out of range is an assertion without a name, and any look at it would wait for the device.
    if labels.device.type != "cpu":
        return
    values = labels.numpy()
    wrong = values[(values < 0) | (values >= num_classes)]
    if len(wrong):
        found = ", ".join(map(str, wrong[:5].tolist()))
        raise DataError(f"this batch: labels must be 0..{num_classes - 1}, got {found}; check the number of classes")
