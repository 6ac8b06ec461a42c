"""What the trainings of all recipes have in common: how they begin, and from a trainer to the last epoch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ignite_imgtools import data, distributed, engines, handlers, models
from ignite_imgtools.formats import one_line
from ignite_imgtools.handlers.run_folder import NEUTRAL
from ignite_imgtools.progress import say
from ignite_imgtools.recipes.config import config_to_dict, refused_arguments

__all__ = ["create_train_loader", "create_update", "open_run", "prepare_model", "run_training"]


def open_run(local_rank: int, config: Any) -> tuple[torch.device, Path]:
    """The device of this process and the run folder, which is now this run's; random numbers are seeded."""
    handlers.show_messages()
    device = config.torch_device(local_rank)
    settings = config_to_dict(config)
    neutral = {*NEUTRAL, *_that_follow_epochs(config, settings)}
    folder = handlers.open_run_folder(config.output_dir, settings, resume=config.resume, neutral=neutral)
    distributed.seed_all(config.seed)
    return device, folder


def _that_follow_epochs(config: Any, settings: Mapping[str, Any]) -> set[str]:
    """The flags that are defaults which depend on the number of epochs, here and in the run that the folder holds."""
    try:
        known = json.loads((config.output_dir / "config.json").read_bytes())
    except (OSError, ValueError):
        return set()
    if not isinstance(known, dict) or not isinstance(known.get("epochs"), int) or known["epochs"] < 1:
        return set()
    if not hasattr(config, "lr_steps"):
        return set()
    for run in (settings, known):
        blank = dataclasses.replace(config, epochs=run["epochs"], lr_steps=None)
        if list(blank.filled("").lr_steps) != run.get("lr_steps"):
            return set()
    return {"lr_steps"}


@refused_arguments()
def create_train_loader(config: Any, dataset: Any, **options: Any) -> Any:
    """:func:`ignite_imgtools.data.create_loader` with the batches that ``config`` trains on."""
    device = config.torch_device(idist.get_local_rank())
    if device.type != "cpu":
        options["device"] = device
    return data.create_loader(dataset, config.batch_size, **options, **config.train_loader_options())


def prepare_model(
    config: Any, module: nn.Module, device: torch.device, *, sync_batchnorm: bool = False
) -> tuple[nn.Module, engines.ExponentialMovingAverage | None]:
    """The model for all processes, and its moving average if there is to be one."""
    if config.channels_last:
        # Convolutions take the layout of their weights; the layers behind keep to that.
        module = module.to(memory_format=torch.channels_last)
    ema = None if config.ema_decay is None else engines.ExponentialMovingAverage(module, config.ema_decay)
    model = distributed.create_parallel_model(module, device, sync_batchnorm=sync_batchnorm)
    if config.compile:
        models.compile_network(distributed.unwrap_model(model), config.compile_backend)
    return model, ema


def create_update(
    config: Any,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    ema: engines.ExponentialMovingAverage | None,
) -> engines.GradientUpdate:
    """What happens between losses and new weights."""
    return engines.GradientUpdate(
        optimizer,
        amp_dtype=config.amp_dtype,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        ema=ema,
        scheduler=scheduler,
    )


def run_training(
    trainer: Engine,
    config: Any,
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train_loader: Any,
    evaluator: Engine,
    val_loader: Any,
    *,
    best: str,
    best_mode: Literal["max", "min"] = "max",
    curves: Sequence[str] | None = None,
) -> None:
    """Attach everything that watches, writes and saves, and train.

    Args:
        best: metric of ``evaluator`` by which the best checkpoint is chosen.
        curves: metrics that are drawn; by default all.
    """
    if config.compile:
        _evaluate_uncompiled(evaluator)
    handlers.MetricLogger(folder).attach(trainer, every=config.log_every)
    handlers.evaluate_on_epoch(trainer, evaluator, val_loader, every=config.eval_every)
    checkpoints = handlers.attach_checkpoints(
        trainer,
        evaluator,
        {"model": model, "optimizer": optimizer},
        folder,
        best=best,
        best_mode=best_mode,
        every=config.checkpoint_every,
        resume=config.resume,
        background=True,
        on_write_error=config.on_write_error,
    )
    handlers.attach_signals(trainer, checkpoints)
    handlers.attach_tensorboard(folder, trainer, optimizer, {"val": evaluator})
    handlers.attach_curves(folder, trainer, metrics=curves)
    handlers.attach_report(folder, trainer)
    if config.profile:
        handlers.attach_profile(folder, trainer, model, optimizer)

    samples = f"{len(train_loader.dataset):,} training and {len(val_loader.dataset):,} validation samples"
    say(one_line(f"{samples}; run folder: {folder}"))
    if config.max_iterations is None:
        trainer.run(train_loader, max_epochs=config.epochs)
    else:
        trainer.run(train_loader, max_iters=min(config.max_iterations, config.epochs * len(train_loader)))
    kept, score = checkpoints.folder / "last.pt", checkpoints.best_score
    if score is not None:
        kept = checkpoints.folder / "best.pt"
        say(f"best val/{best}: {score:.4f} at iteration {checkpoints.best_iteration}")
    say(one_line(f"weights: {kept}; curves, numbers and pictures: {folder / 'report.html'}"))


def _evaluate_uncompiled(evaluator: Engine) -> None:
    """Images of an evaluation come one at a time, each of its own shape: to compile for those takes longer than it
    saves, and numbers are those of ``evaluate``, which compiles nothing."""
    evaluator.add_event_handler(Events.STARTED, lambda: torch.compiler.set_stance("force_eager"))
    evaluator.add_event_handler(Events.COMPLETED, lambda: torch.compiler.set_stance("default"))
