"""Handlers: what is attached to trainers and evaluators."""

from ignite_imgtools.handlers.checkpoint_file import CheckpointError, load_checkpoint, save_checkpoint
from ignite_imgtools.handlers.checkpoint_folder import newest_valid_checkpoint, sweep_temporary_files
from ignite_imgtools.handlers.checkpoints import Checkpoints, attach_checkpoints
from ignite_imgtools.handlers.engine_handlers import attach_error_guard
from ignite_imgtools.handlers.non_finite import NonFiniteWatch
from ignite_imgtools.handlers.run_folder import RunFolderError, close_run_folder, open_run_folder
from ignite_imgtools.handlers.schedules import steps_per_epoch, warmup_cosine, warmup_multistep, warmup_poly
from ignite_imgtools.handlers.signals import SignalHandlers, attach_signals
from ignite_imgtools.handlers.weights import load_model

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "NonFiniteWatch",
    "RunFolderError",
    "SignalHandlers",
    "attach_checkpoints",
    "attach_error_guard",
    "attach_signals",
    "close_run_folder",
    "load_checkpoint",
    "load_model",
    "newest_valid_checkpoint",
    "open_run_folder",
    "save_checkpoint",
    "steps_per_epoch",
    "sweep_temporary_files",
    "warmup_cosine",
    "warmup_multistep",
    "warmup_poly",
]
