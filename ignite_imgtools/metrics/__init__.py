"""Metrics: pure functions of tensors, and thin ignite metrics over them."""

from ignite_imgtools.metrics.classification import ClassificationMetric, class_precision_recall, ranks_of_truth
from ignite_imgtools.metrics.coco import CocoMetric
from ignite_imgtools.metrics.coco.files import coco_eval
from ignite_imgtools.metrics.coco_analysis import (
    confusion_matrix,
    error_breakdown,
    per_class_table,
    precision_recall_curves,
)
from ignite_imgtools.metrics.dice import DiceMetric
from ignite_imgtools.metrics.landmarks import LandmarkMetric, Normaliser, face_length, normalised_errors
from ignite_imgtools.metrics.meter_bank import MeterBank, MeterMeans, WindowStatistics
from ignite_imgtools.metrics.saliency import SaliencyMetric, f_measure
from ignite_imgtools.metrics.segmentation import SegmentationMetric, class_scores, pixel_confusion
from ignite_imgtools.metrics.smoothed_value import SmoothedValue
from ignite_imgtools.metrics.voc import VocMetric

__all__ = [
    "ClassificationMetric",
    "CocoMetric",
    "DiceMetric",
    "LandmarkMetric",
    "MeterBank",
    "MeterMeans",
    "Normaliser",
    "SaliencyMetric",
    "SegmentationMetric",
    "SmoothedValue",
    "VocMetric",
    "WindowStatistics",
    "class_precision_recall",
    "class_scores",
    "coco_eval",
    "confusion_matrix",
    "error_breakdown",
    "f_measure",
    "face_length",
    "normalised_errors",
    "per_class_table",
    "pixel_confusion",
    "precision_recall_curves",
    "ranks_of_truth",
]
