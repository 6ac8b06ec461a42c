"""Detections and losses of a detector from one pass over a batch, all layers in evaluation mode."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

__all__ = ["detections_and_losses"]

Detections = list[dict[str, Tensor]]


def detections_and_losses(
    model: nn.Module, images: list[Tensor], targets: list[dict[str, Any]], seed: int
) -> tuple[Detections, dict[str, Tensor]]:
    """What ``model`` in evaluation mode detects, and its training losses on the same images.

    Only the parts of the model that choose between losses and detections are switched: normalisation and dropout
    stay in evaluation mode. The R-CNNs of torchvision compute their features once for both; other models are called
    twice.

    Args:
        model: in evaluation mode.
        images: on the model's device.
        targets: on the model's device.
        seed: of what is sampled for the losses; the generators are left as they were.

    Returns:
        One dict for each image, and one mean over the images for each loss term.
    """
    if isinstance(model, GeneralizedRCNN) and type(model).forward is GeneralizedRCNN.forward:
        return _rcnn_detections_and_losses(model, images, targets, seed)
    detections = model(images)
    with _seeded(seed, images[0].device), _returning_losses(model, *_heads(model)):
        return detections, model(images, targets)


def _rcnn_detections_and_losses(
    model: GeneralizedRCNN, images: list[Tensor], targets: list[dict[str, Any]], seed: int
) -> tuple[Detections, dict[str, Tensor]]:
    resized, resized_targets = model.transform(images, targets)
    features = model.backbone(resized.tensors)
    if isinstance(features, Tensor):
        features = OrderedDict([("0", features)])
    proposals, _ = model.rpn(resized, features)
    detections, _ = model.roi_heads(features, proposals, resized.image_sizes)
    detections = model.transform.postprocess(
        detections, resized.image_sizes, [(image.shape[-2], image.shape[-1]) for image in images]
    )
    with _seeded(seed, images[0].device), _returning_losses(model.rpn, model.roi_heads):
        proposals, proposal_losses = model.rpn(resized, features, resized_targets)
        _, detector_losses = model.roi_heads(features, proposals, resized.image_sizes, resized_targets)
    return detections, {**detector_losses, **proposal_losses}


def _heads(model: nn.Module) -> Sequence[nn.Module]:
    return [head for name in ("rpn", "roi_heads") if isinstance(head := getattr(model, name, None), nn.Module)]


@contextlib.contextmanager
def _returning_losses(*modules: nn.Module) -> Iterator[None]:
    # The flag of these modules alone, not of their children, where it would mean batch statistics and dropout.
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module in modules:
            module.training = False


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield
