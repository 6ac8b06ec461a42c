"""Any classifier of torchvision on folders of images, one folder for each class."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro
from ignite.engine import Engine
from torch import nn

from ignite_imgtools import data, engines, handlers, losses, metrics, models
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
from ignite_imgtools.recipes.exportable import Exportable, exportable_crops
from ignite_imgtools.recipes.instead import Instead
from ignite_imgtools.recipes.prediction_files import PredictionEntries, named_images
from ignite_imgtools.recipes.records import RecipeRecord
from ignite_imgtools.recipes.training import create_train_loader, create_update, open_run, prepare_model, run_training

__all__ = ["Config", "create_model", "evaluate", "exportable", "predict", "train"]

_NAME = "classification"
_BEST = "top1"
_CURVES = ("top1", "top5", "mean_recall", "mean_precision")
_logger = logging.getLogger(__name__)

# What the tutorials train from torchvision's ImageNet weights (--weights default).
_FULL = {
    "model": "resnet34",
    "image_size": 224,
    "resize": 256,
    "crop_scale": (0.08, 1.0),
    "optimizer": "sgd",
    "lr": 1e-3,
    "weight_decay": 5e-3,
    "final_lr": 0.1,
    "batch_size": 16,
    "epochs": 30,
}
# For the built-in set on a CPU, from random weights: a minute or two on two cores.
_SMALL = {
    "model": "resnet18",
    "image_size": 64,
    "resize": 72,
    "crop_scale": (0.5, 1.0),
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.05,
    "final_lr": 0.0,
    "batch_size": 16,
    "epochs": 6,
}

_Int = tyro.conf.arg(metavar="N")
_Float = tyro.conf.arg(metavar="X")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Train a classifier of torchvision on folders of images, one folder for each class.

    The defaults are the tutorials' schedule of 30 epochs with ResNet-34 at 224 pixels, meant for --weights
    default; for the built-in set on a CPU ResNet-18 at 64 pixels from random weights.
    """

    FULL: ClassVar[dict[str, Any]] = _FULL
    SMALL: ClassVar[dict[str, Any]] = _SMALL

    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Any classifier of torchvision by its name there: resnet34, mobilenet_v3_small, convnext_tiny, vit_b_16, ..."""
    dropout: Annotated[float | None, _Float] = None
    """Probability of dropout before the last layer, for models that have it. By default the model's own."""
    freeze: bool = False
    """Train the head alone; all other weights stay as they are, while the running statistics of normalisation go on."""
    image_size: Annotated[int | None, _Int] = None
    """Side of the square that the model is shown, in pixels."""
    resize: Annotated[int | None, _Int] = None
    """In evaluation the short side becomes this long, then the square is cut out. Goes with --image-size by default."""
    crop_scale: tuple[float, float] | None = None
    """In training the square shows a part of the image; the part's share of its area lies between these two."""
    hflip: Annotated[float, _Float] = 0.5
    """Probability of a horizontal flip."""
    vflip: Annotated[float, _Float] = 0.0
    """Probability of a vertical flip."""
    mixup: Annotated[float, _Float] = 0.0
    """Alpha of mixup, which blends pairs of images, such as 0.2; 0 for none."""
    cutmix: Annotated[float, _Float] = 0.0
    """Alpha of CutMix, a part of an image put into another, such as 1; 0: none. With both, a batch gets one of them."""
    label_smoothing: Annotated[float, _Float] = 0.0
    """Share of the truth that is spread over all classes, such as 0.1."""
    mean: tuple[float, float, float] = engines.IMAGENET_MEAN
    """Mean of red, green and blue in 0..1, subtracted from images."""
    std: tuple[float, float, float] = engines.IMAGENET_STD
    """Standard deviation of red, green and blue in 0..1, by which images are then divided."""
    norm: Literal["batch", "sync"] = "batch"
    """Normalise by the statistics of the images of a process, or of all processes (CUDA)."""
    optimizer: Literal["sgd", "adamw"] | None = None
    """Optimizer."""
    momentum: Annotated[float, _Float] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float | None, _Float] = None
    """Weight decay."""
    norm_decay: bool = True
    """Let parameters of one dimension, which are biases and scales of normalisation, decay too."""
    warmup: Annotated[int, _Int] = 0
    """Optimizer steps of linear warm-up."""
    final_lr: Annotated[float | None, _Float] = None
    """Share of the learning rate that is left at the end; it falls to it as half a cosine."""
    eval_flip: bool = False
    """In evaluation, average what the model says of an image and of its mirror image."""
    eval_batched: bool = False
    """Evaluate the images of a batch together: several times faster on a GPU, but the last bits may depend on it."""
    val_losses: bool = False
    """Compute the loss on the validation set too."""
    group_by: Literal["shape", "aspect", "none"] = "none"
    """Make batches of images of the same or of similar shape. Their crops have the same one anyway."""

    def defaults(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        # The same share of the image as at the size that was not taken.
        size = fixed["image_size"] if self.image_size is None else self.image_size
        return {"resize": round(size * fixed["resize"] / fixed["image_size"])}

    def check(self) -> None:
        super().check()
        for name in ("image_size", "resize"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.warmup < 0:
            raise ConfigError(f"--warmup must be 0 or more, got {self.warmup}")
        if self.final_lr is not None and not 0 <= self.final_lr <= 1:
            raise ConfigError(f"--final-lr must be in 0..1, got {self.final_lr}")
        if min(self.std) <= 0:
            raise ConfigError(f"--std must be positive numbers, got {' '.join(map(str, self.std))}")
        if self.norm == "sync" and self.device_type == "cpu":
            raise ConfigError("--norm sync works between GPUs only; leave it out on a CPU")
        if self.freeze and self.weights == "none" and self.resume == "never":
            raise ConfigError("--freeze trains the head alone, on weights that are random: give --weights")


def train(config: Config, instead: Instead | None = None) -> None:
    """Train, evaluate after each epoch, and leave a run folder; on every process there is, or is to be started."""
    filled = config.filled(_NAME)
    launch(filled, _train, instead)


def evaluate(config: Config, checkpoint: Path) -> None:
    """Evaluate ``checkpoint`` on the validation part and print the numbers; writes ``eval/`` and ``plots/``."""
    filled = config.filled(_NAME)
    launch(filled, _evaluate, checkpoint)


def exportable(checkpoint: Path, size: Sequence[int] | None = None) -> Exportable:
    """The classifier of ``checkpoint``, for images of ``size``, height and width."""
    record: Any = RecipeRecord.from_checkpoint(checkpoint, _NAME, Config)
    model, config = _load_model(record.config, checkpoint, len(record.class_names)), record.config
    return exportable_crops(model, size or (config.image_size,) * 2, "logits", config.mean, config.std)


def predict(checkpoint: Path, images: Sequence[Path], *, output_dir: Path, device: str = "auto") -> None:
    """Write the five likeliest classes of each of ``images``, as the model of ``checkpoint`` has it.

    ``output_dir`` gets ``predictions.json``: a list with an entry ``{"file", "width", "height", "classes": [{"name",
    "score"}]}`` for each image, the likeliest class first, scores in 0..1.

    Raises:
        DataError: some images could not be read; the others are written.
    """
    handlers.show_messages()
    record = RecipeRecord.from_checkpoint(checkpoint, _NAME, Config)
    config: Any = dataclasses.replace(record.config, device=device)
    model = _load_model(config, checkpoint, len(record.class_names)).to(config.torch_device(0))
    predictor = engines.create_classification_predictor(
        model, mean=config.mean, std=config.std, flip=config.eval_flip, amp_dtype=config.amp_dtype
    )
    transform = transforms.classification_eval(config.image_size, config.resize)
    with PredictionEntries(output_dir) as entries:
        for path, _, image in named_images(images):
            shown, _ = transform(image, None)
            probs = predictor(shown[None])[0].softmax(dim=0)
            scores, labels = (values.tolist() for values in probs.topk(min(5, len(probs))))
            found = [
                {"name": record.class_names[label], "score": score} for label, score in zip(labels, scores, strict=True)
            ]
            entries.add(path, image, {"classes": found})
            _logger.info("%s: %s (%.3f)", path, found[0]["name"], scores[0])


def _train(local_rank: int, config: Any, instead: Instead | None = None) -> None:
    device, folder = open_run(local_rank, config)
    train_set, val_set = _create_data(config)
    class_names = data.class_names(train_set)
    train_loader = create_train_loader(config, train_set, collate_fn=data.collate_classification)
    with refused_arguments():
        mixing = engines.create_mixing(len(class_names), mixup=config.mixup, cutmix=config.cutmix)
        loss_fn = losses.ClassificationLoss(config.label_smoothing)

    module = create_model(config, len(class_names)).to(device)
    refuse_batches_of_one(module, train_loader, (config.image_size, config.image_size))
    model, ema = prepare_model(config, module, device, sync_batchnorm=config.norm == "sync")
    optimizer = _create_optimizer(config, module)
    steps = config.epochs * handlers.steps_per_epoch(len(train_loader), config.accumulate)
    scheduler = handlers.warmup_cosine(
        optimizer, steps, end_factor=config.final_lr, warmup_steps=min(config.warmup, steps)
    )
    update = create_update(config, optimizer, scheduler, ema)

    trainer = engines.create_classification_trainer(
        model, update, loss_fn, mixing=mixing, mean=config.mean, std=config.std, seed=config.seed
    )
    register_resumable(trainer, "recipe", RecipeRecord(_NAME, config, class_names))
    if instead is not None:
        return instead.run(trainer, train_loader, model, update)
    evaluator = _create_evaluator(config, model, val_set, folder, trainer, ema)
    run_training(
        trainer,
        config,
        folder,
        model,
        optimizer,
        train_loader,
        evaluator,
        _create_val_loader(config, val_set),
        best=_BEST,
        curves=_CURVES,
    )


def _evaluate(local_rank: int, config: Any, checkpoint: Path) -> None:
    handlers.show_messages()
    _, val_set = _create_data(config)
    class_names = data.class_names(val_set)
    RecipeRecord.from_checkpoint(checkpoint, _NAME, Config).refuse_other_data(checkpoint, class_names)
    model = _load_model(config, checkpoint, len(class_names)).to(config.torch_device(local_rank))
    evaluator = _create_evaluator(config, model, val_set, config.output_dir)
    handlers.attach_evaluation_summary(evaluator)
    evaluator.run(_create_val_loader(config, val_set))


@refused_arguments()
def create_model(config: Any, num_classes: int) -> nn.Module:
    """The classifier of a configuration without ``None``."""
    model = models.classifier(
        config.model,
        num_classes,
        weights=config.weights,
        image_size=config.image_size,
        dropout=config.dropout,
    )
    if config.freeze:
        model.requires_grad_(False)
        models.classifier_head(model).requires_grad_(True)
    return model


def _load_model(config: Any, checkpoint: Path, num_classes: int) -> nn.Module:
    model = create_model(dataclasses.replace(config, weights="none"), num_classes)
    handlers.load_model(checkpoint, model)
    return model


@refused_arguments()
def _create_data(config: Any) -> tuple[Any, Any]:
    return data.open_classification_data(
        config.data or built_in_data(config.output_dir / "data", "class_folders"),
        config.data_format,
        train_transforms=transforms.classification_train(
            config.image_size, scale=config.crop_scale, hflip=config.hflip, vflip=config.vflip
        ),
        val_transforms=transforms.classification_eval(config.image_size, config.resize),
        val_fraction=config.val_fraction,
        seed=config.seed,
        on_bad_sample=config.on_bad_sample,
    )


def _create_optimizer(config: Any, model: nn.Module) -> torch.optim.Optimizer:
    groups = engines.parameter_groups(model, config.lr, config.weight_decay, decay_one_dimensional=config.norm_decay)
    options = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    return engines.create_optimizer(config.optimizer, groups, config.lr, **options)


def _create_val_loader(config: Any, val_set: Any) -> Any:
    return data.create_loader(
        val_set,
        config.batch_size,
        num_workers=config.num_workers,
        on_bad_sample=config.on_bad_sample,
        collate_fn=data.collate_classification,
    )


def _create_evaluator(
    config: Any, model: nn.Module, val_set: Any, folder: Path, trainer: Engine | None = None, ema: Any = None
) -> Engine:
    class_names = data.class_names(val_set)
    metric = metrics.ClassificationMetric(len(class_names), class_names=class_names, per_class=True)
    evaluator = engines.create_classification_evaluator(
        model,
        {"classification": metric},
        ema=ema,
        loss_fn=losses.ClassificationLoss(config.label_smoothing) if config.val_losses else None,
        mean=config.mean,
        std=config.std,
        flip=config.eval_flip,
        batched=config.eval_batched,
        amp_dtype=config.amp_dtype,
    )
    handlers.ClassPanels(folder, class_names).attach(evaluator)
    handlers.attach_classification_analysis(folder, evaluator, metric)
    handlers.attach_evaluation_files(folder, trainer, evaluator)
    return evaluator
