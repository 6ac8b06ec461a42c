"""Handlers: what is attached to trainers and evaluators."""

from ignite_imgtools.handlers.checkpoint_file import CheckpointError, load_checkpoint, save_checkpoint
from ignite_imgtools.handlers.checkpoint_folder import newest_valid_checkpoint, sweep_temporary_files
from ignite_imgtools.handlers.checkpoints import Checkpoints, attach_checkpoints
from ignite_imgtools.handlers.console import show_messages
from ignite_imgtools.handlers.curves import attach_curves
from ignite_imgtools.handlers.drawing import draw_boxes, prediction_picture
from ignite_imgtools.handlers.engine_handlers import attach_error_guard
from ignite_imgtools.handlers.evaluation import attach_evaluation_summary, evaluate_on_epoch
from ignite_imgtools.handlers.evaluation_analysis import attach_evaluation_analysis
from ignite_imgtools.handlers.evaluation_files import attach_evaluation_files
from ignite_imgtools.handlers.image_panels import ImagePanels
from ignite_imgtools.handlers.metric_logger import MetricLogger
from ignite_imgtools.handlers.non_finite import NonFiniteWatch
from ignite_imgtools.handlers.pr_curve import attach_pr_curve
from ignite_imgtools.handlers.run_folder import RunFolderError, close_run_folder, open_run_folder
from ignite_imgtools.handlers.schedules import steps_per_epoch, warmup_cosine, warmup_multistep, warmup_poly
from ignite_imgtools.handlers.signals import SignalHandlers, attach_signals
from ignite_imgtools.handlers.tensorboard import TensorBoardWriter, attach_tensorboard
from ignite_imgtools.handlers.weights import load_model

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "ImagePanels",
    "MetricLogger",
    "NonFiniteWatch",
    "RunFolderError",
    "SignalHandlers",
    "TensorBoardWriter",
    "attach_checkpoints",
    "attach_curves",
    "attach_error_guard",
    "attach_evaluation_analysis",
    "attach_evaluation_files",
    "attach_evaluation_summary",
    "attach_pr_curve",
    "attach_signals",
    "attach_tensorboard",
    "close_run_folder",
    "draw_boxes",
    "evaluate_on_epoch",
    "load_checkpoint",
    "load_model",
    "newest_valid_checkpoint",
    "open_run_folder",
    "prediction_picture",
    "save_checkpoint",
    "show_messages",
    "steps_per_epoch",
    "sweep_temporary_files",
    "warmup_cosine",
    "warmup_multistep",
    "warmup_poly",
]
