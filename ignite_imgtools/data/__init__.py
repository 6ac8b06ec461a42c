from .coco import CocoDetection
from .coco_index import coco_index
from .splits import split_dataset
from .voc import VocDetection

__all__ = [
    "CocoDetection",
    "VocDetection",
    "coco_index",
    "split_dataset",
]
