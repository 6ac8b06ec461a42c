"""Losses: from a model's output and the targets to terms whose sum is minimised."""

from ignite_imgtools.losses.classification import ClassificationLoss
from ignite_imgtools.losses.deep_supervision import DeepSupervisionLoss
from ignite_imgtools.losses.dice import dice_loss
from ignite_imgtools.losses.heatmap import COCO_JOINT_WEIGHTS, HeatmapLoss
from ignite_imgtools.losses.landmarks import LandmarkLoss, LandmarkLossKind, soft_wing, wing
from ignite_imgtools.losses.segmentation import SegmentationLoss, cross_entropy
from ignite_imgtools.losses.yolo import YoloLoss

__all__ = [
    "COCO_JOINT_WEIGHTS",
    "ClassificationLoss",
    "DeepSupervisionLoss",
    "HeatmapLoss",
    "LandmarkLoss",
    "LandmarkLossKind",
    "SegmentationLoss",
    "YoloLoss",
    "cross_entropy",
    "dice_loss",
    "soft_wing",
    "wing",
]
