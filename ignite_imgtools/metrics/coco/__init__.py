"""The COCO evaluation of boxes, masks and keypoints."""

from ignite_imgtools.metrics.coco.ground_truth import GroundTruth
from ignite_imgtools.metrics.coco.metric import CocoMetric
from ignite_imgtools.metrics.coco.parameters import Parameters

__all__ = ["CocoMetric", "GroundTruth", "Parameters"]
