"""Steps and engines of each task, and the gradient update that they share."""

from ignite_imgtools.engines.detection import (
    create_detection_evaluator,
    create_detection_trainer,
    detection_evaluation_step,
    detection_training_step,
)
from ignite_imgtools.engines.ema import ExponentialMovingAverage
from ignite_imgtools.engines.gradient_update import GradientUpdate
from ignite_imgtools.engines.loops import create_evaluator, create_trainer
from ignite_imgtools.engines.mean_losses import MeanLosses

__all__ = [
    "ExponentialMovingAverage",
    "GradientUpdate",
    "MeanLosses",
    "create_detection_evaluator",
    "create_detection_trainer",
    "create_evaluator",
    "create_trainer",
    "detection_evaluation_step",
    "detection_training_step",
]
