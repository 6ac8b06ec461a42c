"""Losses: from a model's output and the targets to terms whose sum is minimised."""

from ignite_imgtools.losses.deep_supervision import DeepSupervisionLoss
from ignite_imgtools.losses.dice import dice_loss
from ignite_imgtools.losses.segmentation import SegmentationLoss, cross_entropy

__all__ = ["DeepSupervisionLoss", "SegmentationLoss", "cross_entropy", "dice_loss"]
