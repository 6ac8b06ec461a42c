"""YOLOv3-SPP on boxes in YOLO's, COCO's or VOC's format."""

from __future__ import annotations

import dataclasses
import logging
from typing import Annotated, Any, ClassVar, Literal

import tyro
from ignite.engine import Engine
from torch import nn

from ignite_imgtools import data, engines, losses, models
from ignite_imgtools.data import transforms
from ignite_imgtools.recipes.config import ConfigError, refused_arguments
from ignite_imgtools.recipes.detection_run import DetectionConfig, DetectionRecipe

__all__ = ["Config", "create_model", "evaluate", "exportable", "predict", "train"]

# The tutorials' recipe, which starts from weights of COCO.
_FULL = {
    "width": 1.0,
    "depth": 1.0,
    "max_size": 512,
    "multi_scale": 1.5,
    "optimizer": "sgd",
    "lr": 1e-3,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "batch_size": 16,
    "epochs": 30,
    "lr_steps": (),
    "warmup": 1000,
}
# For the built-in set on a CPU: a few minutes on two cores.
_SMALL = {
    "width": 0.25,
    "depth": 0.34,
    "max_size": 160,
    "multi_scale": 1.0,
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "batch_size": 8,
    "epochs": 12,
    "lr_steps": (),
    "warmup": 50,
}
_Float = tyro.conf.arg(metavar="X")

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(DetectionConfig):
    """Train YOLOv3-SPP (Redmon and Farhadi, 2018) on boxes in YOLO's, COCO's or VOC's format.

    The defaults are the whole network at 512 pixels, 30 epochs of SGD, meant for --weights of COCO; for the
    built-in set on a CPU a quarter of its channels at 160 pixels.
    """

    FULL: ClassVar[dict[str, Any]] = _FULL
    SMALL: ClassVar[dict[str, Any]] = _SMALL
    NESTEROV: ClassVar[bool] = True

    # Follows from max_size.
    min_size: tyro.conf.Suppress[int | None] = None
    max_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Images are scaled so that their long side has this many pixels."""
    width: Annotated[float | None, _Float] = None
    """Factor of the channels of all layers."""
    depth: Annotated[float | None, _Float] = None
    """Factor of the numbers of residual blocks."""
    anchors: Literal["kmeans", "coco"] = "kmeans"
    """Anchors found among the boxes of the training set, or those that were published for COCO."""
    mosaic: bool = True
    """Train on mosaics of four images; without, on single ones."""
    multi_scale: Annotated[float | None, _Float] = None
    """Train at sizes from --max-size divided to multiplied by this, one for each optimizer step; 1 for one size."""
    degrees: Annotated[float, _Float] = 0.0
    """Mosaics are turned by up to this angle,"""
    translate: Annotated[float, _Float] = 0.0
    """moved by up to this part of their sides,"""
    scale: Annotated[float, _Float] = 0.0
    """scaled by a factor of up to 1 plus or minus this,"""
    shear: Annotated[float, _Float] = 0.0
    """and sheared by up to this angle."""
    hsv: Annotated[tuple[float, float, float], tyro.conf.arg(metavar="H S V")] = (0.0138, 0.678, 0.36)
    """How far hue, saturation and brightness may change, as parts of their ranges."""
    box_loss: Literal["giou", "ciou"] = "giou"
    """Similarity of boxes that is learned, and that the objectness aims at."""
    box_gain: Annotated[float, _Float] = 3.54
    """Weight of the boxes in the loss,"""
    objectness_gain: Annotated[float, _Float] = 64.3
    """of the objectness,"""
    class_gain: Annotated[float, _Float] = 37.4
    """and of the classes."""
    anchor_iou: Annotated[float, _Float] = 0.20
    """Objects are assigned to the anchors that resemble their shape by more than this IoU."""
    min_score: Annotated[float, _Float] = 0.01
    """Leave out detections of a lower score."""
    nms_iou: Annotated[float, _Float] = 0.6
    """Leave out detections that overlap a better one of their class by more than this IoU."""
    momentum: Annotated[float, _Float] = 0.937
    """Momentum of SGD."""

    def check(self) -> None:
        super().check()
        if self.max_size is not None and (self.max_size < 64 or self.max_size % 32):
            raise ConfigError(f"--max-size must be a multiple of 32 from 64 on, got {self.max_size}")
        if self.multi_scale is not None and not 1 <= self.multi_scale <= 4:
            raise ConfigError(f"--multi-scale must be from 1 to 4, got {self.multi_scale}")
        with refused_arguments():
            self.affine()
            transforms.HsvJitter(*self.hsv)

    def filled(self, name: str) -> Any:
        filled = super().filled(name)
        # With a short side of no less, the long side alone decides: what images of one shape are grouped by.
        return dataclasses.replace(filled, min_size=filled.max_size)

    def affine(self) -> transforms.AffineRange:
        """What the affine map of a mosaic is drawn from."""
        return transforms.AffineRange(self.degrees, self.translate, self.scale, self.shear)


def create_model(config: Any, num_classes: int) -> nn.Module:
    """The detector of a configuration without ``None``; ``num_classes`` counts the background."""
    loss_fn = losses.YoloLoss(
        box_gain=config.box_gain,
        objectness_gain=config.objectness_gain,
        class_gain=config.class_gain,
        anchor_iou=config.anchor_iou,
        similarity=config.box_loss,
    )
    return models.yolov3_spp(
        num_classes,
        size=config.max_size,
        width=config.width,
        depth=config.depth,
        weights=config.weights,
        trainable_layers=config.trainable_layers,
        loss_fn=loss_fn,
        score_threshold=config.min_score,
        nms_iou=config.nms_iou,
    )


def _train_transforms(config: Any) -> Any:
    return transforms.DetectionTransform([transforms.HsvJitter(*config.hsv)], hflip=config.flip)


def _single_transforms(config: Any) -> Any:
    # What a mosaic is made of stays as it is: the mosaic is transformed.
    return None if config.mosaic else _train_transforms(config)


def _mosaics(config: Any, train_set: Any) -> Any:
    if not config.mosaic:
        return train_set
    return data.MosaicDataset(
        train_set,
        config.max_size,
        affine=config.affine(),
        transforms=_train_transforms(config),
        on_bad_sample=config.on_bad_sample,
    )


def _fit_anchors(config: Any, model: nn.Module, train_set: Any) -> None:
    images = train_set.dataset if isinstance(train_set, data.MosaicDataset) else train_set
    sizes = data.object_sizes(images, config.max_size)
    if config.anchors == "kmeans" and len(sizes):
        model.set_anchors(data.kmeans_anchors(sizes))  # type: ignore[operator]  # a Yolov3Spp
    if len(sizes):
        fit = data.anchor_fit(sizes, model.anchors.reshape(-1, 2), config.anchor_iou)  # type: ignore[operator]
        _logger.info(
            "anchors (%s): mean IoU %.3f with the objects, best possible recall %.4f",
            config.anchors,
            fit.mean_iou,
            fit.best_possible_recall,
        )


def _attach_sizes(config: Any, trainer: Engine, model: nn.Module) -> None:
    if config.multi_scale > 1:
        sizes = engines.multi_scale_sizes(config.max_size, config.multi_scale)
        engines.attach_multi_scale(trainer, model, sizes, seed=config.seed, every=config.accumulate)


_recipe = DetectionRecipe(
    "yolov3_spp",
    Config,
    create_model,
    built_in_format="yolo",
    train_transforms=_single_transforms,
    wrap_train_set=_mosaics,
    prepare_model=_fit_anchors,
    attach=_attach_sizes,
)
train, evaluate, predict, exportable = _recipe.train, _recipe.evaluate, _recipe.predict, _recipe.exportable
