"""What the recipes of segmentation share: data, engines, handlers and the run. A recipe adds its model and defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from ignite.engine import Engine
from ignite.metrics import Metric
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ignite_imgtools import data, engines, handlers, losses, metrics
from ignite_imgtools.data import transforms
from ignite_imgtools.formats import register_resumable
from ignite_imgtools.recipes.config import (
    ConfigError,
    RunConfig,
    built_in_data,
    launch,
    refuse_batches_of_one,
    refused_arguments,
)
from ignite_imgtools.recipes.dense_prediction import predict_masks
from ignite_imgtools.recipes.exportable import Exportable, exportable_crops
from ignite_imgtools.recipes.instead import Instead
from ignite_imgtools.recipes.records import RecipeRecord
from ignite_imgtools.recipes.training import create_train_loader, create_update, open_run, prepare_model, run_training

__all__ = ["SegmentationConfig", "SegmentationRecipe"]

_CURVES = ("mean_IoU", "pixel_accuracy", "mean_dice", "dice")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationConfig(RunConfig):
    """What every recipe of segmentation asks."""

    base_size: tuple[int, int] | None = None
    """Training images are resized so that their short side has a random number of pixels between these two,"""
    crop_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """and a square of this many pixels is cut out of them; what is smaller is padded."""
    hflip: Annotated[float, tyro.conf.arg(metavar="X")] = 0.5
    """Probability of a horizontal flip."""
    vflip: Annotated[float | None, tyro.conf.arg(metavar="X")] = None
    """Probability of a vertical flip."""
    jitter: Annotated[float, tyro.conf.arg(metavar="X")] = 0.0
    """Change brightness, contrast and saturation by up to this share."""
    mean: tuple[float, float, float] | None = None
    """Mean of red, green and blue in 0..1, subtracted from images."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of red, green and blue in 0..1, by which images are then divided."""
    norm: Literal["batch", "sync"] = "batch"
    """Normalise by the statistics of the images of a process, or of all processes (CUDA)."""
    norm_momentum: Annotated[float | None, tyro.conf.arg(metavar="X")] = None
    """Weight of a batch in running statistics. By default the model's: 0.1, of MobileNetV3 0.01, slow at the start."""
    optimizer: Literal["sgd", "adamw"] | None = None
    """Optimizer."""
    momentum: Annotated[float, tyro.conf.arg(metavar="X")] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float | None, tyro.conf.arg(metavar="X")] = None
    """Weight decay."""
    norm_decay: bool = True
    """Let parameters of one dimension, which are biases and scales of normalisation, decay too."""
    schedule: Literal["poly", "cosine"] = "poly"
    """Learning rate after the warm-up: falls to 0 as (1 - t) to the power 0.9, or as half a cosine."""
    warmup: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Optimizer steps of linear warm-up. By default those of the first epoch."""
    class_weights: tuple[float, ...] | None = None
    """Weight of each class in the cross-entropy."""
    dice: bool | None = None
    """Add the Dice loss to the cross-entropy."""
    eval_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """In evaluation the model is shown images whose short side has this many pixels; 0 for their own size."""
    resized_measure: bool = False
    """Measure at --eval-size, as many training scripts do, and not at the images' own size."""
    eval_window: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Cut images larger than this into overlapping squares, and average what the model says of them."""
    eval_overlap: Annotated[float, tyro.conf.arg(metavar="X")] = 1 / 3
    """Least share of a square that its neighbour covers too."""
    eval_flip: bool = False
    """In evaluation, average what the model says of an image and of its mirror image."""
    val_losses: bool = False
    """Compute the losses on the validation set too."""
    group_by: Literal["shape", "aspect", "none"] = "none"
    """Make batches of images of the same or of similar shape. Their crops have the same one anyway."""

    def defaults(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        return {"mean": engines.IMAGENET_MEAN, "std": engines.IMAGENET_STD, "vflip": 0.0, "dice": False, **fixed}

    def check(self) -> None:
        super().check()
        for name in ("crop_size", "eval_window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("warmup", "eval_size"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"--{name.replace('_', '-')} must be 0 or more, got {value}")
        if self.norm_momentum is not None and not 0 < self.norm_momentum <= 1:
            raise ConfigError(f"--norm-momentum must be above 0 and at most 1, got {self.norm_momentum}")
        if self.std is not None and min(self.std) <= 0:
            raise ConfigError(f"--std must be positive numbers, got {' '.join(map(str, self.std))}")
        if not 0 <= self.eval_overlap < 1:
            raise ConfigError(f"--eval-overlap must be 0 or more and below 1, got {self.eval_overlap}")
        if self.resized_measure and self.eval_size == 0:
            raise ConfigError("--resized-measure measures at --eval-size, which is 0: give the size")
        if self.norm == "sync" and self.device_type == "cpu":
            raise ConfigError("--norm sync works between GPUs only; leave it out on a CPU")


@dataclasses.dataclass(frozen=True)
class SegmentationRecipe:
    """One segmenter, trained, evaluated and applied.

    Args:
        name: of the recipe, as in the table of recipes.
        config: its flags.
        create_model: makes the segmenter of a configuration without ``None``, for a number of classes that counts the
            background.
        built_in: format of the built-in data it trains on without ``--data``.
        lr_factors: parts of the model that learn faster, as for :func:`~ignite_imgtools.engines.parameter_groups`;
            those the model does not have are left out.
        class_weights: of the loss where the flag does not say, by the number of classes.
        best: the number whose best checkpoint is kept; with ``"dice"`` the mean over images is computed too.
        panels: options for :func:`~ignite_imgtools.handlers.attach_mask_panels`.
    """

    name: str
    config: type[SegmentationConfig]
    create_model: Callable[[Any, int], nn.Module]
    built_in: str = "voc_segmentation"
    lr_factors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    class_weights: Mapping[int, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    best: Literal["mean_IoU", "dice"] = "mean_IoU"
    panels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def train(self, config: SegmentationConfig, instead: Instead | None = None) -> None:
        """Train, evaluate after each epoch, and leave a run folder; on every process there is, or is to be started."""
        filled = config.filled(self.name)
        launch(filled, self._train, instead)

    def _train(self, local_rank: int, config: Any, instead: Instead | None = None) -> None:
        device, folder = open_run(local_rank, config)
        train_set, val_set = self._create_data(config)
        train_loader = create_train_loader(config, train_set, collate_fn=data.collate_dense)
        val_loader = _create_val_loader(config, val_set)
        class_names = data.class_names(val_set)

        module = self._create_model(config, len(class_names)).to(device)
        refuse_batches_of_one(module, train_loader, (config.crop_size, config.crop_size))
        model, ema = prepare_model(config, module, device, sync_batchnorm=config.norm == "sync")
        loss_fn = self._create_loss(config, len(class_names)).to(device)
        optimizer = self._create_optimizer(config, module)
        scheduler = _create_schedule(config, optimizer, handlers.steps_per_epoch(len(train_loader), config.accumulate))
        update = create_update(config, optimizer, scheduler, ema)

        trainer = engines.create_segmentation_trainer(
            model, update, loss_fn, mean=config.mean, std=config.std, seed=config.seed
        )
        register_resumable(trainer, "recipe", RecipeRecord(self.name, config, class_names))
        if instead is not None:
            return instead.run(trainer, train_loader, model, update)
        evaluator = self._create_evaluator(config, model, val_set, folder, trainer, ema)
        run_training(
            trainer,
            config,
            folder,
            model,
            optimizer,
            train_loader,
            evaluator,
            val_loader,
            best=self.best,
            curves=_CURVES,
        )

    def evaluate(self, config: SegmentationConfig, checkpoint: Path) -> None:
        """Evaluate ``checkpoint`` on the validation part and print the numbers; writes ``eval/`` and ``plots/``."""
        filled = config.filled(self.name)
        launch(filled, self._evaluate, checkpoint)

    def _evaluate(self, local_rank: int, config: Any, checkpoint: Path) -> None:
        handlers.show_messages()
        _, val_set = self._create_data(config)
        class_names = data.class_names(val_set)
        RecipeRecord.from_checkpoint(checkpoint, self.name, self.config).refuse_other_data(checkpoint, class_names)
        model = self._load_model(config, checkpoint, len(class_names)).to(config.torch_device(local_rank))
        evaluator = self._create_evaluator(config, model, val_set, config.output_dir)
        handlers.attach_evaluation_summary(evaluator)
        evaluator.run(_create_val_loader(config, val_set))

    def exportable(self, checkpoint: Path, size: Sequence[int] | None = None) -> Exportable:
        """The segmenter of ``checkpoint``, for images of ``size``, height and width."""
        record: Any = RecipeRecord.from_checkpoint(checkpoint, self.name, self.config)
        model, config = self._load_model(record.config, checkpoint, len(record.class_names)), record.config
        return exportable_crops(model, size or (config.crop_size,) * 2, "logits", config.mean, config.std)

    def predict(self, checkpoint: Path, images: Sequence[Path], *, output_dir: Path, device: str = "auto") -> None:
        """Write the classes that the model of ``checkpoint`` finds in ``images``: palette masks and overlays."""
        handlers.show_messages()
        record = RecipeRecord.from_checkpoint(checkpoint, self.name, self.config)
        config: Any = dataclasses.replace(record.config, device=device)
        model = self._load_model(config, checkpoint, len(record.class_names)).to(config.torch_device(0))
        options = {**_evaluation_options(config), "amp_dtype": config.amp_dtype}
        predict_masks(engines.create_dense_predictor(model, **options), images, output_dir, record.class_names)

    @refused_arguments()
    def _create_data(self, config: Any) -> tuple[Any, Any]:
        train_transforms = transforms.segmentation_train(
            config.base_size,
            config.crop_size,
            hflip=config.hflip,
            vflip=config.vflip,
            jitter=config.jitter,
            fill=[round(255 * min(max(value, 0.0), 1.0)) for value in config.mean],
        )
        return data.open_segmentation_data(
            config.data or built_in_data(config.output_dir / "data", self.built_in),
            config.data_format,
            train_transforms=train_transforms,
            val_transforms=transforms.segmentation_eval(),
            val_fraction=config.val_fraction,
            seed=config.seed,
            on_bad_sample=config.on_bad_sample,
        )

    @refused_arguments()
    def _create_model(self, config: Any, num_classes: int) -> nn.Module:
        model = self.create_model(config, num_classes)
        for module in model.modules():
            if config.norm_momentum is not None and isinstance(module, nn.BatchNorm2d):
                module.momentum = config.norm_momentum
        return model

    def _load_model(self, config: Any, checkpoint: Path, num_classes: int) -> nn.Module:
        model = self._create_model(dataclasses.replace(config, weights="none"), num_classes)
        handlers.load_model(checkpoint, model)
        return model

    def _create_loss(self, config: Any, num_classes: int) -> nn.Module:
        weights = config.class_weights or self.class_weights.get(num_classes)
        if weights is not None and len(weights) != num_classes:
            raise ConfigError(f"--class-weights must be one for each of {num_classes} classes, got {len(weights)}")
        return losses.SegmentationLoss(weights, dice=config.dice)

    def _create_optimizer(self, config: Any, model: nn.Module) -> torch.optim.Optimizer:
        children = {name for name, child in model.named_children() if any(p.requires_grad for p in child.parameters())}
        groups = engines.parameter_groups(
            model,
            config.lr,
            config.weight_decay,
            lr_factors={name: factor for name, factor in self.lr_factors.items() if name in children},
            decay_one_dimensional=config.norm_decay,
        )
        options = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
        return engines.create_optimizer(config.optimizer, groups, config.lr, **options)

    def _create_evaluator(
        self, config: Any, model: nn.Module, val_set: Any, folder: Path, trainer: Engine | None = None, ema: Any = None
    ) -> Engine:
        class_names = data.class_names(val_set)
        segmentation = metrics.SegmentationMetric(len(class_names), class_names=class_names, per_class=True)
        attached: dict[str, Metric] = {"segmentation": segmentation}
        if self.best == "dice":
            attached["dice"] = metrics.DiceMetric(len(class_names))
        evaluator = engines.create_segmentation_evaluator(
            model,
            attached,
            ema=ema,
            loss_fn=self._create_loss(config, len(class_names)) if config.val_losses else None,
            measure_resized=config.resized_measure,
            amp_dtype=config.amp_dtype,
            **_evaluation_options(config),
        )
        handlers.attach_mask_panels(folder, evaluator, class_names, **self.panels)
        handlers.attach_segmentation_analysis(folder, evaluator, segmentation)
        handlers.attach_evaluation_files(folder, trainer, evaluator)
        return evaluator


def _evaluation_options(config: Any) -> dict[str, Any]:
    return {
        "mean": config.mean,
        "std": config.std,
        "resize": config.eval_size or None,
        "window": config.eval_window,
        "overlap": config.eval_overlap,
        "flip": config.eval_flip,
    }


def _create_val_loader(config: Any, val_set: Any) -> Any:
    return data.create_loader(
        val_set,
        config.batch_size,
        num_workers=config.num_workers,
        on_bad_sample=config.on_bad_sample,
        collate_fn=data.collate_dense_lists,
    )


def _create_schedule(config: Any, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    create = {"poly": handlers.warmup_poly, "cosine": handlers.warmup_cosine}[config.schedule]
    warmup = steps if config.warmup is None else config.warmup
    return create(optimizer, config.epochs * steps, warmup_steps=min(warmup, config.epochs * steps))
