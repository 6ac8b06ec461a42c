from .check import check_dataset, format_report
from .coco import CocoDetection
from .coco_index import coco_index
from .dense_batches import collate_dense, collate_dense_lists
from .dense_layouts import open_saliency_data, open_segmentation_data
from .drive import Drive
from .groups import aspect_ratio_groups, image_sizes, padded_shape_groups, padded_shapes
from .images import image_size, read_image
from .layouts import find_layout, open_detection_data
from .loaders import SampleLoader, collate_detection, create_loader
from .make_data import make_data
from .masks import read_mask
from .palette import voc_palette
from .saliency import SaliencyPairs
from .samplers import EvalSampler, GroupedBatchSampler
from .segmentation_folder import SegmentationFolder
from .subsets import category_ids, class_names, split_dataset
from .voc import VocDetection
from .voc_segmentation import VocSegmentation
from .yolo import YoloDetection

__all__ = [
    "CocoDetection",
    "Drive",
    "EvalSampler",
    "GroupedBatchSampler",
    "SaliencyPairs",
    "SampleLoader",
    "SegmentationFolder",
    "VocDetection",
    "VocSegmentation",
    "YoloDetection",
    "aspect_ratio_groups",
    "category_ids",
    "check_dataset",
    "class_names",
    "coco_index",
    "collate_dense",
    "collate_dense_lists",
    "collate_detection",
    "create_loader",
    "find_layout",
    "format_report",
    "image_size",
    "image_sizes",
    "make_data",
    "open_detection_data",
    "open_saliency_data",
    "open_segmentation_data",
    "padded_shape_groups",
    "padded_shapes",
    "read_image",
    "read_mask",
    "split_dataset",
    "voc_palette",
]
