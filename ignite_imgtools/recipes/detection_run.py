"""What the recipes of detectors share: data, engines, handlers and the run. A recipe adds its model and defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro
from ignite.engine import Engine
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ignite_imgtools import data, engines, handlers, metrics
from ignite_imgtools.data import transforms
from ignite_imgtools.formats import register_resumable
from ignite_imgtools.recipes.config import (
    ConfigError,
    RunConfig,
    built_in_data,
    launch,
    proportional_steps,
    refused_arguments,
)
from ignite_imgtools.recipes.detection_prediction import predict_images
from ignite_imgtools.recipes.exportable import Exportable, exportable_detector
from ignite_imgtools.recipes.instead import Instead
from ignite_imgtools.recipes.records import RecipeRecord
from ignite_imgtools.recipes.training import create_train_loader, create_update, open_run, prepare_model, run_training

__all__ = ["DetectionConfig", "DetectionRecipe"]

_TARGETS = {"masks": "segm", "keypoints": "keypoints"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionConfig(RunConfig):
    """What every recipe of a detector asks."""

    NESTEROV: ClassVar[bool] = False
    """Whether SGD looks ahead along its momentum."""

    trainable_layers: Annotated[int | None, tyro.conf.arg(metavar="0..5")] = None
    """How many of the backbone's five stages are trained, counted from the last. By default 3 with weights, else 5."""
    min_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Images are resized so that their short side has this many pixels,"""
    max_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """but their long side no more than this many."""
    optimizer: Literal["sgd", "adamw"] | None = None
    """Optimizer."""
    momentum: Annotated[float, tyro.conf.arg(metavar="X")] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float | None, tyro.conf.arg(metavar="X")] = None
    """Weight decay."""
    schedule: Literal["multistep", "cosine"] | None = None
    """Learning rate after the warm-up: divided by ten at --lr-steps, or half a cosine."""
    lr_steps: tuple[int, ...] | None = None
    """Epochs after which --schedule multistep divides. The default keeps its proportion to --epochs."""
    warmup: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Optimizer steps of linear warm-up, at most those of the first epoch."""
    aspect_bins: Annotated[int, tyro.conf.arg(metavar="K")] = 3
    """With --group-by aspect: 2K + 2 groups of aspect ratios."""
    flip: Annotated[float, tyro.conf.arg(metavar="X")] = 0.5
    """Probability of a horizontal flip."""
    val_losses: bool = False
    """Compute the losses on the validation set too, in the same pass."""

    def defaults(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        epochs = self.epochs or fixed["epochs"]
        return {"lr_steps": proportional_steps(fixed["lr_steps"], fixed["epochs"], epochs)}


def _mirror_at_random(config: Any) -> Any:
    return transforms.detection_train(hflip=config.flip)


@dataclasses.dataclass(frozen=True)
class DetectionRecipe:
    """One detector, trained, evaluated and applied.

    Args:
        name: of the recipe, as in the table of recipes.
        config: its flags.
        create_model: makes the detector of a configuration without ``None``, for a number of classes that counts the
            background.
        iou_types: what is evaluated, or what says so of a configuration; with ``"segm"`` targets have masks, with
            ``"keypoints"`` they have keypoints. The last one chooses the best checkpoint.
        built_in_format: format in which the built-in set is written where no data are given.
        train_transforms: called with the configuration, gives the transforms of the training set.
        wrap_train_set: called with the configuration and the training set, gives what is trained on.
        prepare_model: called with the configuration, the new model and the training set, before anything is trained.
        attach: called with the configuration, the trainer and the model, for handlers of the recipe's own.
    """

    name: str
    config: type[DetectionConfig]
    create_model: Callable[[Any, int], nn.Module]
    iou_types: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ("bbox",)
    built_in_format: str = "coco"
    train_transforms: Callable[[Any], Any] = _mirror_at_random
    wrap_train_set: Callable[[Any, Any], Any] | None = None
    prepare_model: Callable[[Any, nn.Module, Any], None] | None = None
    attach: Callable[[Any, Engine, nn.Module], None] | None = None

    def train(self, config: DetectionConfig, instead: Instead | None = None) -> None:
        """Train, evaluate after each epoch, and leave a run folder; on every process there is, or is to be started."""
        filled = config.filled(self.name)
        # A limit alone may be below the default short side, which then gives way; a side that was asked for may not.
        if config.min_size is not None and config.min_size > filled.max_size:
            raise ConfigError(f"--min-size must be at most --max-size, got {config.min_size} and {filled.max_size}")
        launch(filled, self._train, instead)

    def _train(self, local_rank: int, config: Any, instead: Instead | None = None) -> None:
        device, folder = open_run(local_rank, config)
        train_set, val_set = self._create_data(config)
        if self.wrap_train_set is not None:
            train_set = self.wrap_train_set(config, train_set)
        train_loader = create_train_loader(
            config,
            train_set,
            aspect_bins=config.aspect_bins,
            min_size=config.min_size,
            max_size=config.max_size,
        )
        val_loader = self._create_val_loader(config, val_set)
        class_names = data.class_names(val_set)

        module = self._create_model(config, len(class_names))
        if self.prepare_model is not None:
            self.prepare_model(config, module, train_set)
        module = module.to(device)
        model, ema = prepare_model(config, module, device)
        optimizer = _create_optimizer(config, model)
        scheduler = _create_schedule(config, optimizer, handlers.steps_per_epoch(len(train_loader), config.accumulate))
        update = create_update(config, optimizer, scheduler, ema)

        trainer = engines.create_detection_trainer(model, update, seed=config.seed)
        if self.attach is not None:
            self.attach(config, trainer, module)
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
            best=f"{self._iou_types(config)[-1]}/AP",
        )

    def evaluate(self, config: DetectionConfig, checkpoint: Path) -> None:
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
        evaluator.run(self._create_val_loader(config, val_set))

    def exportable(self, checkpoint: Path, size: Sequence[int] | None = None) -> Exportable:
        """The detector of ``checkpoint``, with an example of ``size``, height and width."""
        record: Any = RecipeRecord.from_checkpoint(checkpoint, self.name, self.config)
        model = self._load_model(record.config, checkpoint, len(record.class_names))
        return exportable_detector(model, size or (record.config.min_size, record.config.max_size))

    def predict(
        self,
        checkpoint: Path,
        images: Sequence[Path],
        *,
        output_dir: Path,
        score_threshold: float = 0.5,
        device: str = "auto",
    ) -> None:
        """Draw what the model of ``checkpoint`` finds in ``images``, and write it to ``predictions.json``."""
        handlers.show_messages()
        record = RecipeRecord.from_checkpoint(checkpoint, self.name, self.config)
        config = dataclasses.replace(record.config, device=device)
        model = self._load_model(config, checkpoint, len(record.class_names)).to(config.torch_device(0))
        predict_images(model, images, output_dir, record.class_names, score_threshold)

    @refused_arguments()
    def _create_data(self, config: Any) -> tuple[Any, Any]:
        return data.open_detection_data(
            config.data or built_in_data(config.output_dir / "data", self.built_in_format),
            config.data_format,
            train_transforms=self.train_transforms(config),
            val_transforms=transforms.detection_eval(),
            val_fraction=config.val_fraction,
            seed=config.seed,
            on_bad_sample=config.on_bad_sample,
            **{name: True for name, kind in _TARGETS.items() if kind in self._iou_types(config)},
        )

    def _iou_types(self, config: Any) -> tuple[str, ...]:
        return self.iou_types(config) if callable(self.iou_types) else self.iou_types

    def _create_val_loader(self, config: Any, val_set: Any) -> Any:
        return data.create_loader(
            val_set, config.batch_size, num_workers=config.num_workers, on_bad_sample=config.on_bad_sample
        )

    def _load_model(self, config: Any, checkpoint: Path, num_classes: int) -> nn.Module:
        # Which layers were trained does not matter any more, and frozen ones need weights to start from.
        model = self._create_model(dataclasses.replace(config, weights="none", trainable_layers=None), num_classes)
        handlers.load_model(checkpoint, model)
        return model

    def _create_evaluator(
        self, config: Any, model: nn.Module, val_set: Any, folder: Path, trainer: Engine | None = None, ema: Any = None
    ) -> Engine:
        class_names = data.class_names(val_set)
        coco = metrics.CocoMetric(data.coco_index(val_set), self._iou_types(config), per_class=True, keep_results=True)
        evaluator = engines.create_detection_evaluator(
            model, {"coco": coco}, ema=ema, losses=config.val_losses, amp_dtype=config.amp_dtype, seed=config.seed
        )
        handlers.ImagePanels(folder, class_names).attach(evaluator)
        handlers.WorstImagePanels(folder, class_names).attach(evaluator)
        handlers.BestImagePanels(folder, class_names).attach(evaluator)
        handlers.attach_pr_curve(folder, evaluator, coco)
        handlers.attach_evaluation_analysis(folder, trainer, evaluator, coco)
        handlers.attach_evaluation_files(folder, trainer, evaluator, coco, category_ids=data.category_ids(val_set))
        return evaluator

    @refused_arguments()
    def _create_model(self, config: Any, num_classes: int) -> nn.Module:
        return self.create_model(config, num_classes)


def _create_optimizer(config: Any, model: nn.Module) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options = {"weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        options |= {"momentum": config.momentum, "nesterov": config.NESTEROV}
    return engines.create_optimizer(config.optimizer, parameters, config.lr, **options)


def _create_schedule(config: Any, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    warmup = min(config.warmup, steps)
    if config.schedule == "cosine":
        return handlers.warmup_cosine(optimizer, config.epochs * steps, warmup_steps=warmup, end_factor=0.01)
    return handlers.warmup_multistep(optimizer, [epoch * steps for epoch in config.lr_steps], warmup_steps=warmup)
