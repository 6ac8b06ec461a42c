"""Steps and engines of each task, and the gradient update that they share."""

from ignite_imgtools.engines.classification import (
    classification_evaluation_step,
    classification_training_step,
    create_classification_evaluator,
    create_classification_predictor,
    create_classification_trainer,
)
from ignite_imgtools.engines.dense import IMAGENET_MEAN, IMAGENET_STD, create_dense_predictor
from ignite_imgtools.engines.detection import (
    create_detection_evaluator,
    create_detection_trainer,
    detection_evaluation_step,
    detection_training_step,
)
from ignite_imgtools.engines.ema import ExponentialMovingAverage
from ignite_imgtools.engines.gradient_update import GradientUpdate
from ignite_imgtools.engines.heatmaps import flip_heatmaps, heatmaps_to_keypoints, keypoints_to_heatmaps
from ignite_imgtools.engines.landmarks import (
    create_landmark_evaluator,
    create_landmark_predictor,
    create_landmark_trainer,
    crop_to_image,
    landmark_evaluation_step,
    landmark_training_step,
)
from ignite_imgtools.engines.loops import create_evaluator, create_trainer
from ignite_imgtools.engines.mean_losses import MeanDenseLosses, MeanLosses
from ignite_imgtools.engines.mixing import create_mixing
from ignite_imgtools.engines.multi_scale import attach_multi_scale, multi_scale_size, multi_scale_sizes
from ignite_imgtools.engines.oks_nms import COCO_KEYPOINT_SIGMAS, keypoint_similarity, oks_nms
from ignite_imgtools.engines.optimizers import create_optimizer
from ignite_imgtools.engines.parameter_groups import parameter_groups
from ignite_imgtools.engines.pose import (
    create_heatmap_predictor,
    create_pose_evaluator,
    create_pose_predictor,
    create_pose_trainer,
    pose_evaluation_step,
    pose_training_step,
)
from ignite_imgtools.engines.saliency import (
    create_saliency_evaluator,
    create_saliency_trainer,
    saliency_evaluation_step,
    saliency_training_step,
)
from ignite_imgtools.engines.segmentation import (
    create_segmentation_evaluator,
    create_segmentation_trainer,
    segmentation_evaluation_step,
    segmentation_training_step,
)

__all__ = [
    "COCO_KEYPOINT_SIGMAS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ExponentialMovingAverage",
    "GradientUpdate",
    "MeanDenseLosses",
    "MeanLosses",
    "attach_multi_scale",
    "classification_evaluation_step",
    "classification_training_step",
    "create_classification_evaluator",
    "create_classification_predictor",
    "create_classification_trainer",
    "create_dense_predictor",
    "create_detection_evaluator",
    "create_detection_trainer",
    "create_evaluator",
    "create_heatmap_predictor",
    "create_landmark_evaluator",
    "create_landmark_predictor",
    "create_landmark_trainer",
    "create_mixing",
    "create_optimizer",
    "create_pose_evaluator",
    "create_pose_predictor",
    "create_pose_trainer",
    "create_saliency_evaluator",
    "create_saliency_trainer",
    "create_segmentation_evaluator",
    "create_segmentation_trainer",
    "create_trainer",
    "crop_to_image",
    "detection_evaluation_step",
    "detection_training_step",
    "flip_heatmaps",
    "heatmaps_to_keypoints",
    "keypoint_similarity",
    "keypoints_to_heatmaps",
    "landmark_evaluation_step",
    "landmark_training_step",
    "multi_scale_size",
    "multi_scale_sizes",
    "oks_nms",
    "parameter_groups",
    "pose_evaluation_step",
    "pose_training_step",
    "saliency_evaluation_step",
    "saliency_training_step",
    "segmentation_evaluation_step",
    "segmentation_training_step",
]
