"""U2-Net on DUTS, ECSSD, MSRA and other pairs of images and black and white masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

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
from ignite_imgtools.recipes.dense_prediction import predict_maps
from ignite_imgtools.recipes.exportable import Exportable, exportable_crops
from ignite_imgtools.recipes.instead import Instead
from ignite_imgtools.recipes.records import RecipeRecord
from ignite_imgtools.recipes.training import create_train_loader, create_update, open_run, prepare_model, run_training

__all__ = ["Config", "create_model", "evaluate", "exportable", "predict", "train"]

# What the tutorials train on DUTS.
_FULL = {
    "model": "full",
    "resize": 320,
    "crop_size": 288,
    "lr": 1e-3,
    "batch_size": 16,
    "epochs": 360,
    "eval_every": 10,
}
# For the built-in set on a CPU: a few minutes on two cores.
_SMALL = {
    "model": "lite",
    "resize": 96,
    "crop_size": 80,
    "lr": 2e-3,
    "batch_size": 8,
    "epochs": 4,
    "eval_every": 1,
    "warmup": 50,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Train U2-Net (Qin et al., 2020) on DUTS, ECSSD, MSRA or other pairs of images and black and white masks.

    The defaults are the tutorials' schedule for DUTS: the full model, 360 epochs at crops of 288 pixels; for
    the built-in set on a CPU the small model at crops of 80 pixels.
    """

    FULL: ClassVar[dict[str, Any]] = _FULL
    SMALL: ClassVar[dict[str, Any]] = _SMALL

    val_data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of another data set to evaluate on, such as ECSSD."""
    model: Literal["full", "lite"] | None = None
    """U2-Net with 44 or with 1.1 million parameters."""
    resize: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """The model sees images of this height and width, whatever their shape was; maps are measured at their own size."""
    crop_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """In training a square of this many pixels is cut out of them."""
    hflip: Annotated[float, tyro.conf.arg(metavar="X")] = 0.5
    """Probability of a horizontal flip."""
    norm: Literal["batch", "sync"] = "batch"
    """Normalise by the statistics of the images of a process, or of all processes (CUDA)."""
    weight_decay: Annotated[float, tyro.conf.arg(metavar="X")] = 1e-4
    """Weight decay of AdamW,"""
    norm_decay: bool = False
    """also of parameters of one dimension, which are biases and scales of normalisation."""
    warmup: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Optimizer steps of linear warm-up, before half a cosine. By default those of two epochs."""
    eval_every: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Epochs between two evaluations; the last epoch is always evaluated."""
    eval_flip: bool = False
    """In evaluation, average what the model says of an image and of its mirror image."""
    val_losses: bool = False
    """Compute the loss of the fused map on the validation set too."""
    group_by: Literal["shape", "aspect", "none"] = "none"
    """Make batches of images of the same or of similar shape. They are resized to the same one anyway."""

    def check(self) -> None:
        super().check()
        for name in ("resize", "crop_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.warmup is not None and self.warmup < 0:
            raise ConfigError(f"--warmup must be 0 or more, got {self.warmup}")
        if self.val_data is not None and not self.val_data.is_dir():
            raise ConfigError(f"--val-data must be a folder; there is no folder {self.val_data}")
        if self.norm == "sync" and self.device_type == "cpu":
            raise ConfigError("--norm sync works between GPUs only; leave it out on a CPU")


def train(config: Config, instead: Instead | None = None) -> None:
    """Train, evaluate every few epochs, and leave a run folder; on every process there is, or is to be started."""
    config = config.filled("u2net")
    launch(config, _train, instead)


def _train(local_rank: int, config: Any, instead: Instead | None = None) -> None:
    device, folder = open_run(local_rank, config)
    train_set, val_set = _create_data(config)
    train_loader = create_train_loader(config, train_set, collate_fn=data.collate_dense)
    val_loader = _create_val_loader(config, val_set)

    module = create_model(config).to(device)
    refuse_batches_of_one(module, train_loader, (config.crop_size, config.crop_size))
    model, ema = prepare_model(config, module, device, sync_batchnorm=config.norm == "sync")
    groups = engines.parameter_groups(model, config.lr, config.weight_decay, decay_one_dimensional=config.norm_decay)
    optimizer = engines.create_optimizer("adamw", groups, config.lr)
    steps = handlers.steps_per_epoch(len(train_loader), config.accumulate)
    warmup = min(2 * steps if config.warmup is None else config.warmup, config.epochs * steps)
    scheduler = handlers.warmup_cosine(optimizer, config.epochs * steps, warmup_steps=warmup, end_factor=1e-6)
    update = create_update(config, optimizer, scheduler, ema)

    trainer = engines.create_saliency_trainer(model, update, losses.DeepSupervisionLoss(), seed=config.seed)
    register_resumable(trainer, "recipe", RecipeRecord("u2net", config, []))
    if instead is not None:
        return instead.run(trainer, train_loader, model, update)
    evaluator = _create_evaluator(config, model, folder, trainer, ema)
    run_training(
        trainer,
        config,
        folder,
        model,
        optimizer,
        train_loader,
        evaluator,
        val_loader,
        best="max_F",
        curves=("max_F", "MAE"),
    )


def evaluate(config: Config, checkpoint: Path) -> None:
    """Evaluate ``checkpoint`` on the validation part and print the numbers; writes ``eval/`` and ``plots/``."""
    config = config.filled("u2net")
    launch(config, _evaluate, checkpoint)


def _evaluate(local_rank: int, config: Any, checkpoint: Path) -> None:
    handlers.show_messages()
    _, val_set = _create_data(config)
    model = _load_model(config, checkpoint).to(config.torch_device(local_rank))
    evaluator = _create_evaluator(config, model, config.output_dir)
    handlers.attach_evaluation_summary(evaluator)
    evaluator.run(_create_val_loader(config, val_set))


def exportable(checkpoint: Path, size: Sequence[int] | None = None) -> Exportable:
    """The model of ``checkpoint``, for images of ``size``, height and width."""
    record: Any = RecipeRecord.from_checkpoint(checkpoint, "u2net", Config)
    return exportable_crops(_load_model(record.config, checkpoint), size or (record.config.resize,) * 2, "logits")


def predict(checkpoint: Path, images: Sequence[Path], *, output_dir: Path, device: str = "auto") -> None:
    """Write how salient each pixel of ``images`` is to the model of ``checkpoint``: maps and cut-outs."""
    handlers.show_messages()
    record = RecipeRecord.from_checkpoint(checkpoint, "u2net", Config)
    config: Any = dataclasses.replace(record.config, device=device)
    model = _load_model(config, checkpoint).to(config.torch_device(0))
    predictor = engines.create_dense_predictor(model, amp_dtype=config.amp_dtype, **_evaluation_options(config))
    predict_maps(predictor, images, output_dir)


@refused_arguments()
def create_model(config: Any) -> nn.Module:
    """The model of a configuration without ``None``."""
    return {"full": models.u2net, "lite": models.u2net_lite}[config.model](weights=config.weights)


def _load_model(config: Any, checkpoint: Path) -> nn.Module:
    model = create_model(dataclasses.replace(config, weights="none"))
    handlers.load_model(checkpoint, model)
    return model


@refused_arguments()
def _create_data(config: Any) -> tuple[Any, Any]:
    train_transforms = transforms.saliency_train(config.resize, config.crop_size, config.hflip)
    return data.open_saliency_data(
        config.data or built_in_data(config.output_dir / "data", "saliency"),
        config.data_format,
        val_data=config.val_data,
        train_transforms=train_transforms,
        val_transforms=transforms.saliency_eval(),
        val_fraction=config.val_fraction,
        seed=config.seed,
        on_bad_sample=config.on_bad_sample,
    )


def _create_val_loader(config: Any, val_set: Any) -> Any:
    return data.create_loader(
        val_set,
        config.batch_size,
        num_workers=config.num_workers,
        on_bad_sample=config.on_bad_sample,
        collate_fn=data.collate_dense_lists,
    )


def _create_evaluator(
    config: Any, model: nn.Module, folder: Path, trainer: Engine | None = None, ema: Any = None
) -> Engine:
    saliency = metrics.SaliencyMetric()
    evaluator = engines.create_saliency_evaluator(
        model,
        {"saliency": saliency},
        ema=ema,
        loss_fn=losses.DeepSupervisionLoss() if config.val_losses else None,
        amp_dtype=config.amp_dtype,
        **_evaluation_options(config),
    )
    handlers.attach_saliency_panels(folder, evaluator)
    handlers.attach_saliency_analysis(folder, evaluator, saliency)
    handlers.attach_evaluation_files(folder, trainer, evaluator)
    return evaluator


def _evaluation_options(config: Any) -> dict[str, Any]:
    return {"resize": (config.resize, config.resize), "flip": config.eval_flip}
