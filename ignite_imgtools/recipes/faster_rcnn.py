"""Faster R-CNN with a ResNet-FPN backbone on COCO or VOC boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from ignite.engine import Engine
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ignite_imgtools import data, distributed, engines, handlers, metrics, models
from ignite_imgtools.data import transforms
from ignite_imgtools.formats import register_resumable
from ignite_imgtools.recipes.config import ConfigError, RunConfig, built_in_data, config_to_dict, refused_arguments
from ignite_imgtools.recipes.detection_prediction import predict_images
from ignite_imgtools.recipes.records import RecipeRecord

__all__ = ["Config", "create_model", "evaluate", "predict", "train"]

# torchvision's model, with the schedule of the tutorials' training on several GPUs (lr 0.02 for a total batch of 16).
_FULL = {
    "backbone": "resnet50",
    "heads": "full",
    "min_size": 800,
    "max_size": 1333,
    "anchor_sizes": (32, 64, 128, 256, 512),
    "optimizer": "sgd",
    "lr": 0.01,
    "weight_decay": 1e-4,
    "schedule": "multistep",
    "batch_size": 8,
    "epochs": 20,
    "warmup": 1000,
}
# For the built-in set on a CPU: a few minutes on two cores.
_SMALL = {
    "backbone": "resnet18",
    "heads": "small",
    "min_size": 112,
    "max_size": 160,
    "anchor_sizes": (8, 11, 16, 23, 32, 45, 64, 91, 128, 181),
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "batch_size": 8,
    "epochs": 4,
    "warmup": 30,
}
_HEADS: dict[str, dict[str, Any]] = {
    "full": {},
    "small": {
        "fpn_channels": 64,
        "representation": 256,
        "proposals": (200, 100),
        "sampling_ratio": 1,
        "rpn_batch_size_per_image": 32,
        "box_batch_size_per_image": 64,
        "box_positive_fraction": 0.5,
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Train Faster R-CNN (Ren et al., 2015) with a ResNet-FPN backbone (Lin et al., 2017) on COCO or VOC boxes.

    What is shown as None is ResNet-50 at 800 pixels, 20 epochs; for the built-in set on a CPU ResNet-18 at 160 pixels.
    """

    backbone: Annotated[str | None, tyro.conf.arg(metavar="RESNET")] = None
    """Backbone: any of torchvision's ResNets, such as resnet50 or resnet18."""
    heads: Literal["full", "small"] | None = None
    """Size of the feature pyramid and of the heads: torchvision's, or a quarter of it for small images."""
    trainable_layers: Annotated[int | None, tyro.conf.arg(metavar="0..5")] = None
    """How many of the backbone's five stages are trained, counted from the last. By default 3 with weights, else 5."""
    norm: Literal["batch", "frozen", "sync"] = "batch"
    """Normalisation in the backbone: batch statistics, frozen ones, or statistics over all processes (CUDA)."""
    min_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Images are resized so that their short side has this many pixels,"""
    max_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """but their long side no more than this many."""
    anchor_sizes: tuple[int, ...] | None = None
    """Sides of the anchors in pixels of the resized image, as many for each of the five levels: 5, or 10, or 15."""
    optimizer: Literal["sgd", "adamw"] | None = None
    """Optimizer."""
    momentum: Annotated[float, tyro.conf.arg(metavar="X")] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float | None, tyro.conf.arg(metavar="X")] = None
    """Weight decay."""
    schedule: Literal["multistep", "cosine"] | None = None
    """Learning rate after the warm-up: divided by ten at --lr-steps, or half a cosine."""
    lr_steps: tuple[int, ...] = (7, 12)
    """Epochs after which --schedule multistep divides."""
    warmup: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Optimizer steps of linear warm-up, at most those of the first epoch."""
    aspect_bins: Annotated[int, tyro.conf.arg(metavar="K")] = 3
    """With --group-by aspect: 2K + 2 groups of aspect ratios."""
    flip: Annotated[float, tyro.conf.arg(metavar="X")] = 0.5
    """Probability of a horizontal flip."""
    val_losses: bool = False
    """Compute the losses on the validation set too, in the same pass."""

    def filled(self) -> Config:
        """With every value that is ``None`` chosen, after :meth:`~RunConfig.check`."""
        self.check()
        if self.anchor_sizes is not None and len(self.anchor_sizes) % 5:
            raise ConfigError(f"--anchor-sizes must be 5, 10 or 15 numbers, got {len(self.anchor_sizes)}")
        small = self.data is None and self.device_type == "cpu"
        chosen = {**(_SMALL if small else _FULL), "output_dir": Path("runs") / "faster_rcnn"}
        missing = {name: value for name, value in chosen.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)  # type: ignore[arg-type]


def train(config: Config) -> None:
    """Train, evaluate after each epoch, and leave a run folder; on every process there is, or is to be started."""
    config = config.filled()
    distributed.launch(_train, config, nproc_per_node=config.nproc_per_node, backend=config.backend)


def _train(local_rank: int, config: Any) -> None:
    handlers.show_messages()
    device = config.torch_device(local_rank)
    folder = handlers.open_run_folder(config.output_dir, config_to_dict(config), resume=config.resume)
    distributed.seed_all(config.seed)

    train_set, val_set = _create_data(config)
    with refused_arguments():
        train_loader = data.create_loader(
            train_set,
            config.batch_size,
            shuffle=True,
            group_by=None if config.group_by == "none" else config.group_by,
            aspect_bins=config.aspect_bins,
            min_size=config.min_size,
            max_size=config.max_size,
            seed=config.seed,
            num_workers=config.num_workers,
            on_bad_sample=config.on_bad_sample,
        )
    val_loader = _create_val_loader(config, val_set)
    class_names = data.class_names(val_set)

    module = create_model(config, len(class_names)).to(device)
    ema = None if config.ema_decay is None else engines.ExponentialMovingAverage(module, config.ema_decay)
    model = distributed.create_parallel_model(module, device)
    optimizer = _create_optimizer(config, model)
    scheduler = _create_schedule(config, optimizer, handlers.steps_per_epoch(len(train_loader), config.accumulate))
    update = engines.GradientUpdate(
        optimizer,
        amp_dtype=config.amp_dtype,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        ema=ema,
        scheduler=scheduler,
    )

    trainer = engines.create_detection_trainer(model, update, seed=config.seed)
    evaluator = _create_evaluator(config, model, val_set, folder, trainer, ema)
    register_resumable(trainer, "recipe", RecipeRecord("faster_rcnn", config, class_names))
    handlers.MetricLogger(folder).attach(trainer, every=config.log_every)
    handlers.evaluate_on_epoch(trainer, evaluator, val_loader)
    checkpoints = handlers.attach_checkpoints(
        trainer,
        evaluator,
        {"model": model, "optimizer": optimizer},
        folder,
        best="bbox/AP",
        every=config.checkpoint_every,
        resume=config.resume,
        background=True,
    )
    handlers.attach_signals(trainer, checkpoints)
    handlers.attach_tensorboard(folder, trainer, optimizer, {"val": evaluator})
    handlers.attach_curves(folder, trainer)

    if config.max_iterations is None:
        trainer.run(train_loader, max_epochs=config.epochs)
    else:
        trainer.run(train_loader, max_iters=min(config.max_iterations, config.epochs * len(train_loader)))


def evaluate(config: Config, checkpoint: Path) -> None:
    """Evaluate ``checkpoint`` on the validation part and print the numbers; writes ``eval/`` and ``plots/``."""
    config = config.filled()
    distributed.launch(_evaluate, config, checkpoint, nproc_per_node=config.nproc_per_node, backend=config.backend)


def _evaluate(local_rank: int, config: Any, checkpoint: Path) -> None:
    handlers.show_messages()
    _, val_set = _create_data(config)
    model = _load_model(config, checkpoint, len(data.class_names(val_set))).to(config.torch_device(local_rank))
    evaluator = _create_evaluator(config, model, val_set, config.output_dir)
    handlers.attach_evaluation_summary(evaluator)
    evaluator.run(_create_val_loader(config, val_set))


def predict(
    checkpoint: Path, images: Sequence[Path], *, output_dir: Path, score_threshold: float = 0.5, device: str = "auto"
) -> None:
    """Draw what the model of ``checkpoint`` finds in ``images``, and write it to ``predictions.json``."""
    handlers.show_messages()
    record = RecipeRecord.from_checkpoint(checkpoint, "faster_rcnn", Config)
    config = dataclasses.replace(record.config, device=device)
    model = _load_model(config, checkpoint, len(record.class_names)).to(config.torch_device(0))
    predict_images(model, images, output_dir, record.class_names, score_threshold)


def _create_data(config: Any) -> tuple[Any, Any]:
    return data.open_detection_data(
        config.data or built_in_data(config.output_dir / "data", "coco"),
        config.data_format,
        train_transforms=transforms.detection_train(hflip=config.flip),
        val_transforms=transforms.detection_eval(),
        val_fraction=config.val_fraction,
        seed=config.seed,
        on_bad_sample=config.on_bad_sample,
    )


def _create_val_loader(config: Any, val_set: Any) -> Any:
    return data.create_loader(
        val_set, config.batch_size, num_workers=config.num_workers, on_bad_sample=config.on_bad_sample
    )


@refused_arguments()
def create_model(config: Any, num_classes: int) -> nn.Module:
    """The detector of a configuration without ``None``; ``num_classes`` counts the background."""
    per_level = len(config.anchor_sizes) // 5
    return models.faster_rcnn(
        num_classes,
        backbone=config.backbone,
        weights=config.weights,
        trainable_layers=config.trainable_layers,
        norm=config.norm,
        min_size=config.min_size,
        max_size=config.max_size,
        anchor_sizes=[config.anchor_sizes[level * per_level :][:per_level] for level in range(5)],
        **_HEADS[config.heads],
    )


def _load_model(config: Any, checkpoint: Path, num_classes: int) -> nn.Module:
    # Which layers were trained does not matter any more, and frozen ones need weights to start from.
    model = create_model(dataclasses.replace(config, weights="none", trainable_layers=None), num_classes)
    handlers.load_model(checkpoint, model)
    return model


def _create_optimizer(config: Any, model: nn.Module) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def _create_schedule(config: Any, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    warmup = min(config.warmup, steps)
    if config.schedule == "cosine":
        return handlers.warmup_cosine(optimizer, config.epochs * steps, warmup_steps=warmup, end_factor=0.01)
    return handlers.warmup_multistep(optimizer, [epoch * steps for epoch in config.lr_steps], warmup_steps=warmup)


def _create_evaluator(
    config: Any, model: nn.Module, val_set: Any, folder: Path, trainer: Engine | None = None, ema: Any = None
) -> Engine:
    class_names = data.class_names(val_set)
    coco = metrics.CocoMetric(data.coco_index(val_set), per_class=True, keep_results=True)
    evaluator = engines.create_detection_evaluator(
        model, {"coco": coco}, ema=ema, losses=config.val_losses, amp_dtype=config.amp_dtype, seed=config.seed
    )
    handlers.ImagePanels(folder, class_names).attach(evaluator)
    handlers.attach_pr_curve(folder, evaluator, coco)
    handlers.attach_evaluation_analysis(folder, trainer, evaluator, coco)
    handlers.attach_evaluation_files(folder, trainer, evaluator, coco, category_ids=data.category_ids(val_set))
    return evaluator
