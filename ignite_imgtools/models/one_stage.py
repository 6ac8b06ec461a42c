"""RetinaNet, FCOS, SSD300 and SSDlite of torchvision, with a background label and a number of classes of choice."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.detection import (
    FCOS,
    FCOS_ResNet50_FPN_Weights,
    RetinaNet,
    RetinaNet_ResNet50_FPN_Weights,
    SSD300_VGG16_Weights,
    SSDLite320_MobileNet_V3_Large_Weights,
    ssd300_vgg16,
    ssdlite320_mobilenet_v3_large,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from ignite_imgtools.models.backbones import create_backbone
from ignite_imgtools.models.rcnn import float32_outputs, trainable_stages
from ignite_imgtools.models.weights import default_weights, load_detector_weights

__all__ = ["fcos", "retinanet", "ssd300", "ssdlite"]

_GROUPS = 32  # of channels that are normalised together in torchvision's heads


def retinanet(
    num_classes: int,
    *,
    backbone: str = "resnet50",
    weights: str | Path = "none",
    trainable_layers: int | None = None,
    norm: str = "batch",
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    fpn_channels: int = 256,
    anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
    strides: Sequence[int] = (8, 16, 32),
    head_norm: str = "none",
    **options: Any,
) -> RetinaNet:
    """RetinaNet (Lin et al. 2017, "Focal loss for dense object detection"), levels P3 to P7.

    torchvision's model has a logit for label 0, as its published weights do. Label 0 is the background here, which no
    target has: the logit learns to say no, and in evaluation it is never given out.

    Args:
        num_classes: the background counts as one.
        backbone: any convolutional classifier of torchvision, by its name.
        weights: ``"none"``; ``"default"`` for torchvision's, of COCO for ``resnet50`` and of ImageNet for the backbone
            of the others; or a file of a detector or of a classifier, of which the part that fits is loaded.
        trainable_layers: 0..5, how many stages of the backbone are trained; by default 3, and 5 with random weights.
        norm: of the backbone: ``"batch"``, ``"frozen"`` or ``"sync"``.
        min_size: the shorter side to which images are resized, in pixels; of several one is drawn in training.
        max_size: the longer side is never above it.
        fpn_channels: of each level of the pyramid, and of the heads.
        anchor_sizes: in pixels of the resized image, for each level; there are anchors of ``2**(1/3)`` and
            ``2**(2/3)`` times the size too, each in the aspect ratios 1:2, 1:1 and 2:1.
        strides: of the feature maps the pyramid stands on; two levels are added.
        head_norm: ``"none"`` as in the paper, or ``"group"`` for group normalisation in the heads, as in torchvision's
            second version: from random weights it learns in a fraction of the steps.
        options: further arguments of torchvision's ``RetinaNet``.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
    """
    if head_norm not in ("none", "group"):
        raise ValueError(f"head_norm must be 'none' or 'group', got {head_norm!r}")
    if head_norm == "group":
        _refuse_unless_grouped(fpn_channels, "head_norm='group'")
    body = _pyramid(num_classes, backbone, weights, trainable_layers, norm, fpn_channels, strides)
    if len(anchor_sizes) != len(strides) + 2:
        raise ValueError(f"anchor_sizes must be {len(strides) + 2} numbers, one for each level, got {anchor_sizes}")
    # Rounded down, as the published weights were trained.
    sizes = tuple((size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))) for size in anchor_sizes)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    norm_layer = functools.partial(nn.GroupNorm, _GROUPS) if head_norm == "group" else None
    model = _RetinaNet(
        body,
        num_classes,
        min_size=min_size if isinstance(min_size, int) else tuple(min_size),
        max_size=max_size,
        anchor_generator=anchors,
        head=RetinaNetHead(fpn_channels, anchors.num_anchors_per_location()[0], num_classes, norm_layer),
        **options,
    )
    whole = RetinaNet_ResNet50_FPN_Weights.DEFAULT if backbone == "resnet50" else None
    return _finished(model, weights, whole, backbone)


def fcos(
    num_classes: int,
    *,
    backbone: str = "resnet50",
    weights: str | Path = "none",
    trainable_layers: int | None = None,
    norm: str = "batch",
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    fpn_channels: int = 256,
    anchor_sizes: Sequence[int] = (8, 16, 32, 64, 128),
    strides: Sequence[int] = (8, 16, 32),
    **options: Any,
) -> FCOS:
    """FCOS (Tian et al. 2019), levels P3 to P7; arguments as of :func:`retinanet`.

    Args:
        anchor_sizes: one for each level, what distances are measured in; torchvision takes the strides.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
    """
    _refuse_unless_grouped(fpn_channels, "FCOS")
    body = _pyramid(num_classes, backbone, weights, trainable_layers, norm, fpn_channels, strides)
    if len(anchor_sizes) != len(strides) + 2:
        raise ValueError(f"anchor_sizes must be {len(strides) + 2} numbers, one for each level, got {anchor_sizes}")
    model = _FCOS(
        body,
        num_classes,
        min_size=min_size if isinstance(min_size, int) else tuple(min_size),
        max_size=max_size,
        anchor_generator=AnchorGenerator(tuple((size,) for size in anchor_sizes), ((1.0,),) * len(anchor_sizes)),
        **options,
    )
    return _finished(model, weights, FCOS_ResNet50_FPN_Weights.DEFAULT if backbone == "resnet50" else None, backbone)


def ssd300(num_classes: int, *, weights: str | Path = "none", **options: Any) -> nn.Module:
    """SSD300 with VGG16 (Liu et al. 2016): every image is resized to 300 x 300; all of it is trained.

    Args:
        num_classes: the background counts as one.
        weights: ``"none"``; ``"default"``, those of COCO; or a file.
        options: further arguments of torchvision's ``ssd300_vgg16``.
    """
    return _ssd(ssd300_vgg16, SSD300_VGG16_Weights.DEFAULT, num_classes, weights, options)


def ssdlite(num_classes: int, *, weights: str | Path = "none", **options: Any) -> nn.Module:
    """SSDlite with MobileNetV3 (Sandler et al. 2018, Howard et al. 2019): images are resized to 320 x 320.

    Args:
        num_classes: the background counts as one.
        weights: ``"none"``; ``"default"``, those of COCO; or a file.
        options: further arguments of torchvision's ``ssdlite320_mobilenet_v3_large``.
    """
    default = SSDLite320_MobileNet_V3_Large_Weights.DEFAULT
    return _ssd(ssdlite320_mobilenet_v3_large, default, num_classes, weights, options)


class _RetinaNet(RetinaNet):
    def postprocess_detections(
        self, head_outputs: dict[str, list[Tensor]], anchors: list[list[Tensor]], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        outputs = {**head_outputs, "cls_logits": _without_background(head_outputs["cls_logits"])}
        detections: list[dict[str, Tensor]] = super().postprocess_detections(outputs, anchors, image_shapes)
        return detections


class _FCOS(FCOS):
    def postprocess_detections(
        self, head_outputs: dict[str, list[Tensor]], anchors: list[list[Tensor]], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        outputs = {**head_outputs, "cls_logits": _without_background(head_outputs["cls_logits"])}
        detections: list[dict[str, Tensor]] = super().postprocess_detections(outputs, anchors, image_shapes)
        return detections


def _refuse_unless_grouped(fpn_channels: int, what: str) -> None:
    if fpn_channels % _GROUPS:
        raise ValueError(f"fpn_channels must be a multiple of {_GROUPS} with {what}, got {fpn_channels}")


def _without_background(logits: Sequence[Tensor]) -> list[Tensor]:
    masked = []
    for level in logits:
        level = level.clone()
        level[..., 0] = -torch.inf
        masked.append(level)
    return masked


def _pyramid(
    num_classes: int,
    backbone: str,
    weights: str | Path,
    trainable_layers: int | None,
    norm: str,
    fpn_channels: int,
    strides: Sequence[int],
) -> nn.Module:
    if num_classes < 2:
        raise ValueError(f"num_classes counts the background and must be at least 2, got {num_classes}")
    return create_backbone(
        backbone,
        strides=strides,
        fpn_channels=fpn_channels,
        extra_blocks=LastLevelP6P7(fpn_channels, fpn_channels),
        norm=norm,
        trainable_layers=trainable_stages(trainable_layers, weights),
    )


def _ssd(build: Any, default: Any, num_classes: int, weights: str | Path, options: dict[str, Any]) -> nn.Module:
    if num_classes < 2:
        raise ValueError(f"num_classes counts the background and must be at least 2, got {num_classes}")
    model: nn.Module = build(weights=None, weights_backbone=None, num_classes=num_classes, **options)
    model.get_submodule("head").register_forward_hook(float32_outputs)
    load_detector_weights(model, weights, default, dict)
    return model


def _finished(model: Any, weights: str | Path, whole: Any, backbone: str) -> Any:
    model.head.register_forward_hook(float32_outputs)
    load_detector_weights(model, weights, whole, lambda: default_weights(models.get_model_weights(backbone).DEFAULT))
    return model
