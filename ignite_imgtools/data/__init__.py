"""Data sets in the formats people have, transforms, samplers, loaders, and a built-in data set in all formats."""

from .anchors import AnchorFit, anchor_fit, kmeans_anchors, object_sizes
from .check import check_dataset, format_report
from .class_batches import collate_classification
from .class_folders import ClassFolders
from .class_layouts import open_classification_data, split_classes
from .coco import CocoDetection
from .coco_index import coco_index
from .convert import ConvertedParts, convert_detection_data
from .dense_batches import collate_dense, collate_dense_lists
from .dense_layouts import open_saliency_data, open_segmentation_data
from .drive import Drive
from .groups import aspect_ratio_groups, image_sizes, padded_shape_groups, padded_shapes
from .images import image_size, read_image
from .landmark_files import WFLW_ATTRIBUTES, FacePoints, read_points_csv, read_pts, read_wflw_list
from .landmark_layouts import open_landmark_data
from .landmark_parts import CsvPart, PtsPart, WflwPart
from .landmark_points import FACE_FLIPS, face_flip_permutation
from .landmarks import FaceLandmarks, collate_landmarks, mean_face
from .layouts import find_layout, open_detection_data
from .loaders import SampleLoader, collate_detection, create_loader
from .make_data import make_data
from .masks import read_mask
from .mosaic import MosaicDataset
from .palette import voc_palette
from .penn_fudan import PennFudan
from .person_layouts import open_person_data
from .persons import PersonImages, PersonKeypoints, collate_person_images, collate_persons
from .saliency import SaliencyPairs
from .samplers import EvalSampler, GroupedBatchSampler
from .segmentation_folder import SegmentationFolder
from .subsets import category_ids, class_names, split_dataset
from .voc import VocDetection
from .voc_segmentation import VocSegmentation
from .yolo import YoloDetection

__all__ = [
    "FACE_FLIPS",
    "WFLW_ATTRIBUTES",
    "AnchorFit",
    "ClassFolders",
    "CocoDetection",
    "ConvertedParts",
    "CsvPart",
    "Drive",
    "EvalSampler",
    "FaceLandmarks",
    "FacePoints",
    "GroupedBatchSampler",
    "MosaicDataset",
    "PennFudan",
    "PersonImages",
    "PersonKeypoints",
    "PtsPart",
    "SaliencyPairs",
    "SampleLoader",
    "SegmentationFolder",
    "VocDetection",
    "VocSegmentation",
    "WflwPart",
    "YoloDetection",
    "anchor_fit",
    "aspect_ratio_groups",
    "category_ids",
    "check_dataset",
    "class_names",
    "coco_index",
    "collate_classification",
    "collate_dense",
    "collate_dense_lists",
    "collate_detection",
    "collate_landmarks",
    "collate_person_images",
    "collate_persons",
    "convert_detection_data",
    "create_loader",
    "face_flip_permutation",
    "find_layout",
    "format_report",
    "image_size",
    "image_sizes",
    "kmeans_anchors",
    "make_data",
    "mean_face",
    "object_sizes",
    "open_classification_data",
    "open_detection_data",
    "open_landmark_data",
    "open_person_data",
    "open_saliency_data",
    "open_segmentation_data",
    "padded_shape_groups",
    "padded_shapes",
    "read_image",
    "read_mask",
    "read_points_csv",
    "read_pts",
    "read_wflw_list",
    "split_classes",
    "split_dataset",
    "voc_palette",
]
