"""RetinaNet with a feature pyramid on COCO, VOC or YOLO boxes."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import tyro
from torch import nn

from ignite_imgtools import models
from ignite_imgtools.recipes.config import ConfigError
from ignite_imgtools.recipes.detection_run import DetectionConfig, DetectionRecipe

__all__ = ["Config", "create_model", "evaluate", "exportable", "predict", "train"]

# torchvision's model, with the schedule of the tutorials' training on several GPUs (lr 0.02 for a total batch of 16).
_FULL = {
    "backbone": "resnet50",
    "fpn_channels": 256,
    "head_norm": "none",
    "min_size": 800,
    "max_size": 1333,
    "anchor_sizes": (32, 64, 128, 256, 512),
    "optimizer": "sgd",
    "lr": 0.01,
    "weight_decay": 1e-4,
    "schedule": "multistep",
    "lr_steps": (7, 12),
    "batch_size": 8,
    "epochs": 20,
    "warmup": 1000,
}
# For the built-in set on a CPU: a few minutes on two cores.
_SMALL = {
    "backbone": "resnet18",
    "fpn_channels": 64,
    "head_norm": "group",
    "min_size": 112,
    "max_size": 160,
    "anchor_sizes": (16, 32, 64, 96, 128),
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "lr_steps": (),
    "batch_size": 8,
    "epochs": 6,
    "warmup": 30,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(DetectionConfig):
    """Train RetinaNet (Lin et al., 2017) on COCO, VOC or YOLO boxes.

    The defaults are ResNet-50 at 800 pixels, 20 epochs; for the built-in set on a CPU ResNet-18 at 160 pixels.
    """

    FULL: ClassVar[dict[str, Any]] = _FULL
    SMALL: ClassVar[dict[str, Any]] = _SMALL

    backbone: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """Backbone: any convolutional classifier of torchvision, such as resnet50 or mobilenet_v3_large."""
    norm: Literal["batch", "frozen", "sync"] = "batch"
    """Normalisation in the backbone: batch statistics, frozen ones, or statistics over all processes (CUDA)."""
    fpn_channels: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Channels of the feature pyramid and of the heads."""
    head_norm: Literal["none", "group"] | None = None
    """Normalisation in the heads: none, as in the paper, or group, which learns much sooner from random weights."""
    anchor_sizes: tuple[int, ...] | None = None
    """Sides of the smallest anchors of each of the five levels, in pixels of the resized image."""
    score_threshold: Annotated[float, tyro.conf.arg(metavar="X")] = 0.05
    """Detections of a lower score are left out in evaluation."""

    def check(self) -> None:
        super().check()
        if self.anchor_sizes is not None and len(self.anchor_sizes) != 5:
            raise ConfigError(f"--anchor-sizes must be 5 numbers, got {len(self.anchor_sizes)}")


def create_model(config: Any, num_classes: int) -> nn.Module:
    """The detector of a configuration without ``None``; ``num_classes`` counts the background."""
    return models.retinanet(
        num_classes,
        backbone=config.backbone,
        weights=config.weights,
        trainable_layers=config.trainable_layers,
        norm=config.norm,
        min_size=config.min_size,
        max_size=config.max_size,
        fpn_channels=config.fpn_channels,
        head_norm=config.head_norm,
        anchor_sizes=config.anchor_sizes,
        score_thresh=config.score_threshold,
        detections_per_img=100,
    )


_recipe = DetectionRecipe("retinanet", Config, create_model)
train, evaluate, predict, exportable = _recipe.train, _recipe.evaluate, _recipe.predict, _recipe.exportable
