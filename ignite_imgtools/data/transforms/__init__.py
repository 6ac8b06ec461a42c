from .detection import DetectionTransform, detection_eval, detection_train
from .keypoints import flip_permutation

__all__ = ["DetectionTransform", "detection_eval", "detection_train", "flip_permutation"]
