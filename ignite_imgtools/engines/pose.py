"""Steps and engines of pose estimation by heat-maps: one map for each keypoint of a person cut out of an image.

A model takes crops ``[B, 3, H, W]``, normalised, and returns heat-maps ``[B, K, H / 4, W / 4]``. It is trained on
persons in any order, and evaluated on batches of whole images: all persons of an image are in one batch, so that poses
can be compared with each other, and a metric is given each image once, and complete.
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
from ignite_imgtools.engines.heatmaps import (
    Refinement,
    checked_permutation,
    flip_heatmaps,
    heatmaps_to_keypoints,
    keypoints_to_heatmaps,
)
from ignite_imgtools.engines.loops import create_evaluator, create_trainer, evaluation_mode, model_device
from ignite_imgtools.engines.oks_nms import COCO_KEYPOINT_SIGMAS, oks_nms
from ignite_imgtools.formats import DataError

__all__ = [
    "create_heatmap_predictor",
    "create_pose_evaluator",
    "create_pose_predictor",
    "create_pose_trainer",
    "pose_evaluation_step",
    "pose_training_step",
]

HeatmapLossFunction = Callable[[Tensor, Tensor, Tensor], Mapping[str, Tensor]]
Predictor = Callable[[Tensor, Tensor], Tensor]


def pose_training_step(
    model: nn.Module,
    update: GradientUpdate,
    loss_fn: HeatmapLossFunction,
    *,
    stride: int = 4,
    sigma: float = 2.0,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Callable[[Engine, Any], dict[str, Any]]:
    """A training step ``step(engine, batch)`` for a model of heat-maps.

    A batch is ``(images, targets)``: uint8 (scaled to 0..1 on the device) or float32 in 0..1 ``[B, 3, H, W]``, and
    ``{"keypoints": float32 [B, K, 3]}``: x, y in pixels of the images and the visibility 0, 1 or 2. The heat-maps to be
    learned are made on the device. What the step draws (dropout) depends on ``seed``, iteration and rank alone.

    Args:
        model: with its wrapper, if it has one.
        loss_fn: ``loss_fn(heatmaps, target_heatmaps, visibility)`` of maps ``[B, K, h, w]`` in float32 and ``[B, K]``
            returns a dict of terms whose sum is the loss, as ``losses.HeatmapLoss`` does.
        stride: pixels of an image for one of a heat-map.
        sigma: standard deviation of the Gaussians to be learned, in pixels of a heat-map.
        mean: of red, green and blue in 0..1, subtracted from the images.
        std: of red, green and blue in 0..1, by which they are then divided.
        device: where batches are moved; by default where the model's parameters are.

    Returns:
        A function that returns the output of :class:`GradientUpdate` and ``batch_size``, this process's number of
        persons; it raises :class:`~ignite_imgtools.formats.DataError` for a batch of another form.
    """
    target_device = model_device(model) if device is None else torch.device(device)
    normalise = create_normaliser(mean, std, target_device)

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        images, targets = batch
        _check_batch(images, targets)
        prepared = normalise(images)
        keypoints = targets["keypoints"].to(target_device, non_blocking=True)
        seed_step(seed, engine.state.iteration)

        def forward() -> Mapping[str, Tensor]:
            heatmaps = model(prepared).float()
            # Only now is the number of keypoints known; a device has begun to compute meanwhile.
            if heatmaps.shape[1] != keypoints.shape[1]:
                raise DataError(
                    f"the model has heat-maps of {heatmaps.shape[1]} keypoints, the targets have {keypoints.shape[1]}; "
                    "check num_keypoints"
                )
            size = (heatmaps.shape[2], heatmaps.shape[3])
            return loss_fn(heatmaps, *keypoints_to_heatmaps(keypoints, size, stride=stride, sigma=sigma))

        result: dict[str, Any] = update(engine, model, forward)
        result["batch_size"] = images.shape[0]
        return result

    return step


def create_pose_trainer(
    model: nn.Module,
    update: GradientUpdate,
    loss_fn: HeatmapLossFunction,
    *,
    stride: int = 4,
    sigma: float = 2.0,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Engine:
    """The trainer of a model of heat-maps: :func:`pose_training_step` in an Engine of
    :func:`~ignite_imgtools.engines.create_trainer`."""
    step = pose_training_step(
        model, update, loss_fn, stride=stride, sigma=sigma, mean=mean, std=std, device=device, seed=seed
    )
    return create_trainer(step, model, update)


def create_heatmap_predictor(
    model: nn.Module,
    *,
    flip_permutation: Sequence[int] | None = None,
    flip_shift: int = 1,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    amp_dtype: str | torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Callable[[Tensor], Tensor]:
    """A function that asks ``model``, in evaluation mode, for the heat-maps of persons.

    Args:
        model: without its wrapper.
        flip_permutation: which keypoint takes the place of each when an image is mirrored: heat-maps are then the mean
            of those of a crop and of its mirror image. ``None``: of the crop alone.
        flip_shift: see :func:`~ignite_imgtools.engines.flip_heatmaps`.

    The other arguments are those of :func:`pose_evaluation_step`.

    Returns:
        From crops, uint8 or float32 in 0..1 ``[n, 3, H, W]``, to heat-maps, float32 ``[n, K, h, w]`` on the device.
        Nothing waits for the device.

    Raises:
        ValueError: ``flip_permutation`` does not exchange keypoints in pairs.
    """
    target_device = model_device(model) if device is None else torch.device(device)
    normalise = create_normaliser(mean, std, target_device)
    dtype = autocast_dtype(amp_dtype)
    autocast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if dtype is not None:
        autocast = torch.autocast(target_device.type, dtype)
    mirrored = None if flip_permutation is None else checked_permutation(flip_permutation, target_device)

    def heatmaps_of(images: Tensor) -> Tensor:
        with autocast:
            heatmaps: Tensor = model(images).float()
        return heatmaps

    def predict(crops: Tensor) -> Tensor:
        with torch.inference_mode(), evaluation_mode(model):
            images = normalise(crops)
            heatmaps = heatmaps_of(images)
            if mirrored is None:
                return heatmaps
            return (heatmaps + flip_heatmaps(heatmaps_of(images.flip(-1)), mirrored, flip_shift)) / 2

    return predict


def create_pose_predictor(
    model: nn.Module,
    *,
    refine: Refinement = "quarter",
    stride: int = 4,
    sigma: float = 2.0,
    device: torch.device | str | None = None,
    **options: Any,
) -> Predictor:
    """A function that asks ``model``, in evaluation mode, where the keypoints of persons are.

    Args:
        model: without its wrapper.
        refine: see :func:`~ignite_imgtools.engines.heatmaps_to_keypoints`.
        stride: pixels of a crop for one of a heat-map.
        sigma: of the Gaussians that were learned, for ``refine="dark"``.
        device: where crops are moved; by default where the model's parameters are.
        options: the further arguments of :func:`create_heatmap_predictor`.

    Returns:
        From crops, uint8 or float32 in 0..1 ``[n, 3, H, W]``, and ``to_image``, ``[n, 2, 3]``, the maps from
        ``(x, y, 1)`` in a crop to ``(x, y)`` in its image, to keypoints, float32 ``[n, K, 3]`` on the device: x and y
        in pixels of the image and the height of the heat-map there. Nothing waits for the device.

    Raises:
        ValueError: ``flip_permutation`` does not exchange keypoints in pairs.
    """
    target_device = model_device(model) if device is None else torch.device(device)
    heatmaps_of = create_heatmap_predictor(model, device=target_device, **options)
    # Pixels of large images to a thousandth; Apple's devices have no float64.
    precise = torch.float32 if target_device.type == "mps" else torch.float64

    def predict(crops: Tensor, to_image: Tensor) -> Tensor:
        with torch.inference_mode():
            keypoints = heatmaps_to_keypoints(heatmaps_of(crops), stride=stride, refine=refine, sigma=sigma)
            maps = to_image.to(precise).to(target_device, non_blocking=True)
            places = keypoints[..., :2].to(precise) @ maps[:, :, :2].mT + maps[:, None, :, 2]
            return torch.cat((places.float(), keypoints[..., 2:]), dim=-1)

    return predict


def pose_evaluation_step(
    model: nn.Module,
    *,
    ema: ExponentialMovingAverage | None = None,
    flip_permutation: Sequence[int] | None = None,
    flip_shift: int = 1,
    refine: Refinement = "quarter",
    oks_threshold: float | None = 0.9,
    keypoint_sigmas: Sequence[float] = COCO_KEYPOINT_SIGMAS,
    min_keypoint_score: float = 0.2,
    crops_per_forward: int | None = None,
    stride: int = 4,
    sigma: float = 2.0,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    amp_dtype: str | torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Callable[[Engine, Any], dict[str, Any]]:
    """An evaluation step ``step(engine, batch)`` for a model of heat-maps, on batches of whole images.

    A batch is ``(crops, targets)`` as ``data.collate_person_images`` makes it: the crops of all persons, uint8 or
    float32 ``[P, 3, H, W]``, and for each image ``image_id`` and, of its ``n`` persons, ``to_image`` ``[n, 2, 3]``,
    ``boxes`` ``[n, 4]``, ``scores`` ``[n]`` and ``labels`` ``[n]``. The persons of an image go through the module
    inside the wrapper together, so the numbers depend on neither batch size nor processes.

    A pose's score is that of its box times the mean height of its heat-maps, of those that are high enough.

    Args:
        ema: evaluate its weights instead of the model's.
        flip_permutation: see :func:`create_heatmap_predictor`.
        flip_shift: see :func:`~ignite_imgtools.engines.flip_heatmaps`.
        refine: see :func:`~ignite_imgtools.engines.heatmaps_to_keypoints`.
        oks_threshold: of two poses in an image that are more similar (OKS), the one of the lower score is left out;
            ``None`` leaves none out.
        keypoint_sigmas: of the similarity, one for each keypoint.
        min_keypoint_score: heat-maps below this height do not count in a pose's score; where none is higher it is 0.
        crops_per_forward: that many crops of a batch go through the model at a time, whatever images they are from:
            faster on a GPU, and the numbers then change a little with the batch. By default those of one image.
        stride: pixels of a crop for one of a heat-map.
        sigma: of the Gaussians that were learned, for ``refine="dark"``.
        mean: see :func:`pose_training_step`.
        std: see :func:`pose_training_step`.
        amp_dtype: of autocast, as in :class:`GradientUpdate`.
        device: where crops are moved; by default where the model's parameters are.

    Returns:
        A function that returns
        ``{"y_pred": for each image a dict of keypoints [n, K, 3], scores [n], labels [n] and
        boxes [n, 4] on the device, "y": the targets as they came, "batch_size": number of images}``, which
        ``metrics.CocoMetric(..., iou_types=("keypoints",))`` takes.

    Raises:
        ValueError: an argument is out of range.
    """
    if crops_per_forward is not None and crops_per_forward < 1:
        raise ValueError(f"crops_per_forward must be at least 1, got {crops_per_forward}")
    module = unwrap_model(model) if ema is None else ema.module
    target_device = model_device(module) if device is None else torch.device(device)
    predict = create_pose_predictor(
        module,
        flip_permutation=flip_permutation,
        flip_shift=flip_shift,
        refine=refine,
        stride=stride,
        sigma=sigma,
        mean=mean,
        std=std,
        amp_dtype=amp_dtype,
        device=target_device,
    )
    sigmas = torch.tensor(keypoint_sigmas, dtype=torch.float32, device=target_device)

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        crops, targets = batch
        counts = [len(target["scores"]) for target in targets]
        if sum(counts) != len(crops):
            raise DataError(f"a batch of {len(crops)} crops has targets of {sum(counts)} persons; collate whole images")
        if not len(crops):
            return {"y_pred": [_no_poses(len(sigmas)) for _ in targets], "y": targets, "batch_size": len(targets)}
        with torch.inference_mode():
            to_image, boxes, box_scores, labels = (
                torch.cat([target[key] for target in targets]) for key in ("to_image", "boxes", "scores", "labels")
            )
            parts = [count for count in counts if count] if crops_per_forward is None else crops_per_forward
            found = [
                predict(images, maps) for images, maps in zip(crops.split(parts), to_image.split(parts), strict=True)
            ]
            keypoints = torch.cat(found)
            scores = _pose_scores(keypoints[..., 2], box_scores.to(target_device), min_keypoint_score)
            poses = {
                "keypoints": keypoints,
                "scores": scores,
                "labels": labels.to(target_device),
                "boxes": boxes.to(target_device),
            }
            kept = torch.ones(len(crops), dtype=torch.bool)
            if oks_threshold is not None:
                areas = _crop_areas(to_image, crops.shape[-2:]).to(target_device)
                images = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(target_device)
                kept = oks_nms(keypoints, scores, areas, images, threshold=oks_threshold, sigmas=sigmas)
            rows = [part.nonzero()[:, 0] for part in kept.split(counts)]
            split = {key: value.split(counts) for key, value in poses.items()}
            y_pred = [
                {key: values[image].index_select(0, own.to(target_device)) for key, values in split.items()}
                for image, own in enumerate(rows)
            ]
        return {"y_pred": y_pred, "y": targets, "batch_size": len(targets)}

    return step


def create_pose_evaluator(
    model: nn.Module,
    metrics: Mapping[str, Metric] | None = None,
    *,
    ema: ExponentialMovingAverage | None = None,
    **options: Any,
) -> Engine:
    """The evaluator of a model of heat-maps: :func:`pose_evaluation_step` in an Engine of
    :func:`~ignite_imgtools.engines.create_evaluator`.

    Args:
        options: the further arguments of :func:`pose_evaluation_step`.
    """
    return create_evaluator(pose_evaluation_step(model, ema=ema, **options), model, metrics, ema=ema)


def _pose_scores(heights: Tensor, box_scores: Tensor, lowest: float) -> Tensor:
    """Box scores ``[n]`` times the mean of those heights ``[n, K]`` that are above the lowest."""
    high = heights > lowest
    return box_scores * (heights * high).sum(dim=1) / high.sum(dim=1).clamp(min=1)


def _crop_areas(to_image: Tensor, size: torch.Size) -> Tensor:
    """Areas of crops in square pixels of their images."""
    determinant = to_image[:, 0, 0] * to_image[:, 1, 1] - to_image[:, 0, 1] * to_image[:, 1, 0]
    return determinant.abs().float() * (size[0] * size[1])


def _no_poses(num_keypoints: int) -> dict[str, Tensor]:
    return {
        "keypoints": torch.zeros(0, num_keypoints, 3),
        "scores": torch.zeros(0),
        "labels": torch.zeros(0, dtype=torch.int64),
        "boxes": torch.zeros(0, 4),
    }


def _check_batch(images: Any, targets: Any) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4:
        shape = list(images.shape) if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise DataError(
            f"images of a training batch must be stacked, [B, 3, H, W], got {shape}: cut persons out to one size and "
            "collate with collate_persons"
        )
    keypoints = targets.get("keypoints") if isinstance(targets, Mapping) else None
    if not isinstance(keypoints, Tensor) or keypoints.ndim != 3 or keypoints.shape[::2] != (images.shape[0], 3):
        shape = list(keypoints.shape) if isinstance(keypoints, Tensor) else f"a {type(targets).__name__} without"
        raise DataError(f"targets must hold keypoints [{images.shape[0]}, K, 3], got {shape}")
