"""Transforms of each task: images with their targets, for training and for evaluation."""

from .affine import AffineRange, BoxAffine
from .classification import ClassificationTransform, classification_eval, classification_train
from .dense import DenseTransform, saliency_eval, saliency_train, segmentation_eval, segmentation_train
from .detection import DetectionTransform, detection_eval, detection_train
from .hsv import HsvJitter
from .keypoints import flip_permutation
from .landmarks import LandmarkTransform, landmark_eval, landmark_train
from .pose import PoseTransform, pose_eval, pose_train

__all__ = [
    "AffineRange",
    "BoxAffine",
    "ClassificationTransform",
    "DenseTransform",
    "DetectionTransform",
    "HsvJitter",
    "LandmarkTransform",
    "PoseTransform",
    "classification_eval",
    "classification_train",
    "detection_eval",
    "detection_train",
    "flip_permutation",
    "landmark_eval",
    "landmark_train",
    "pose_eval",
    "pose_train",
    "saliency_eval",
    "saliency_train",
    "segmentation_eval",
    "segmentation_train",
]
