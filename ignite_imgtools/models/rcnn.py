"""Faster, Mask and Keypoint R-CNN over torchvision's parts, with a backbone of choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models.detection import (
    FasterRCNN,
    FasterRCNN_ResNet50_FPN_Weights,
    KeypointRCNN,
    KeypointRCNN_ResNet50_FPN_Weights,
    MaskRCNN,
    MaskRCNN_ResNet50_FPN_Weights,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from ignite_imgtools.models.backbones import create_backbone
from ignite_imgtools.models.weights import default_weights, load_detector_weights

__all__ = ["faster_rcnn", "float32_outputs", "keypoint_rcnn", "mask_rcnn", "trainable_stages"]

_MASKS_AT_ONCE = 16


def faster_rcnn(
    num_classes: int,
    *,
    backbone: str = "resnet50",
    fpn: bool = True,
    weights: str | Path = "none",
    trainable_layers: int | None = None,
    norm: str = "batch",
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    fpn_channels: int = 256,
    anchor_sizes: Sequence[int | Sequence[int]] | None = None,
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    proposals: tuple[int, int] = (2000, 1000),
    sampling_ratio: int = 2,
    representation: int = 1024,
    **options: Any,
) -> FasterRCNN:
    """Faster R-CNN (Ren et al. 2015), with a feature pyramid (Lin et al. 2017) or on one feature map.

    Its heads return float32 under autocast too: torchvision computes boxes in the dtype of the predicted offsets, and
    bfloat16 cannot tell pixel 513 from pixel 514.

    Args:
        num_classes: the background counts as one.
        backbone: any convolutional classifier of torchvision, by its name.
        fpn: levels of stride 4 to 64; or the feature map of stride 16 alone.
        weights: ``"none"`` for random ones; ``"default"`` for torchvision's, of COCO for ``resnet50`` and of ImageNet
            for the backbone of the others; or a file of a detector or of a classifier, of which the part that fits
            is loaded.
        trainable_layers: 0..5, how many stages of the backbone are trained, counted from its end; by default 3, and
            5 with random weights.
        norm: of the backbone: ``"batch"``, ``"frozen"``, or ``"sync"`` for statistics over all processes.
        min_size: the shorter side to which images are resized, in pixels; of several one is drawn in training.
        max_size: the longer side is never above it.
        fpn_channels: of each level of the pyramid.
        anchor_sizes: in pixels of the resized image, one or equally many for each level; by default 32 to 512, one
            for each of five levels or all of them on the only one.
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
    body = _create_body(backbone, fpn, weights, trainable_layers, norm, fpn_channels)
    arguments = _arguments(
        body, fpn, min_size, max_size, anchor_sizes, aspect_ratios, proposals, sampling_ratio, representation
    )
    model = FasterRCNN(body, box_predictor=FastRCNNPredictor(representation, num_classes), **arguments, **options)
    return _finished(model, backbone, weights, FasterRCNN_ResNet50_FPN_Weights if fpn else None)


def mask_rcnn(
    num_classes: int,
    *,
    backbone: str = "resnet50",
    fpn: bool = True,
    weights: str | Path = "none",
    trainable_layers: int | None = None,
    norm: str = "batch",
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    fpn_channels: int = 256,
    anchor_sizes: Sequence[int | Sequence[int]] | None = None,
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    proposals: tuple[int, int] = (2000, 1000),
    sampling_ratio: int = 2,
    representation: int = 1024,
    mask_layers: Sequence[int] = (256, 256, 256, 256),
    **options: Any,
) -> MaskRCNN:
    """Mask R-CNN (He et al. 2017), with a feature pyramid or on one feature map.

    In evaluation ``masks`` are bool ``[N, 1, H, W]``, the probability above 0.5. They are pasted into the image a few
    at a time, so that an image takes ``N x H x W`` bytes and not torchvision's many times as much.

    Args:
        mask_layers: channels of the convolutions of the mask head.
        options: further arguments of torchvision's ``MaskRCNN``; the others are those of :func:`faster_rcnn`.

    Returns:
        ``torchvision.models.detection.MaskRCNN``.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes counts the background and must be at least 2, got {num_classes}")
    body = _create_body(backbone, fpn, weights, trainable_layers, norm, fpn_channels)
    arguments = _arguments(
        body, fpn, min_size, max_size, anchor_sizes, aspect_ratios, proposals, sampling_ratio, representation
    )
    model = MaskRCNN(
        body,
        box_predictor=FastRCNNPredictor(representation, num_classes),
        mask_roi_pool=_roi_align(fpn, 14, sampling_ratio),
        mask_head=MaskRCNNHeads(body.out_channels, mask_layers, 1),
        mask_predictor=MaskRCNNPredictor(mask_layers[-1], mask_layers[-1], num_classes),
        **arguments,
        **options,
    )
    model.transform = _MaskTransform.of(model.transform)
    model.roi_heads.mask_predictor.register_forward_hook(float32_outputs)
    return _finished(model, backbone, weights, MaskRCNN_ResNet50_FPN_Weights if fpn else None)


def keypoint_rcnn(
    num_classes: int,
    *,
    num_keypoints: int = 17,
    backbone: str = "resnet50",
    fpn: bool = True,
    weights: str | Path = "none",
    trainable_layers: int | None = None,
    norm: str = "batch",
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    fpn_channels: int = 256,
    anchor_sizes: Sequence[int | Sequence[int]] | None = None,
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    proposals: tuple[int, int] = (2000, 1000),
    sampling_ratio: int = 2,
    representation: int = 1024,
    keypoint_layers: Sequence[int] = (512,) * 8,
    **options: Any,
) -> KeypointRCNN:
    """Keypoint R-CNN (He et al. 2017), with a feature pyramid or on one feature map.

    Args:
        num_keypoints: of an object.
        keypoint_layers: channels of the convolutions of the keypoint head.
        options: further arguments of torchvision's ``KeypointRCNN``; the others are those of :func:`faster_rcnn`.

    Returns:
        ``torchvision.models.detection.KeypointRCNN``.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes counts the background and must be at least 2, got {num_classes}")
    body = _create_body(backbone, fpn, weights, trainable_layers, norm, fpn_channels)
    arguments = _arguments(
        body, fpn, min_size, max_size, anchor_sizes, aspect_ratios, proposals, sampling_ratio, representation
    )
    model = KeypointRCNN(
        body,
        box_predictor=FastRCNNPredictor(representation, num_classes),
        keypoint_roi_pool=_roi_align(fpn, 14, sampling_ratio),
        keypoint_head=KeypointRCNNHeads(body.out_channels, tuple(keypoint_layers)),
        keypoint_predictor=KeypointRCNNPredictor(keypoint_layers[-1], num_keypoints),
        **arguments,
        **options,
    )
    model.roi_heads.keypoint_predictor.register_forward_hook(float32_outputs)
    return _finished(model, backbone, weights, KeypointRCNN_ResNet50_FPN_Weights if fpn else None)


class _MaskTransform(GeneralizedRCNNTransform):
    """torchvision's transform, without masks as floating point numbers, neither of targets nor of detections."""

    @classmethod
    def of(cls, transform: GeneralizedRCNNTransform) -> _MaskTransform:
        return cls(
            transform.min_size,
            transform.max_size,
            transform.image_mean,
            transform.image_std,
            transform.size_divisible,
            transform.fixed_size,
        )

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        masks = None if target is None else target.pop("masks", None)
        image, target = super().resize(image, target)
        if target is not None and masks is not None:
            # The nearest pixel needs no arithmetic, and floats of all masks of an image are gigabytes for a crowd.
            masks = masks.to(torch.uint8)
            same = masks.shape[-2:] == image.shape[-2:]
            target["masks"] = masks if same else functional.interpolate(masks[:, None], size=image.shape[-2:])[:, 0]
        return image, target

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        if self.training:
            return result
        small = [detections.pop("masks") for detections in result]
        result = super().postprocess(result, image_shapes, original_image_sizes)
        for detections, masks, size in zip(result, small, original_image_sizes, strict=True):
            detections["masks"] = _paste(masks, detections["boxes"], size)
        return result


def _paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    pasted = torch.zeros((len(masks), 1, *size), dtype=torch.bool, device=masks.device)
    for start in range(0, len(masks), _MASKS_AT_ONCE):
        part = slice(start, start + _MASKS_AT_ONCE)
        pasted[part] = paste_masks_in_image(masks[part], boxes[part], size) > 0.5
    return pasted


def trainable_stages(trainable_layers: int | None, weights: str | Path) -> int:
    """How many stages of a backbone are trained, by default 3, and 5 with random weights.

    Raises:
        ValueError: random weights would be frozen.
    """
    if trainable_layers is None:
        return 5 if weights == "none" else 3
    if weights == "none" and trainable_layers < 5:
        raise ValueError(f"trainable_layers={trainable_layers} would freeze random weights: give weights, or 5")
    return trainable_layers


def float32_outputs(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """A forward hook: what a module gives out becomes float32, whatever autocast computes in."""
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, Mapping):
        return {key: float32_outputs(module, inputs, output) for key, output in outputs.items()}
    return type(outputs)(float32_outputs(module, inputs, output) for output in outputs)


def _create_body(
    backbone: str,
    fpn: bool,
    weights: str | Path,
    trainable_layers: int | None,
    norm: str,
    fpn_channels: int,
) -> nn.Module:
    return create_backbone(
        backbone,
        strides=(4, 8, 16, 32) if fpn else (16,),
        fpn_channels=fpn_channels if fpn else None,
        norm=norm,
        trainable_layers=trainable_stages(trainable_layers, weights),
    )


def _arguments(
    body: Any,
    fpn: bool,
    min_size: int | Sequence[int],
    max_size: int,
    anchor_sizes: Sequence[int | Sequence[int]] | None,
    aspect_ratios: Sequence[float],
    proposals: tuple[int, int],
    sampling_ratio: int,
    representation: int,
) -> dict[str, Any]:
    """What torchvision's R-CNNs are asked for alike."""
    if anchor_sizes is None:
        anchor_sizes = (32, 64, 128, 256, 512) if fpn else ((32, 64, 128, 256, 512),)
    levels = 5 if fpn else 1
    if len(anchor_sizes) != levels:
        raise ValueError(f"anchor_sizes must have one entry for each of {levels} levels, got {len(anchor_sizes)}")
    sizes = tuple((size,) if isinstance(size, int) else tuple(size) for size in anchor_sizes)
    if len({len(level) for level in sizes}) > 1:
        raise ValueError(f"anchor_sizes must have the same number of anchors on each level, got {sizes}")
    return {
        "min_size": min_size if isinstance(min_size, int) else tuple(min_size),
        "max_size": max_size,
        "rpn_anchor_generator": AnchorGenerator(sizes, (tuple(aspect_ratios),) * len(sizes)),
        "rpn_pre_nms_top_n_train": proposals[0],
        "rpn_pre_nms_top_n_test": proposals[1],
        "rpn_post_nms_top_n_train": proposals[0],
        "rpn_post_nms_top_n_test": proposals[1],
        "box_roi_pool": _roi_align(fpn, 7, sampling_ratio),
        "box_head": TwoMLPHead(body.out_channels * 7**2, representation),
    }


def _roi_align(fpn: bool, output_size: int, sampling_ratio: int) -> MultiScaleRoIAlign:
    strides = (4, 8, 16, 32) if fpn else (16,)
    names = [str(level) for level in range(len(strides))]
    roi_align = MultiScaleRoIAlign(featmap_names=names, output_size=output_size, sampling_ratio=sampling_ratio)
    # torchvision takes the strides from the first images it sees, and wrongly where one is padded by half its size.
    features = {
        name: torch.zeros(1, 1, 256 // stride, 256 // stride) for name, stride in zip(names, strides, strict=True)
    }
    roi_align(features, [torch.zeros(1, 4)], [(256, 256)])
    return roi_align


def _finished(model: Any, backbone: str, weights: str | Path, detector_weights: Any) -> Any:
    model.rpn.head.register_forward_hook(float32_outputs)
    model.roi_heads.box_predictor.register_forward_hook(float32_outputs)
    whole = detector_weights.DEFAULT if backbone == "resnet50" and detector_weights is not None else None
    load_detector_weights(model, weights, whole, lambda: default_weights(models.get_model_weights(backbone).DEFAULT))
    return model
