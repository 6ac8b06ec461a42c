"""The steps of dense prediction: a model that answers every pixel, whatever the answer means.

Such a model takes images ``[B, 3, H, W]``, normalised, and returns ``{"out": logits [B, C, H, W]}`` with further
entries of its own that its loss understands; a model that returns the logits alone will do. Segmentation and saliency
differ in their targets, nothing else: both are these two steps with a check of the targets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor, nn
from torch.nn import functional

from ignite_imgtools.distributed import seed_step, unwrap_model
from ignite_imgtools.engines.dense_prediction import flipped, resized, sliding_window
from ignite_imgtools.engines.ema import ExponentialMovingAverage
from ignite_imgtools.engines.gradient_update import GradientUpdate, autocast_dtype
from ignite_imgtools.engines.loops import evaluation_mode, model_device
from ignite_imgtools.formats import DataError

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "create_dense_predictor",
    "create_normaliser",
    "dense_evaluation_step",
    "dense_training_step",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue in 0..1 that torchvision's weights expect to be subtracted."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviations of red, green and blue in 0..1 that torchvision's weights expect to be divided by."""

LossFunction = Callable[[dict[str, Any], Tensor], Mapping[str, Tensor]]
CheckTargets = Callable[[Tensor, torch.Size, str], None]
"""Called with targets, the shape of the logits ``[B, C, H, W]`` for them, and where they come from, for messages."""


def create_normaliser(
    mean: Sequence[float], std: Sequence[float], device: torch.device | str
) -> Callable[[Tensor], Tensor]:
    """A function that moves images to ``device`` and makes them what a model expects: ``(images - mean) / std``.

    Its argument is ``[..., 3, H, W]``: uint8 is first scaled to 0..1 on the device, floating point taken as it is.

    Raises:
        ValueError: ``mean`` and ``std`` have different lengths, or a deviation is not positive.
    """
    if len(mean) != len(std) or not all(value > 0 for value in std):
        raise ValueError(f"mean and std must be as many, std above 0, got {tuple(mean)} and {tuple(std)}")
    shift = torch.tensor(mean, device=device)[:, None, None]
    scale = torch.tensor(std, device=device)[:, None, None]

    def normalise(images: Tensor) -> Tensor:
        moved = images.to(device, non_blocking=True)
        moved = moved.float().div_(255) if moved.dtype == torch.uint8 else moved.float()
        return (moved - shift).div_(scale)

    return normalise


def dense_training_step(
    model: nn.Module,
    update: GradientUpdate,
    loss_fn: LossFunction,
    check_targets: CheckTargets,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str | None,
    seed: int,
) -> Callable[[Engine, Any], dict[str, Any]]:
    """A training step ``step(engine, batch)``: ``loss_fn`` on what the model says of stacked images.

    Args:
        loss_fn: of the model's output in float32 and the targets on the device; returns terms, whose sum is the loss.
        check_targets: raises for targets that cannot be learned from; gets them as they come, so that it costs no
            synchronisation where they are on the host, and is to leave alone what is on a device.
    """
    target_device = model_device(model) if device is None else torch.device(device)
    normalise = create_normaliser(mean, std, target_device)

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        images, targets = batch
        _check_stacked(images, targets)
        prepared, truth = normalise(images), targets.to(target_device, non_blocking=True)
        seed_step(seed, engine.state.iteration)

        def forward() -> Mapping[str, Tensor]:
            output = _in_float32(_as_dict(model(prepared)))
            # Only now is the number of classes known; a device has begun to compute meanwhile.
            check_targets(targets, output["out"].shape, "this batch")
            return loss_fn(output, truth)

        result: dict[str, Any] = update(engine, model, forward)
        result["batch_size"] = images.shape[0]
        return result

    return step


def create_dense_predictor(
    model: nn.Module,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    resize: int | tuple[int, int] | None = None,
    keep_resized: bool = False,
    window: int | tuple[int, int] | None = None,
    overlap: float = 1 / 3,
    flip: bool = False,
    amp_dtype: str | torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Callable[[Tensor], Tensor]:
    """A function that asks ``model``, in evaluation mode, about one image at a time.

    Args:
        model: without its wrapper.
        keep_resized: leave the logits at the size of ``resize``.

    The other arguments are those of :func:`~ignite_imgtools.engines.segmentation_evaluation_step`.

    Returns:
        From an image, uint8 or float32 in 0..1 ``[3, H, W]``, to logits, float32 ``[1, C, H, W]`` on the device.

    Raises:
        ValueError: an argument is out of range.
    """
    target_device = model_device(model) if device is None else torch.device(device)
    normalise = create_normaliser(mean, std, target_device)
    dtype = autocast_dtype(amp_dtype)
    autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if dtype is not None:
        autocast = torch.autocast(target_device.type, dtype)

    def logits_of(images: Tensor) -> Tensor:
        with autocast:
            return _as_dict(model(images))["out"].float()

    predict = flipped(logits_of) if flip else logits_of
    if window is not None:
        predict = sliding_window(predict, window, overlap)
    if resize is not None:
        predict = resized(predict, resize, back=not keep_resized)

    def predict_image(image: Tensor) -> Tensor:
        with torch.inference_mode(), evaluation_mode(model):
            return predict(normalise(image[None]))

    return predict_image


def dense_evaluation_step(
    model: nn.Module,
    check_targets: CheckTargets,
    *,
    ema: ExponentialMovingAverage | None,
    measure_resized: bool,
    loss_fn: LossFunction | None,
    device: torch.device | str | None,
    **options: Any,
) -> Callable[[Engine, Any], dict[str, Any]]:
    """An evaluation step ``step(engine, batch)``: images go through the model one at a time, each at its own size.

    See :func:`~ignite_imgtools.engines.segmentation_evaluation_step`; ``options`` are for
    :func:`create_dense_predictor`.
    """
    module = unwrap_model(model) if ema is None else ema.module
    target_device = model_device(module) if device is None else torch.device(device)
    predict = create_dense_predictor(module, device=target_device, keep_resized=measure_resized, **options)

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        images, targets = batch
        if len(images) != len(targets):
            raise DataError(f"a dense batch has one target for each image, got {len(images)} and {len(targets)}")
        y_pred: list[Tensor] = []
        y: list[Tensor] = []
        terms: dict[str, list[Tensor]] = {}
        for image, target in zip(images, targets, strict=True):
            _check_sizes(image, target)
            logits = predict(image)
            check_targets(target[None], logits.shape, "an image")
            with torch.inference_mode():
                truth = target[None].to(target_device, non_blocking=True)
                if measure_resized:
                    truth = _resize_nearest(truth, (logits.shape[-2], logits.shape[-1]))
                losses = loss_fn({"out": logits}, truth) if loss_fn is not None else {}
            # ignite's metrics put the dimension of the batch before each entry of a list.
            y_pred.append(logits[0])
            y.append(truth[0])
            for name, value in losses.items():
                terms.setdefault(name, []).append(value)
        output: dict[str, Any] = {"y_pred": y_pred, "y": y, "batch_size": len(images)}
        if loss_fn is not None:
            output["losses"] = {name: torch.stack(values) for name, values in terms.items()}
        return output

    return step


def _as_dict(output: Any) -> dict[str, Any]:
    return {"out": output} if isinstance(output, Tensor) else dict(output)


def _in_float32(values: Any) -> Any:
    # Losses over many pixels are sums of many small numbers; in 8 bits of mantissa they would not add up.
    if isinstance(values, Mapping):
        return {name: _in_float32(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_in_float32(value) for value in values]
    return values.float() if isinstance(values, Tensor) and values.is_floating_point() else values


def _resize_nearest(target: Tensor, size: tuple[int, int]) -> Tensor:
    planes = target if target.ndim == 4 else target[:, None]
    # float64 holds every label there is; pixel centres, unlike "nearest", do not shift the picture by half a pixel.
    planes = functional.interpolate(planes.double(), size, mode="nearest-exact").to(target.dtype)
    return planes if target.ndim == 4 else planes[:, 0]


def _check_stacked(images: Any, targets: Any) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4:
        shape = list(images.shape) if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise DataError(
            f"images of a training batch must be stacked, [B, 3, H, W], got {shape}: crop them to one size and "
            "collate with collate_dense"
        )
    if not isinstance(targets, Tensor) or targets.shape[0] != images.shape[0]:
        shape = list(targets.shape) if isinstance(targets, Tensor) else f"a {type(targets).__name__}"
        raise DataError(f"targets of a training batch must be stacked like its {images.shape[0]} images, got {shape}")
    if targets.shape[-2:] != images.shape[-2:]:
        raise DataError(
            f"targets must be as large as the images, {list(images.shape[-2:])}, got {list(targets.shape[-2:])}"
        )


def _check_sizes(image: Tensor, target: Tensor) -> None:
    if image.ndim != 3 or image.shape[-2:] != target.shape[-2:]:
        raise DataError(
            f"an image must be [3, H, W] and its target as large, got {list(image.shape)} and {list(target.shape)}"
        )
