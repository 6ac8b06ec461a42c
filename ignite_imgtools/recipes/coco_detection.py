"""A detector of torchvision on a backbone of choice, on COCO, VOC or YOLO boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import tyro
from torch import nn

from ignite_imgtools import models
from ignite_imgtools.data import transforms
from ignite_imgtools.recipes.config import ConfigError
from ignite_imgtools.recipes.detection_run import DetectionConfig, DetectionRecipe

__all__ = ["Config", "create_model", "evaluate", "exportable", "predict", "train"]

# The tutorials' training of a Faster R-CNN on the third stage of ResNet-50 (lr 0.01 for a total batch of 8).
_FULL = {
    "backbone": "resnet50",
    "channels": 256,
    "min_size": 800,
    "max_size": 1333,
    "optimizer": "sgd",
    "lr": 0.01,
    "weight_decay": 1e-4,
    "schedule": "multistep",
    "lr_steps": (16, 22),
    "batch_size": 8,
    "epochs": 26,
    "warmup": 1000,
}
# For the built-in set on a CPU: a few minutes on two cores.
_SMALL = {
    "backbone": "mobilenet_v3_large",
    "channels": 64,
    "min_size": 112,
    "max_size": 160,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "lr_steps": (),
    "batch_size": 8,
    "epochs": 6,
    "warmup": 30,
}
_SMALL_BOXES: dict[str, Any] = {
    "representation": 256,
    "proposals": (200, 100),
    "sampling_ratio": 1,
    "rpn_batch_size_per_image": 32,
    "box_batch_size_per_image": 64,
    "box_positive_fraction": 0.5,
}
_SMALL_HEADS: dict[str, dict[str, Any]] = {
    "faster_rcnn": _SMALL_BOXES,
    "keypoint_rcnn": {**_SMALL_BOXES, "keypoint_layers": (64, 64)},
}


_TWO_STAGES = ("faster_rcnn", "keypoint_rcnn")
_SIDES = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_PERSON = ("nose", *(f"{side}_{part}" for part in _SIDES for side in ("left", "right")))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(DetectionConfig):
    """Train a detector of torchvision on a backbone of choice, on COCO, VOC or YOLO boxes.

    The defaults are Faster R-CNN on the feature map of stride 16 of ResNet-50 ("C4") at 800 pixels, 26
    epochs; for the built-in set on a CPU Faster R-CNN with a feature pyramid on MobileNetV3 at 160 pixels.
    """

    FULL: ClassVar[dict[str, Any]] = _FULL
    SMALL: ClassVar[dict[str, Any]] = _SMALL

    model: Literal["faster_rcnn", "retinanet", "fcos", "ssd300", "ssdlite", "keypoint_rcnn"] = "faster_rcnn"
    """Detector. SSD300 and SSDlite have VGG16 and MobileNetV3 as their backbones, and image sizes of their own.
    Keypoint R-CNN is for COCO's persons with their 17 keypoints (`annotations/person_keypoints_*.json`)."""
    backbone: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Backbone: any convolutional classifier of torchvision, such as resnet50, mobilenet_v3_large or convnext_tiny."""
    fpn: bool | None = None
    """With Faster R-CNN: a feature pyramid on four stages, and not the feature map of stride 16 alone."""
    norm: Literal["batch", "frozen", "sync"] = "batch"
    """Normalisation in the backbone: batch statistics, frozen ones, or statistics over all processes (CUDA)."""
    channels: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Channels of the feature pyramid."""
    head_norm: Literal["none", "group"] | None = None
    """With RetinaNet: normalisation in the heads. Random ones hardly learn without: default group, if not --weights."""
    anchor_sizes: tuple[int, ...] | None = None
    """Sides of the anchors in pixels of the resized image, as many for each of five levels; default: torchvision's."""

    def filled(self, name: str) -> Any:
        filled = super().filled(name)
        if filled.fpn is None:
            filled = dataclasses.replace(filled, fpn=filled.model not in _TWO_STAGES or self.is_small)
        if filled.anchor_sizes is None and self.is_small and filled.fpn:
            sizes = {"faster_rcnn": (8, 11, 16, 23, 32, 45, 64, 91, 128, 181), "retinanet": (16, 32, 64, 96, 128)}
            filled = dataclasses.replace(filled, anchor_sizes=sizes.get(filled.model))
        if filled.head_norm is None and filled.model == "retinanet":
            begins_anew = filled.weights == "none" and filled.channels % 32 == 0
            filled = dataclasses.replace(filled, head_norm="group" if begins_anew else "none")
        return filled

    def check(self) -> None:
        super().check()
        if self.model in ("ssd300", "ssdlite"):
            fixed: dict[str, Any] = {"--backbone": self.backbone, "--trainable-layers": self.trainable_layers}
            fixed |= {"--anchor-sizes": self.anchor_sizes, "--min-size": self.min_size, "--max-size": self.max_size}
            for flag, value in fixed.items():
                if value is not None:
                    raise ConfigError(f"{flag} is not for --model {self.model}, which has its own: leave it out")
        if self.fpn is False and self.model not in _TWO_STAGES:
            raise ConfigError(f"--fpn False is for {' and '.join(_TWO_STAGES)}, got --model {self.model}: leave it out")
        if self.head_norm is not None and self.model != "retinanet":
            raise ConfigError(f"--head-norm is for --model retinanet, got --model {self.model}: leave it out")
        if self.model == "keypoint_rcnn" and self.data is None:
            raise ConfigError("--model keypoint_rcnn needs --data with COCO's persons: the built-in set has none")


def create_model(config: Any, num_classes: int) -> nn.Module:
    """The detector of a configuration without ``None``; ``num_classes`` counts the background."""
    if config.model in ("ssd300", "ssdlite"):
        build: Callable[..., nn.Module] = models.ssd300 if config.model == "ssd300" else models.ssdlite
        return build(num_classes, weights=config.weights)
    options: dict[str, Any] = {
        "backbone": config.backbone,
        "weights": config.weights,
        "trainable_layers": config.trainable_layers,
        "norm": config.norm,
        "min_size": config.min_size,
        "max_size": config.max_size,
        "fpn_channels": config.channels,
    }
    if config.model in _TWO_STAGES:
        build = models.faster_rcnn if config.model == "faster_rcnn" else models.keypoint_rcnn
        return build(
            num_classes,
            fpn=config.fpn,
            anchor_sizes=_levels(config.anchor_sizes, 5 if config.fpn else 1),
            **options,
            **(_SMALL_HEADS[config.model] if config.max_size < 320 else {}),
        )
    if config.anchor_sizes is not None:
        options["anchor_sizes"] = config.anchor_sizes
    if config.model == "retinanet":
        # Older records do not know it.
        head_norm = config.head_norm or ("group" if config.channels % 32 == 0 else "none")
        return models.retinanet(num_classes, head_norm=head_norm, detections_per_img=100, **options)
    return models.fcos(num_classes, detections_per_img=100, **options)


def _levels(sizes: tuple[int, ...] | None, levels: int) -> list[tuple[int, ...]] | None:
    """Anchor sizes of each level, where each has equally many."""
    if sizes is None:
        return None
    if len(sizes) % levels:
        raise ValueError(f"--anchor-sizes must be {levels} numbers or a multiple of that, got {len(sizes)}")
    each = len(sizes) // levels
    return [sizes[level * each :][:each] for level in range(levels)]


def _iou_types(config: Any) -> tuple[str, ...]:
    return ("bbox", "keypoints") if config.model == "keypoint_rcnn" else ("bbox",)


def _train_transforms(config: Any) -> Any:
    mirrored = transforms.flip_permutation(_PERSON) if config.model == "keypoint_rcnn" else None
    return transforms.detection_train(hflip=config.flip, keypoint_flip=mirrored)


_recipe = DetectionRecipe(
    "coco_detection", Config, create_model, iou_types=_iou_types, train_transforms=_train_transforms
)
train, evaluate, predict, exportable = _recipe.train, _recipe.evaluate, _recipe.predict, _recipe.exportable
