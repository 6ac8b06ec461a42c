"""Steps and engines of landmarks: the coordinates of a face's points, asked of a network that answers with numbers.

A model takes crops ``[B, 3, H, W]``, normalised, and returns points ``[B, K, 2]``: x and y as shares of the crop's
width and height, counted from its edges. Losses are in pixels of the crop, numbers of an evaluation in those of the
image that it was cut out of.
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
from ignite_imgtools.engines.dense import IMAGENET_MEAN, IMAGENET_STD, create_normaliser
from ignite_imgtools.engines.ema import ExponentialMovingAverage
from ignite_imgtools.engines.gradient_update import GradientUpdate, autocast_dtype
from ignite_imgtools.engines.heatmaps import checked_permutation
from ignite_imgtools.engines.loops import create_evaluator, create_trainer, evaluation_mode, model_device
from ignite_imgtools.engines.mean_losses import MeanDenseLosses
from ignite_imgtools.formats import DataError

__all__ = [
    "create_landmark_evaluator",
    "create_landmark_predictor",
    "create_landmark_trainer",
    "crop_to_image",
    "landmark_evaluation_step",
    "landmark_training_step",
]

LandmarkLossFunction = Callable[[Tensor, Tensor], Mapping[str, Tensor]]


def landmark_training_step(
    model: nn.Module,
    update: GradientUpdate,
    loss_fn: LandmarkLossFunction,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Callable[[Engine, Any], dict[str, Any]]:
    """A training step ``step(engine, batch)`` for a model of points.

    A batch is ``(images, targets)``: uint8 (scaled to 0..1 on the device) or float32 in 0..1 ``[B, 3, H, W]``, and
    ``{"points": float32 [B, K, 2]}``, x and y in pixels of the images, (0, 0) being the centre of the first one. What
    the step draws (dropout) depends on ``seed``, iteration and rank alone.

    Args:
        model: with its wrapper, if it has one.
        loss_fn: ``loss_fn(points, truth)`` of points ``[B, K, 2]`` in pixels, in float32, returns a dict of terms whose
            sum is the loss, as ``losses.LandmarkLoss`` does.
        mean: of red, green and blue in 0..1, subtracted from the images.
        std: of red, green and blue in 0..1, by which they are then divided.
        device: where batches are moved; by default where the model's parameters are.

    Returns:
        A function that returns the output of :class:`GradientUpdate` and ``batch_size``, this process's number of
        faces; it raises :class:`~ignite_imgtools.formats.DataError` for a batch of another form.
    """
    target_device = model_device(model) if device is None else torch.device(device)
    normalise = create_normaliser(mean, std, target_device)

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        images, targets = batch
        _check_batch(images, targets)
        prepared, truth = normalise(images), targets["points"].to(target_device, non_blocking=True)
        seed_step(seed, engine.state.iteration)

        def forward() -> Mapping[str, Tensor]:
            points = _to_pixels(_shares(model(prepared)), prepared)
            # Only now is the number of points known; a device has begun to compute meanwhile.
            _check_count(points, truth)
            return loss_fn(points, truth)

        result: dict[str, Any] = update(engine, model, forward)
        result["batch_size"] = images.shape[0]
        return result

    return step


def create_landmark_trainer(
    model: nn.Module,
    update: GradientUpdate,
    loss_fn: LandmarkLossFunction,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Engine:
    """The trainer of a model of points: :func:`landmark_training_step` in an Engine of
    :func:`~ignite_imgtools.engines.create_trainer`."""
    step = landmark_training_step(model, update, loss_fn, mean=mean, std=std, device=device, seed=seed)
    return create_trainer(step, model, update)


def create_landmark_predictor(
    model: nn.Module,
    *,
    flip_permutation: Sequence[int] | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    amp_dtype: str | torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Callable[[Tensor], Tensor]:
    """A function that asks ``model``, in evaluation mode, where the points of faces are.

    Args:
        model: without its wrapper.

    The other arguments are those of :func:`landmark_evaluation_step`.

    Returns:
        From crops, uint8 or float32 in 0..1 ``[B, 3, H, W]``, to points in pixels of the crops, float32 ``[B, K, 2]``
        on the device. Nothing waits for the device; :func:`crop_to_image` says where they are in images.

    Raises:
        ValueError: ``flip_permutation`` does not exchange points in pairs.
    """
    target_device = model_device(model) if device is None else torch.device(device)
    normalise = create_normaliser(mean, std, target_device)
    dtype = autocast_dtype(amp_dtype)
    autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if dtype is not None:
        autocast = torch.autocast(target_device.type, dtype)
    mirrored = None if flip_permutation is None else checked_permutation(flip_permutation, target_device)

    def shares_of(images: Tensor) -> Tensor:
        with autocast:
            return _shares(model(images))

    def predict(crops: Tensor) -> Tensor:
        with torch.inference_mode(), evaluation_mode(model):
            images = normalise(crops)
            shares = shares_of(images)
            if mirrored is not None:
                if shares.shape[1] != len(mirrored):
                    raise ValueError(f"the model has {shares.shape[1]} points, flip_permutation has {len(mirrored)}")
                other = shares_of(images.flip(-1)).index_select(1, mirrored)
                # Shares count from the edges, so a mirror image's begin at its other edge.
                shares = (shares + torch.stack((1 - other[..., 0], other[..., 1]), dim=-1)) / 2
            return _to_pixels(shares, images)

    return predict


def crop_to_image(points: Tensor, to_image: Tensor) -> Tensor:
    """Places in images of points in crops.

    Args:
        points: ``[B, K, 2]``.
        to_image: ``[B, 2, 3]``, the maps from ``(x, y, 1)`` in a crop to ``(x, y)`` in its image.

    Returns:
        float32 ``[B, K, 2]`` on the device of ``points``; it does not wait for the device.
    """
    # Pixels of large images to a thousandth; Apple's devices have no float64.
    precise = torch.float32 if points.device.type == "mps" else torch.float64
    maps = to_image.to(precise).to(points.device, non_blocking=True)
    return (points.to(precise) @ maps[:, :, :2].mT + maps[:, None, :, 2]).float()


def landmark_evaluation_step(
    model: nn.Module,
    *,
    ema: ExponentialMovingAverage | None = None,
    flip_permutation: Sequence[int] | None = None,
    batched: bool = False,
    loss_fn: LandmarkLossFunction | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    amp_dtype: str | torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Callable[[Engine, Any], dict[str, Any]]:
    """An evaluation step ``step(engine, batch)`` for a model of points.

    A batch is ``(images, targets)`` as ``data.collate_landmarks`` makes it: crops, uint8 or float32 ``[B, 3, H, W]``,
    and ``{"points": [B, K, 2] in pixels of the crops, "image_points": the same in pixels of the images, "to_image":
    [B, 2, 3] from crop to image, "boxes": [B, 4], "image_id": list}``. Crops go through the module inside the wrapper.

    Args:
        ema: evaluate its weights instead of the model's.
        flip_permutation: which point takes the place of each when an image is mirrored: points are then the mean of
            what the model says of a crop and of its mirror image. ``None``: of the crop alone.
        batched: let the crops of a batch through together. By default they go one at a time, so that the numbers depend
            on neither batch size nor processes; together they are several times faster on a GPU, and points may differ
            in their last bits.
        loss_fn: compute its terms of each face too.
        mean: see :func:`landmark_training_step`.
        std: see :func:`landmark_training_step`.
        amp_dtype: of autocast, as in :class:`GradientUpdate`.
        device: where crops are moved; by default where the model's parameters are.

    Returns:
        A function that returns
        ``{"y_pred": points in pixels of the images [B, K, 2], "y": {"points": the true ones,
        "boxes", "image_id", "crop_points": the true ones in pixels of the crops}, "crop_points": those predicted,
        "batch_size": number of faces}``, tensors on the device, so that ``metrics.LandmarkMetric`` attaches as it is;
        with ``loss_fn`` also ``"losses"``: ``{term: [batch_size]}``.

    Raises:
        ValueError: ``flip_permutation`` does not exchange points in pairs.
    """
    module = unwrap_model(model) if ema is None else ema.module
    target_device = model_device(module) if device is None else torch.device(device)
    predict = create_landmark_predictor(
        module, flip_permutation=flip_permutation, mean=mean, std=std, amp_dtype=amp_dtype, device=target_device
    )

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        images, targets = batch
        if not len(images):
            # A process without faces; with several there is one such batch.
            none = torch.zeros(0, 0, 2, device=target_device)
            output = {"y_pred": none, "y": {"points": none, "crop_points": none, "image_id": []}, "crop_points": none}
            return {**output, "batch_size": 0} | ({} if loss_fn is None else {"losses": {}})
        parts = [images] if batched else [image[None] for image in images]
        points = torch.cat([predict(part) for part in parts])
        _check_batch(images, targets)
        _check_count(points, targets["points"])
        truth, in_image, boxes = (
            targets[name].to(target_device, non_blocking=True) for name in ("points", "image_points", "boxes")
        )
        with torch.inference_mode():
            y = {"points": in_image, "boxes": boxes, "image_id": targets["image_id"], "crop_points": truth}
            output = {"y_pred": crop_to_image(points, targets["to_image"]), "y": y, "crop_points": points}
            if loss_fn is not None:
                terms = [loss_fn(points[i : i + 1], truth[i : i + 1]) for i in range(len(points))]
                output["losses"] = {name: torch.stack([term[name] for term in terms]) for name in terms[0]}
        return {**output, "batch_size": len(images)}

    return step


def create_landmark_evaluator(
    model: nn.Module,
    metrics: Mapping[str, Metric] | None = None,
    *,
    ema: ExponentialMovingAverage | None = None,
    loss_fn: LandmarkLossFunction | None = None,
    **options: Any,
) -> Engine:
    """The evaluator of a model of points: :func:`landmark_evaluation_step` in an Engine of
    :func:`~ignite_imgtools.engines.create_evaluator`.

    With ``loss_fn`` its ``state.metrics`` hold ``loss`` and each term, the mean over the faces of all processes.

    Args:
        options: the further arguments of :func:`landmark_evaluation_step`.
    """
    step = landmark_evaluation_step(model, ema=ema, loss_fn=loss_fn, **options)
    metrics = dict(metrics or {})
    if loss_fn is not None:
        metrics["losses"] = MeanDenseLosses()
    return create_evaluator(step, model, metrics, ema=ema)


def _shares(output: Tensor) -> Tensor:
    if output.ndim != 3 or output.shape[2] != 2:
        raise ValueError(f"a model of points must return [B, K, 2], got {list(output.shape)}")
    # Half precision knows a coordinate of 200 pixels to an eighth at best.
    return output.float()


def _to_pixels(shares: Tensor, images: Tensor) -> Tensor:
    """Points in pixels, whose centres have whole numbers, of points in shares that count from the edges."""
    return torch.stack((shares[..., 0] * images.shape[3], shares[..., 1] * images.shape[2]), dim=-1) - 0.5


def _check_batch(images: Any, targets: Any) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4:
        shape = list(images.shape) if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise DataError(
            f"images of a batch must be stacked, [B, 3, H, W], got {shape}: cut faces out to one size and collate with "
            "collate_landmarks"
        )
    points = targets.get("points") if isinstance(targets, Mapping) else None
    if not isinstance(points, Tensor) or points.ndim != 3 or points.shape[::2] != (images.shape[0], 2):
        shape = list(points.shape) if isinstance(points, Tensor) else f"a {type(targets).__name__} without"
        raise DataError(f"targets must hold points [{images.shape[0]}, K, 2], got {shape}")


def _check_count(points: Tensor, truth: Tensor) -> None:
    if points.shape[1] != truth.shape[1]:
        raise DataError(
            f"the model has {points.shape[1]} points, the targets have {truth.shape[1]}; check num_points of the model"
        )
