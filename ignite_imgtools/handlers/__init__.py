"""Handlers: what is attached to trainers and evaluators."""

from ignite_imgtools.handlers.schedules import steps_per_epoch, warmup_cosine, warmup_multistep, warmup_poly

__all__ = [
    "steps_per_epoch",
    "warmup_cosine",
    "warmup_multistep",
    "warmup_poly",
]
