"""FCN with a dilated ResNet or MobileNetV3 on VOC segmentation, DRIVE or folders of masks."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import tyro
from torch import nn

from ignite_imgtools import models
from ignite_imgtools.recipes.segmentation_run import SegmentationConfig, SegmentationRecipe

__all__ = ["Config", "create_model", "evaluate", "exportable", "predict", "train"]

# What the tutorials train from torchvision's COCO weights (--weights default).
_FULL = {
    "backbone": "resnet50",
    "base_size": (260, 1040),
    "crop_size": 480,
    "eval_size": 520,
    "optimizer": "sgd",
    "lr": 1e-4,
    "weight_decay": 1e-4,
    "batch_size": 4,
    "epochs": 20,
}
# For the built-in set on a CPU, from random weights: a few minutes on two cores.
_SMALL = {
    "backbone": "mobilenet_v3_large",
    "base_size": (160, 256),
    "crop_size": 160,
    "eval_size": 192,
    "norm_momentum": 0.1,
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.01,
    "batch_size": 8,
    "epochs": 6,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SegmentationConfig):
    """Train FCN (Long et al., 2015) on VOC segmentation, DRIVE or folders of masks.

    The defaults are the tutorials' schedule of 20 epochs with ResNet-50 at crops of 480 pixels; for the
    built-in set on a CPU MobileNetV3 at crops of 160 pixels.
    """

    FULL: ClassVar[dict[str, Any]] = _FULL
    SMALL: ClassVar[dict[str, Any]] = _SMALL

    backbone: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Backbone: resnet50, resnet101 or mobilenet_v3_large."""
    aux: bool = True
    """Train a second head on an earlier layer; its loss counts half, and it learns ten times as fast."""


def create_model(config: Any, num_classes: int) -> nn.Module:
    """The segmenter of a configuration without ``None``; ``num_classes`` counts the background."""
    return models.fcn(num_classes, config.backbone, config.aux, weights=config.weights)


_recipe = SegmentationRecipe("fcn", Config, create_model, lr_factors={"aux_classifier": 10})
train, evaluate, predict, exportable = _recipe.train, _recipe.evaluate, _recipe.predict, _recipe.exportable
