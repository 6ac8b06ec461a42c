from .check import check_dataset, format_report
from .coco import CocoDetection
from .coco_index import coco_index
from .groups import aspect_ratio_groups, image_sizes, padded_shape_groups, padded_shapes
from .images import image_size, read_image
from .layouts import find_layout, open_detection_data
from .loaders import SampleLoader, collate_detection, create_loader
from .make_data import make_data
from .samplers import EvalSampler, GroupedBatchSampler
from .subsets import category_ids, class_names, split_dataset
from .voc import VocDetection

__all__ = [
    "CocoDetection",
    "EvalSampler",
    "GroupedBatchSampler",
    "SampleLoader",
    "VocDetection",
    "aspect_ratio_groups",
    "category_ids",
    "check_dataset",
    "class_names",
    "coco_index",
    "collate_detection",
    "create_loader",
    "find_layout",
    "format_report",
    "image_size",
    "image_sizes",
    "make_data",
    "open_detection_data",
    "padded_shape_groups",
    "padded_shapes",
    "read_image",
    "split_dataset",
]
