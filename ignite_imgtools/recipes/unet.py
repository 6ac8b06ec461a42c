"""U-Net on DRIVE's vessels, VOC segmentation or folders of masks."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal

import tyro
from torch import nn

from ignite_imgtools import models
from ignite_imgtools.recipes.config import ConfigError
from ignite_imgtools.recipes.segmentation_run import SegmentationConfig, SegmentationRecipe

__all__ = ["Config", "create_model", "evaluate", "exportable", "predict", "train"]

# What the tutorials train on DRIVE, whose images are 565 pixels wide: half to 1.2 of that, and DRIVE's own colours.
_FULL = {
    "base_size": (282, 678),
    "crop_size": 480,
    "vflip": 0.5,
    "mean": (0.709, 0.381, 0.224),
    "std": (0.127, 0.079, 0.043),
    "eval_size": 0,
    "base_channels": 32,
    "dice": True,
    "optimizer": "sgd",
    "lr": 0.01,
    "weight_decay": 1e-4,
    "batch_size": 4,
    "epochs": 200,
}
# For the built-in set on a CPU: a few minutes on two cores.
_SMALL = {
    "base_size": (80, 160),
    "crop_size": 96,
    "vflip": 0.5,
    "eval_size": 0,
    "base_channels": 16,
    "dice": True,
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.01,
    "batch_size": 8,
    "epochs": 5,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(SegmentationConfig):
    """Train U-Net (Ronneberger et al., 2015) on DRIVE's vessels, VOC segmentation or folders of masks.

    The defaults are the tutorials' schedule for DRIVE: 200 epochs at crops of 480 pixels, cross-entropy and
    Dice loss, DRIVE's mean colour; for the built-in set on a CPU half the channels at crops of 96 pixels. With two
    classes the second one has twice the weight.
    """

    FULL: ClassVar[dict[str, Any]] = _FULL
    SMALL: ClassVar[dict[str, Any]] = _SMALL

    encoder: Literal["none", "mobilenet_v3_large", "vgg16"] = "none"
    """Contracting half: U-Net's own, or the layers of a classifier."""
    base_channels: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Channels of the first level, of U-Net's own."""
    bilinear: bool = True
    """Enlarge by bilinear interpolation, or by transposed convolutions, in U-Net's own."""

    def filled(self, name: str) -> Any:
        filled = super().filled(name)
        # The layers of a classifier have the channels that they have.
        return filled if self.encoder == "none" else dataclasses.replace(filled, base_channels=self.base_channels)

    def check(self) -> None:
        super().check()
        if self.encoder != "none" and self.base_channels is not None:
            raise ConfigError(f"--base-channels is for U-Net's own encoder, --encoder is {self.encoder}: leave one out")


def create_model(config: Any, num_classes: int) -> nn.Module:
    """The segmenter of a configuration without ``None``; ``num_classes`` counts the background."""
    if config.encoder == "mobilenet_v3_large":
        return models.unet_mobilenet_v3_large(num_classes, weights=config.weights)
    if config.encoder == "vgg16":
        return models.unet_vgg16(num_classes, weights=config.weights)
    return models.unet(
        num_classes, base_channels=config.base_channels, bilinear=config.bilinear, weights=config.weights
    )


_recipe = SegmentationRecipe(
    "unet",
    Config,
    create_model,
    built_in="drive",
    class_weights={2: (1.0, 2.0)},
    best="dice",
    panels={"num_images": 4, "height": 420},
)
train, evaluate, predict, exportable = _recipe.train, _recipe.evaluate, _recipe.predict, _recipe.exportable
