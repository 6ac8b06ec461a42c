"""Faster R-CNN over torchvision's parts, with a ResNet and feature pyramid of choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.detection import FasterRCNN, FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.resnet import ResNet
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from ignite_imgtools.models.weights import default_weights, load_weights

__all__ = ["faster_rcnn", "resnet_fpn"]

_NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "frozen": FrozenBatchNorm2d,
    "sync": nn.SyncBatchNorm,
}


def faster_rcnn(
    num_classes: int,
    *,
    backbone: str = "resnet50",
    weights: str | Path = "none",
    trainable_layers: int | None = None,
    norm: str = "batch",
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    fpn_channels: int = 256,
    anchor_sizes: Sequence[int | Sequence[int]] = (32, 64, 128, 256, 512),
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    proposals: tuple[int, int] = (2000, 1000),
    sampling_ratio: int = 2,
    representation: int = 1024,
    **options: Any,
) -> FasterRCNN:
    """Faster R-CNN (Ren et al. 2015) with a feature pyramid (Lin et al. 2017).

    Its heads return float32 under autocast too: torchvision computes boxes in the dtype of the predicted offsets, and
    bfloat16 cannot tell pixel 513 from pixel 514.

    Args:
        num_classes: the background counts as one.
        backbone: any ResNet, ResNeXt or Wide ResNet of torchvision, by its name.
        weights: ``"none"`` for random ones; ``"default"`` for torchvision's, of COCO for ``resnet50`` and of ImageNet
            for the backbone of the others; or a file of a detector or of a classifier, of which the part that fits
            is loaded.
        trainable_layers: 0..5, how many stages of the backbone are trained, counted from its end; by default 3, and
            5 with random weights.
        norm: of the backbone: ``"batch"``, ``"frozen"``, or ``"sync"`` for statistics over all processes.
        min_size: the shorter side to which images are resized, in pixels; of several one is drawn in training.
        max_size: the longer side is never above it.
        fpn_channels: of each level of the pyramid.
        anchor_sizes: in pixels of the resized image, one or equally many for each of the five levels.
        aspect_ratios: height over width of the anchors, on each level.
        proposals: how many are kept in training and in evaluation, for each image.
        sampling_ratio: points along a side of each of the 7 x 7 cells of RoI align, whose backward pass on a CPU takes
            a good part of a step.
        representation: features of the box head.
        options: further arguments of torchvision's ``FasterRCNN``.

    Returns:
        ``torchvision.models.detection.FasterRCNN``.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes counts the background and must be at least 2, got {num_classes}")
    if len(anchor_sizes) != 5:
        raise ValueError(f"anchor_sizes must have one entry for each of 5 levels, got {len(anchor_sizes)}")
    sizes = tuple((size,) if isinstance(size, int) else tuple(size) for size in anchor_sizes)
    if len({len(level) for level in sizes}) > 1:
        raise ValueError(f"anchor_sizes must have the same number of anchors on each level, got {sizes}")
    body = resnet_fpn(
        backbone, norm=norm, trainable_layers=_trainable_layers(trainable_layers, weights), out_channels=fpn_channels
    )
    roi_pool = MultiScaleRoIAlign(featmap_names=["0", "1", "2", "3"], output_size=7, sampling_ratio=sampling_ratio)
    # torchvision takes the strides from the first images it sees, and wrongly where one is padded by half its size.
    features = {str(level): torch.zeros(1, 1, 64 >> level, 64 >> level) for level in range(4)}
    roi_pool(features, [torch.zeros(1, 4)], [(256, 256)])
    model = FasterRCNN(
        body,
        min_size=min_size if isinstance(min_size, int) else tuple(min_size),
        max_size=max_size,
        rpn_anchor_generator=AnchorGenerator(sizes, (tuple(aspect_ratios),) * len(sizes)),
        rpn_pre_nms_top_n_train=proposals[0],
        rpn_pre_nms_top_n_test=proposals[1],
        rpn_post_nms_top_n_train=proposals[0],
        rpn_post_nms_top_n_test=proposals[1],
        box_roi_pool=roi_pool,
        box_head=TwoMLPHead(fpn_channels * 7**2, representation),
        box_predictor=FastRCNNPredictor(representation, num_classes),
        **options,
    )
    model.rpn.head.register_forward_hook(_outputs_to_float32)
    model.roi_heads.box_predictor.register_forward_hook(_outputs_to_float32)
    _load(model, backbone, weights)
    return model


def resnet_fpn(
    name: str, *, norm: str = "batch", trainable_layers: int = 5, out_channels: int = 256
) -> BackboneWithFPN:
    """A ResNet of torchvision with random weights under a feature pyramid of five levels, strides 4 to 64.

    Args:
        name: of the function in ``torchvision.models``.
        norm: ``"batch"``, ``"frozen"`` or ``"sync"``.
        trainable_layers: 0..5, counted from the end; the parameters of the others do not require gradients.
        out_channels: of each level.

    Raises:
        ValueError: an argument is out of range.
    """
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {sorted(_NORMS)}, got {norm!r}")
    if not 0 <= trainable_layers <= 5:
        raise ValueError(f"trainable_layers must be in 0..5, got {trainable_layers}")
    known = [model for model in models.list_models(models) if _is_resnet(model)]
    if name not in known:
        raise ValueError(f"backbone must be one of {', '.join(known)}, got {name!r}")
    resnet: ResNet = models.get_model(name, weights=None, norm_layer=_NORMS[norm])
    trained = ("layer4", "layer3", "layer2", "layer1", "conv1")[:trainable_layers] + ("bn1",) * (trainable_layers == 5)
    for parameter_name, parameter in resnet.named_parameters():
        parameter.requires_grad_(parameter_name.startswith(trained) if trained else False)
    widths = [resnet.inplanes // 8 * 2**level for level in range(4)]
    layers = {f"layer{level + 1}": str(level) for level in range(4)}
    return BackboneWithFPN(resnet, layers, widths, out_channels)


def _is_resnet(name: str) -> bool:
    """Whether torchvision's model of this name is a ResNet, told by its name without building it."""
    return name.startswith(("resnet", "resnext", "wide_resnet"))


def _trainable_layers(trainable_layers: int | None, weights: str | Path) -> int:
    if trainable_layers is None:
        return 5 if weights == "none" else 3
    if weights == "none" and trainable_layers < 5:
        raise ValueError(f"trainable_layers={trainable_layers} would freeze random weights: give weights, or 5")
    return trainable_layers


def _load(model: FasterRCNN, backbone: str, weights: str | Path) -> None:
    if weights == "none":
        return
    if weights != "default":
        load_weights(model, weights, prefixes=("", "backbone.body."))
    elif backbone == "resnet50":
        load_weights(model, default_weights(FasterRCNN_ResNet50_FPN_Weights.DEFAULT))
        for module in model.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0  # with which these weights were trained
    else:
        load_weights(model, default_weights(models.get_model_weights(backbone).DEFAULT), prefixes=("backbone.body.",))


def _outputs_to_float32(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    if isinstance(outputs, Tensor):
        return outputs.float()
    return type(outputs)(_outputs_to_float32(module, inputs, output) for output in outputs)
