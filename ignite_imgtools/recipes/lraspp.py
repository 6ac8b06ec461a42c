"""LR-ASPP with MobileNetV3-Large on VOC segmentation, DRIVE or folders of masks."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from torch import nn

from ignite_imgtools import models
from ignite_imgtools.recipes.segmentation_run import SegmentationConfig, SegmentationRecipe

__all__ = ["Config", "create_model", "evaluate", "exportable", "predict", "train"]

# What the tutorials train from torchvision's COCO weights (--weights default).
_FULL = {
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
    "base_size": (128, 224),
    "crop_size": 144,
    "eval_size": 160,
    "norm_momentum": 0.1,
    "optimizer": "adamw",
    "lr": 3e-3,
    "weight_decay": 0.01,
    "batch_size": 8,
    "epochs": 8,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SegmentationConfig):
    """Train LR-ASPP (Howard et al., 2019) with MobileNetV3-Large on VOC segmentation, DRIVE or folders of masks.

    The defaults are the tutorials' schedule of 20 epochs at crops of 480 pixels; for the built-in set on a CPU
    crops of 144 pixels.
    """

    FULL: ClassVar[dict[str, Any]] = _FULL
    SMALL: ClassVar[dict[str, Any]] = _SMALL


def create_model(config: Any, num_classes: int) -> nn.Module:
    """The segmenter of a configuration without ``None``; ``num_classes`` counts the background."""
    return models.lraspp(num_classes, weights=config.weights)


_recipe = SegmentationRecipe("lraspp", Config, create_model)
train, evaluate, predict, exportable = _recipe.train, _recipe.evaluate, _recipe.predict, _recipe.exportable
