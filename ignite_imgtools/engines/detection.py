"""Steps and engines for every detector that honours torchvision's call.

Such a model takes ``(images, targets)`` and returns a dict of losses in training; in evaluation it takes images and
returns a list of dicts with ``boxes``, ``labels`` and ``scores``, boxes in pixels of the images it was given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from torch import Tensor, nn

from ignite_imgtools.distributed import keyed_seed, seed_step, unwrap_model
from ignite_imgtools.engines.detection_losses import detections_and_losses
from ignite_imgtools.engines.ema import ExponentialMovingAverage
from ignite_imgtools.engines.gradient_update import GradientUpdate, autocast_dtype
from ignite_imgtools.engines.loops import create_evaluator, create_trainer, evaluation_mode, model_device
from ignite_imgtools.engines.mean_losses import MeanLosses
from ignite_imgtools.formats import DataError, check_detection_batch, images_to_device, targets_to_device

__all__ = [
    "create_detection_evaluator",
    "create_detection_trainer",
    "detection_evaluation_step",
    "detection_training_step",
]


def detection_training_step(
    model: nn.Module, update: GradientUpdate, *, device: torch.device | str | None = None, seed: int = 0
) -> Callable[[Engine, Any], dict[str, Any]]:
    """A training step ``step(engine, batch)`` for a detector.

    What the step draws (dropout, sampled proposals) depends on ``seed``, iteration and rank alone. Targets that are
    still on the host are checked there, which costs no synchronisation.

    Args:
        model: with its wrapper, if it has one.
        device: where batches are moved; by default where the model's parameters are.

    Returns:
        A function that returns the output of :class:`GradientUpdate` and ``batch_size``, this process's number of
        images; it raises :class:`~ignite_imgtools.formats.DataError` for a target that the model cannot learn from.
    """
    target_device = model_device(model) if device is None else torch.device(device)
    num_classes = _num_classes(unwrap_model(model))
    unchecked = True

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        nonlocal unchecked
        images, targets = batch
        if unchecked:
            check_detection_batch(images, targets)
            unchecked = False
        _check_targets(targets, num_classes)
        images, targets = images_to_device(images, target_device), targets_to_device(targets, target_device)
        seed_step(seed, engine.state.iteration)
        output: dict[str, Any] = update(engine, model, lambda: model(images, targets))
        output["batch_size"] = len(images)
        return output

    return step


def create_detection_trainer(
    model: nn.Module, update: GradientUpdate, *, seed: int = 0, device: torch.device | str | None = None
) -> Engine:
    """The trainer of a detector: :func:`detection_training_step` in an Engine of
    :func:`~ignite_imgtools.engines.create_trainer`."""
    return create_trainer(detection_training_step(model, update, device=device, seed=seed), model, update)


def detection_evaluation_step(
    model: nn.Module,
    *,
    ema: ExponentialMovingAverage | None = None,
    losses: bool = False,
    images_per_forward: int = 1,
    amp_dtype: str | torch.dtype | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Callable[[Engine, Any], dict[str, Any]]:
    """An evaluation step ``step(engine, batch)`` for a detector.

    It uses the module inside the wrapper, so that processes may have different numbers of batches, in evaluation
    mode. Images go through the model one at a time: padded to the common size of a batch, an image gives other
    detections, and the result of an evaluation would depend on the batch size.

    Args:
        ema: evaluate its weights instead of the model's.
        losses: compute the losses too, in the same pass. What is sampled for them depends on ``seed`` and the image
            id alone.
        images_per_forward: above 1 is faster on a GPU, and padding then changes the numbers a little.
        device: where batches are moved; by default where the model's parameters are.

    Returns:
        A function that returns
        ``{"y_pred": a list of dicts on the device, "y": the targets as they came,
        "batch_size": int}``, with ``losses`` also ``"losses"``: ``{term: [batch_size]}`` on the device.

    Raises:
        ValueError: ``images_per_forward`` is below 1.
    """
    if images_per_forward < 1:
        raise ValueError(f"images_per_forward must be at least 1, got {images_per_forward}")
    module = unwrap_model(model) if ema is None else ema.module
    target_device = model_device(module) if device is None else torch.device(device)
    dtype = autocast_dtype(amp_dtype)
    autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if dtype is not None:
        autocast = torch.autocast(target_device.type, dtype)

    def forward(images: list[Tensor], targets: Sequence[Mapping[str, Any]]) -> tuple[list[Any], dict[str, Tensor]]:
        images = images_to_device(images, target_device)
        if not losses:
            return module(images), {}
        moved = targets_to_device(targets, target_device)
        key = keyed_seed(seed, *(int(target["image_id"]) for target in targets))
        return detections_and_losses(module, images, moved, key)

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        images, targets = batch
        y_pred: list[dict[str, Tensor]] = []
        terms: dict[str, list[Tensor]] = {}
        with torch.inference_mode(), evaluation_mode(module), autocast:
            for start in range(0, len(images), images_per_forward):
                part = slice(start, start + images_per_forward)
                detections, values = forward(images[part], targets[part])
                y_pred += detections if dtype is None else [_to_float32(detection) for detection in detections]
                for name, value in values.items():
                    terms.setdefault(name, []).append(value.float().expand(len(detections)))
        output = {"y_pred": y_pred, "y": targets, "batch_size": len(images)}
        if losses:
            output["losses"] = {name: torch.cat(values) for name, values in terms.items()}
        return output

    return step


def create_detection_evaluator(
    model: nn.Module,
    metrics: Mapping[str, Metric] | None = None,
    *,
    ema: ExponentialMovingAverage | None = None,
    losses: bool = False,
    images_per_forward: int = 1,
    amp_dtype: str | torch.dtype | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Engine:
    """The evaluator of a detector: :func:`detection_evaluation_step` in an Engine of
    :func:`~ignite_imgtools.engines.create_evaluator`.

    With ``losses`` its ``state.metrics`` hold ``loss`` and each term, the mean over the images of all processes.
    """
    step = detection_evaluation_step(
        model,
        ema=ema,
        losses=losses,
        images_per_forward=images_per_forward,
        amp_dtype=amp_dtype,
        seed=seed,
        device=device,
    )
    metrics = dict(metrics or {})
    if losses:
        metrics["losses"] = MeanLosses()
    return create_evaluator(step, model, metrics, ema=ema)


def _to_float32(detection: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Metrics sort by score; 8 bits of bfloat16 would make ties of most scores.
    return {key: value.float() if value.is_floating_point() else value for key, value in detection.items()}


def _num_classes(model: nn.Module) -> int | None:
    """How many classes the model tells apart, the background among them; ``None`` where it does not say."""
    for path in (
        "num_classes",
        "roi_heads.box_predictor.cls_score.out_features",
        "head.classification_head.num_classes",
    ):
        value: Any = model
        for name in path.split("."):
            value = getattr(value, name, None)
        if isinstance(value, int):
            return value
    return None


def _check_targets(targets: Sequence[Mapping[str, Any]], num_classes: int | None) -> None:
    # On a device a label out of range is an assertion without a name, and any look at it would wait for the device.
    # NumPy looks at tensors of the host, a few microseconds for each image.
    for target in targets:
        labels, boxes = target["labels"], target["boxes"]
        if labels.device.type != "cpu" or not labels.numel():
            continue
        lowest, highest = int(labels.numpy().min()), int(labels.numpy().max())
        if lowest < 1 or (num_classes is not None and highest >= num_classes):
            wrong = lowest if lowest < 1 else highest
            upper = "" if num_classes is None else f"..{num_classes - 1}"
            raise DataError(
                f"image_id {target['image_id']}: label {wrong} is not in 1{upper}, where 0 is background; "
                "check the number of classes"
            )
        corners = boxes.numpy()
        good = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        if not good.all():
            index = int(good.argmin())
            box = corners[index].tolist()
            raise DataError(f"image_id {target['image_id']}: box {index} is {box}, xyxy needs x1 < x2 and y1 < y2")
