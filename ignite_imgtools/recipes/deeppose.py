"""DeepPose: the points of faces, regressed by any classifier's network of torchvision with a linear head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro
from ignite.engine import Engine
from torch import nn

from ignite_imgtools import data, engines, handlers, losses, metrics, models
from ignite_imgtools.data import transforms
from ignite_imgtools.data.subsets import unwrap_subset
from ignite_imgtools.formats import register_resumable
from ignite_imgtools.recipes.config import (
    ConfigError,
    RunConfig,
    built_in_data,
    launch,
    proportional_steps,
    refuse_batches_of_one,
    refused_arguments,
)
from ignite_imgtools.recipes.exportable import Exportable, exportable_crops
from ignite_imgtools.recipes.instead import Instead
from ignite_imgtools.recipes.landmark_prediction import predict_landmarks
from ignite_imgtools.recipes.records import RecipeRecord
from ignite_imgtools.recipes.training import create_train_loader, create_update, open_run, prepare_model, run_training

__all__ = ["Config", "create_model", "evaluate", "exportable", "predict", "train"]

_NAME = "deeppose"
_CURVES = ("NME", "failure_rate", "AUC")

# What the tutorials train on WFLW.
_FULL = {"model": "resnet50", "image_size": 256, "batch_size": 32, "epochs": 210, "lr": 5e-4, "eval_every": 5}
# For the built-in set on a CPU, from random weights: a few minutes on two cores.
_SMALL = {"model": "resnet18", "image_size": 64, "batch_size": 16, "epochs": 12, "lr": 1e-3, "eval_every": 1}

_Int = tyro.conf.arg(metavar="N")
_Float = tyro.conf.arg(metavar="X")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Train DeepPose on the points of faces: WFLW's lists, iBUG's .pts beside images (300W), or a csv of points.

    The defaults are the tutorials' schedule for WFLW, 210 epochs of ResNet-50 at 256 pixels; for the built-in
    faces on a CPU ResNet-18 at 64 pixels from random weights.
    """

    FULL: ClassVar[dict[str, Any]] = _FULL
    SMALL: ClassVar[dict[str, Any]] = _SMALL

    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Backbone: any classifier of torchvision by its name there: resnet50, mobilenet_v3_small, convnext_tiny, ..."""
    image_size: Annotated[int | None, _Int] = None
    """Faces are cut out as squares of this many pixels."""
    padding: Annotated[float, _Float] = 1.25
    """A face's box is enlarged by this factor before it is cut out."""
    scale: Annotated[float, _Float] = 0.35
    """In training the box is then made larger or smaller, at random by this share of it at most,"""
    degrees: Annotated[float, _Float] = 45.0
    """turned by this angle at most,"""
    rotate_probability: Annotated[float, _Float] = 0.6
    """of so many of the faces,"""
    shift: Annotated[float, _Float] = 0.15
    """moved by this share of its sides at most,"""
    shift_probability: Annotated[float, _Float] = 0.3
    """of so many of the faces,"""
    hflip: Annotated[float | None, _Float] = None
    """and mirrored with this probability. By default 0.5 where it is known which points change places: of 98 and 68."""
    loss: losses.LandmarkLossKind = "wing"
    """Loss of a coordinate, in pixels of the square."""
    wing_width: Annotated[float, _Float] = 10.0
    """Below this error in pixels --loss wing is logarithmic,"""
    wing_curvature: Annotated[float, _Float] = 2.0
    """and the steeper at 0 the smaller this number."""
    mean: tuple[float, float, float] = engines.IMAGENET_MEAN
    """Mean of red, green and blue in 0..1, subtracted from images."""
    std: tuple[float, float, float] = engines.IMAGENET_STD
    """Standard deviation of red, green and blue in 0..1, by which images are then divided."""
    norm: Literal["batch", "sync"] = "batch"
    """Normalise by the statistics of the images of a process, or of all processes (CUDA)."""
    weight_decay: Annotated[float, _Float] = 0.0
    """Weight decay of Adam, added to the gradient."""
    lr_steps: tuple[int, ...] | None = None
    """Epochs after which the learning rate is divided by ten. By default 170 and 200 of 210, and as early in others."""
    warmup: Annotated[int | None, _Int] = None
    """Optimizer steps of linear warm-up. By default those of 10 of 210 epochs, and as large a part of others."""
    normaliser: metrics.Normaliser | None = None
    """Errors are divided by the distance of outer eye corners, of pupils, or the box's size (if eyes are unknown)."""
    failure: Annotated[float, _Float] = 0.1
    """A larger error is a failure; up to here the area under the cumulative error is taken."""
    eval_every: Annotated[int | None, _Int] = None
    """Epochs between two evaluations; the last epoch is always evaluated."""
    eval_flip: bool = False
    """In evaluation, average what the model says of a face and of its mirror image."""
    eval_batched: bool = False
    """Evaluate the faces of a batch together: several times faster on a GPU, but the last bits may depend on it."""
    val_losses: bool = False
    """Compute the loss on the validation set too."""
    group_by: Literal["shape", "aspect", "none"] = "none"
    """Make batches of images of the same or of similar shape. What is cut out of them has the same one anyway."""

    def defaults(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        # A learning rate that falls before the end, wherever that is.
        return {"lr_steps": proportional_steps((170, 200), 210, self.epochs or fixed["epochs"])}

    def check(self) -> None:
        super().check()
        if self.image_size is not None and self.image_size < 1:
            raise ConfigError(f"--image-size must be at least 1, got {self.image_size}")
        if self.hflip is not None and not 0 <= self.hflip <= 1:
            raise ConfigError(f"--hflip must be a probability from 0 to 1, got {self.hflip}")
        if self.warmup is not None and self.warmup < 0:
            raise ConfigError(f"--warmup must be 0 or more, got {self.warmup}")
        if self.weight_decay < 0:
            raise ConfigError(f"--weight-decay must be 0 or more, got {self.weight_decay}")
        if not self.failure > 0:
            raise ConfigError(f"--failure must be above 0, got {self.failure}")
        if min(self.std) <= 0:
            raise ConfigError(f"--std must be positive numbers, got {' '.join(map(str, self.std))}")
        if self.norm == "sync" and self.device_type == "cpu":
            raise ConfigError("--norm sync works between GPUs only; leave it out on a CPU")


def train(config: Config, instead: Instead | None = None) -> None:
    """Train, evaluate every few epochs, and leave a run folder; on every process there is, or is to be started."""
    filled = config.filled(_NAME)
    launch(filled, _train, instead)


def evaluate(config: Config, checkpoint: Path) -> None:
    """Evaluate ``checkpoint`` on the validation part and print the numbers; writes ``eval/`` and ``plots/``."""
    filled = config.filled(_NAME)
    launch(filled, _evaluate, checkpoint)


def exportable(checkpoint: Path, size: Sequence[int] | None = None) -> Exportable:
    """The model of ``checkpoint``, for faces cut out to ``size``, height and width."""
    record: Any = RecipeRecord.from_checkpoint(checkpoint, _NAME, Config)
    model, config = _load_model(record.config, checkpoint, int(record.details["num_points"])), record.config
    return exportable_crops(model, size or (config.image_size,) * 2, "points", config.mean, config.std)


def predict(
    checkpoint: Path, images: Sequence[Path], *, output_dir: Path, boxes: Path | None = None, device: str = "auto"
) -> None:
    """Draw the points that the model of ``checkpoint`` sees in the faces of ``images``, and write them as json and csv.

    Args:
        boxes: where faces are, see :func:`~ignite_imgtools.recipes.box_files.read_boxes`; by default an image is taken
            for the box of one face.
    """
    handlers.show_messages()
    record = RecipeRecord.from_checkpoint(checkpoint, _NAME, Config)
    config: Any = dataclasses.replace(record.config, device=device)
    num_points = int(record.details["num_points"])
    model = _load_model(config, checkpoint, num_points).to(config.torch_device(0))
    predictor = engines.create_landmark_predictor(model, **_evaluation_options(config, num_points))
    cut_out = transforms.landmark_eval(config.image_size, padding=config.padding)
    predict_landmarks(predictor, cut_out, images, output_dir, boxes)


def _train(local_rank: int, config: Any, instead: Instead | None = None) -> None:
    device, folder = open_run(local_rank, config)
    train_set, val_set = _create_data(config)
    num_points = _faces(val_set).num_points
    train_loader = create_train_loader(config, train_set, collate_fn=data.collate_landmarks)
    with refused_arguments():
        loss_fn = _create_loss(config)

    module = create_model(config, num_points)
    if config.weights in ("none", "default"):
        models.begin_at_points(module, data.mean_face(train_set, config.padding))
    module = module.to(device)
    refuse_batches_of_one(module, train_loader, (config.image_size, config.image_size))
    model, ema = prepare_model(config, module, device, sync_batchnorm=config.norm == "sync")
    optimizer = engines.create_optimizer("adam", model.parameters(), config.lr, weight_decay=config.weight_decay)
    steps = handlers.steps_per_epoch(len(train_loader), config.accumulate)
    warmup = config.epochs * steps // 21 if config.warmup is None else min(config.warmup, config.epochs * steps)
    with refused_arguments():
        scheduler = handlers.warmup_multistep(
            optimizer, [epoch * steps for epoch in config.lr_steps], warmup_steps=warmup, start_factor=0.01
        )
    update = create_update(config, optimizer, scheduler, ema)

    trainer = engines.create_landmark_trainer(
        model, update, loss_fn, mean=config.mean, std=config.std, seed=config.seed
    )
    register_resumable(trainer, "recipe", RecipeRecord(_NAME, config, [], {"num_points": num_points}))
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
        best="NME",
        best_mode="min",
        curves=_CURVES,
    )


def _evaluate(local_rank: int, config: Any, checkpoint: Path) -> None:
    handlers.show_messages()
    _, val_set = _create_data(config)
    num_points = _faces(val_set).num_points
    record = RecipeRecord.from_checkpoint(checkpoint, _NAME, Config)
    record.refuse_other_data(checkpoint, [], {"num_points": num_points})
    model = _load_model(config, checkpoint, num_points).to(config.torch_device(local_rank))
    evaluator = _create_evaluator(config, model, val_set, config.output_dir)
    handlers.attach_evaluation_summary(evaluator)
    evaluator.run(_create_val_loader(config, val_set))


@refused_arguments()
def create_model(config: Any, num_points: int) -> nn.Module:
    """The model of a configuration without ``None``."""
    return models.deep_pose(num_points, config.model, weights=config.weights, image_size=config.image_size)


def _load_model(config: Any, checkpoint: Path, num_points: int) -> nn.Module:
    model = create_model(dataclasses.replace(config, weights="none"), num_points)
    handlers.load_model(checkpoint, model)
    return model


@refused_arguments()
def _create_data(config: Any) -> tuple[Any, Any]:
    train_set, val_set = data.open_landmark_data(
        config.data or built_in_data(config.output_dir / "data", "pts"),
        config.data_format,
        val_transforms=transforms.landmark_eval(config.image_size, padding=config.padding),
        val_fraction=config.val_fraction,
        seed=config.seed,
        on_bad_sample=config.on_bad_sample,
    )
    # How faces are mirrored depends on the number of their points.
    faces = _faces(train_set)
    if config.hflip and faces.flip_permutation is None:
        raise ConfigError(f"--hflip: it is not known which of {faces.num_points} points change places; give 0")
    faces.transforms = transforms.landmark_train(
        config.image_size,
        flip_permutation=faces.flip_permutation,
        flip_probability=0.5 if config.hflip is None else config.hflip,
        padding=config.padding,
        scale=config.scale,
        degrees=config.degrees,
        rotate_probability=config.rotate_probability,
        shift=config.shift,
        shift_probability=config.shift_probability,
    )
    return train_set, val_set


def _faces(dataset: Any) -> Any:
    """The faces of a data set or of a part of one."""
    return unwrap_subset(dataset)[0]


def _create_loss(config: Any) -> nn.Module:
    return losses.LandmarkLoss(config.loss, width=config.wing_width, curvature=config.wing_curvature)


def _create_val_loader(config: Any, val_set: Any) -> Any:
    return data.create_loader(
        val_set,
        config.batch_size,
        num_workers=config.num_workers,
        on_bad_sample=config.on_bad_sample,
        collate_fn=data.collate_landmarks,
    )


def _evaluation_options(config: Any, num_points: int) -> dict[str, Any]:
    permutation = data.FACE_FLIPS.get(num_points)
    if config.eval_flip and permutation is None:
        raise ConfigError(f"--eval-flip: it is not known which of {num_points} points change places; leave it out")
    return {
        "flip_permutation": permutation if config.eval_flip else None,
        "mean": config.mean,
        "std": config.std,
        "amp_dtype": config.amp_dtype,
    }


def _create_evaluator(
    config: Any, model: nn.Module, val_set: Any, folder: Path, trainer: Engine | None = None, ema: Any = None
) -> Engine:
    faces = _faces(val_set)
    known = faces.flip_permutation is not None
    normaliser: metrics.Normaliser = config.normaliser or ("inter_ocular" if known else "box")
    if normaliser != "box" and not known:
        raise ConfigError(f"--normaliser {normaliser}: it is not known where the eyes of {faces.num_points} points are")
    metric = metrics.LandmarkMetric(normaliser, limit=config.failure)
    evaluator = engines.create_landmark_evaluator(
        model,
        {"landmarks": metric},
        ema=ema,
        loss_fn=_create_loss(config) if config.val_losses else None,
        batched=config.eval_batched,
        **_evaluation_options(config, faces.num_points),
    )
    handlers.LandmarkPanels(folder, normaliser).attach(evaluator)
    handlers.attach_landmark_analysis(folder, evaluator, metric, file_names=faces.file_names)
    handlers.attach_evaluation_files(folder, trainer, evaluator)
    return evaluator
