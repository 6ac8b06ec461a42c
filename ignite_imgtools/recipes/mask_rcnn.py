"""Mask R-CNN with a feature pyramid on the instance masks of COCO, VOC or Penn-Fudan."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import tyro
from torch import nn

from ignite_imgtools import models
from ignite_imgtools.recipes.config import ConfigError
from ignite_imgtools.recipes.detection_run import DetectionConfig, DetectionRecipe

__all__ = ["Config", "create_model", "evaluate", "exportable", "predict", "train"]

# torchvision's model, with the schedule of the tutorials' training from weights of ImageNet (lr 0.08 for a total
# batch of 64).
_FULL = {
    "backbone": "resnet50",
    "heads": "full",
    "min_size": 800,
    "max_size": 1333,
    "anchor_sizes": (32, 64, 128, 256, 512),
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
    "backbone": "resnet18",
    "heads": "small",
    "min_size": 112,
    "max_size": 160,
    "anchor_sizes": (8, 11, 16, 23, 32, 45, 64, 91, 128, 181),
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "lr_steps": (),
    "batch_size": 8,
    "epochs": 4,
    "warmup": 30,
}
_HEADS: dict[str, dict[str, Any]] = {
    "full": {},
    "small": {
        "fpn_channels": 64,
        "representation": 256,
        "mask_layers": (64, 64),
        "proposals": (200, 100),
        "sampling_ratio": 1,
        "rpn_batch_size_per_image": 32,
        "box_batch_size_per_image": 64,
        "box_positive_fraction": 0.5,
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(DetectionConfig):
    """Train Mask R-CNN (He et al., 2017) on the instance masks of COCO, VOC or Penn-Fudan.

    The defaults are ResNet-50 at 800 pixels, 26 epochs; for the built-in set on a CPU ResNet-18 at 160 pixels.
    """

    FULL: ClassVar[dict[str, Any]] = _FULL
    SMALL: ClassVar[dict[str, Any]] = _SMALL

    backbone: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Backbone: any convolutional classifier of torchvision, such as resnet50 or mobilenet_v3_large."""
    heads: Literal["full", "small"] | None = None
    """Size of the feature pyramid and of the heads: torchvision's, or a quarter of it for small images."""
    norm: Literal["batch", "frozen", "sync"] = "batch"
    """Normalisation in the backbone: batch statistics, frozen ones, or statistics over all processes (CUDA)."""
    anchor_sizes: tuple[int, ...] | None = None
    """Sides of the anchors in pixels of the resized image, as many for each of the five levels: 5, or 10, or 15."""

    def check(self) -> None:
        super().check()
        if self.anchor_sizes is not None and len(self.anchor_sizes) % 5:
            raise ConfigError(f"--anchor-sizes must be 5, 10 or 15 numbers, got {len(self.anchor_sizes)}")


def create_model(config: Any, num_classes: int) -> nn.Module:
    """The detector of a configuration without ``None``; ``num_classes`` counts the background."""
    per_level = len(config.anchor_sizes) // 5
    return models.mask_rcnn(
        num_classes,
        backbone=config.backbone,
        weights=config.weights,
        trainable_layers=config.trainable_layers,
        norm=config.norm,
        min_size=config.min_size,
        max_size=config.max_size,
        anchor_sizes=[config.anchor_sizes[level * per_level :][:per_level] for level in range(5)],
        **_HEADS[config.heads],
    )


_recipe = DetectionRecipe("mask_rcnn", Config, create_model, iou_types=("bbox", "segm"))
train, evaluate, predict, exportable = _recipe.train, _recipe.evaluate, _recipe.predict, _recipe.exportable
