"""Handlers: what is attached to trainers and evaluators."""

from ignite_imgtools.handlers.checkpoint_file import CheckpointError, load_checkpoint, save_checkpoint
from ignite_imgtools.handlers.checkpoint_folder import newest_valid_checkpoint, sweep_temporary_files
from ignite_imgtools.handlers.checkpoints import Checkpoints, attach_checkpoints
from ignite_imgtools.handlers.class_panels import ClassPanels
from ignite_imgtools.handlers.classification_analysis import attach_classification_analysis
from ignite_imgtools.handlers.console import show_messages
from ignite_imgtools.handlers.curves import attach_curves
from ignite_imgtools.handlers.dense_panels import DensePanels, attach_mask_panels, attach_saliency_panels
from ignite_imgtools.handlers.drawing import draw_boxes, prediction_picture
from ignite_imgtools.handlers.engine_handlers import attach_error_guard
from ignite_imgtools.handlers.evaluation import attach_evaluation_summary, evaluate_on_epoch
from ignite_imgtools.handlers.evaluation_analysis import attach_evaluation_analysis
from ignite_imgtools.handlers.evaluation_files import attach_evaluation_files
from ignite_imgtools.handlers.image_panels import BestImagePanels, ImagePanels, WorstImagePanels
from ignite_imgtools.handlers.landmark_analysis import attach_landmark_analysis
from ignite_imgtools.handlers.landmark_drawing import draw_landmarks
from ignite_imgtools.handlers.landmark_panels import LandmarkPanels
from ignite_imgtools.handlers.mask_drawing import cut_out, mask_overlay, palette_image
from ignite_imgtools.handlers.metric_logger import MetricLogger
from ignite_imgtools.handlers.non_finite import NonFiniteWatch
from ignite_imgtools.handlers.pose_drawing import draw_skeletons, heatmap_overlay
from ignite_imgtools.handlers.pose_panels import PosePanels
from ignite_imgtools.handlers.pr_curve import attach_pr_curve
from ignite_imgtools.handlers.process_watch import attach_process_watch
from ignite_imgtools.handlers.profile import attach_profile
from ignite_imgtools.handlers.report import attach_report, write_report
from ignite_imgtools.handlers.run_folder import RunFolderError, close_run_folder, open_run_folder
from ignite_imgtools.handlers.saliency_analysis import attach_saliency_analysis
from ignite_imgtools.handlers.schedules import steps_per_epoch, warmup_cosine, warmup_multistep, warmup_poly
from ignite_imgtools.handlers.segmentation_analysis import attach_segmentation_analysis
from ignite_imgtools.handlers.signals import SignalHandlers, attach_signals
from ignite_imgtools.handlers.tensorboard import TensorBoardWriter, attach_tensorboard
from ignite_imgtools.handlers.weights import load_model

__all__ = [
    "BestImagePanels",
    "CheckpointError",
    "Checkpoints",
    "ClassPanels",
    "DensePanels",
    "ImagePanels",
    "LandmarkPanels",
    "MetricLogger",
    "NonFiniteWatch",
    "PosePanels",
    "RunFolderError",
    "SignalHandlers",
    "TensorBoardWriter",
    "WorstImagePanels",
    "attach_checkpoints",
    "attach_classification_analysis",
    "attach_curves",
    "attach_error_guard",
    "attach_process_watch",
    "attach_evaluation_analysis",
    "attach_evaluation_files",
    "attach_evaluation_summary",
    "attach_landmark_analysis",
    "attach_mask_panels",
    "attach_pr_curve",
    "attach_profile",
    "attach_report",
    "attach_saliency_analysis",
    "attach_saliency_panels",
    "attach_segmentation_analysis",
    "attach_signals",
    "attach_tensorboard",
    "close_run_folder",
    "cut_out",
    "draw_boxes",
    "draw_skeletons",
    "draw_landmarks",
    "evaluate_on_epoch",
    "heatmap_overlay",
    "load_checkpoint",
    "load_model",
    "mask_overlay",
    "newest_valid_checkpoint",
    "open_run_folder",
    "palette_image",
    "prediction_picture",
    "save_checkpoint",
    "show_messages",
    "steps_per_epoch",
    "sweep_temporary_files",
    "warmup_cosine",
    "warmup_multistep",
    "warmup_poly",
    "write_report",
]
