"""HRNet on persons with keypoints: one heat-map for each keypoint of a person cut out of a photograph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro
from ignite.engine import Engine
from torch import nn

from ignite_imgtools import data, distributed, engines, handlers, losses, metrics, models
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
from ignite_imgtools.recipes.exportable import Exportable, exportable_crops
from ignite_imgtools.recipes.instead import Instead
from ignite_imgtools.recipes.pose_prediction import predict_poses
from ignite_imgtools.recipes.pose_run import KeypointSet
from ignite_imgtools.recipes.records import RecipeRecord
from ignite_imgtools.recipes.training import create_train_loader, create_update, open_run, prepare_model, run_training

__all__ = ["Config", "create_model", "evaluate", "exportable", "predict", "train"]

_NAME = "hrnet"
_BEST = "keypoints/AP"

# What the authors train on COCO, from their ImageNet weights.
_FULL = {
    "model": "hrnet_w32",
    "input_size": (256, 192),
    "lr": 1e-3,
    "lr_steps": (170, 200),
    "batch_size": 32,
    "epochs": 210,
    "warmup": 1000,
}
# For the built-in set on a CPU, from random weights: a few minutes on two cores.
_SMALL = {
    "model": "hrnet_small",
    "input_size": (128, 96),
    "lr": 2e-3,
    "lr_steps": (5, 7),
    "batch_size": 16,
    "epochs": 8,
    "warmup": 30,
}

_Int = tyro.conf.arg(metavar="N")
_Float = tyro.conf.arg(metavar="X")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Train HRNet (Sun et al., 2019) on persons with keypoints, in COCO's format.

    The defaults are the authors' schedule for COCO, W32 at 256 x 192 pixels and 210 epochs; for the built-in
    set on a CPU a small model at 128 x 96 pixels.
    """

    FULL: ClassVar[dict[str, Any]] = _FULL
    SMALL: ClassVar[dict[str, Any]] = _SMALL

    model: Literal["hrnet_w32", "hrnet_w48", "hrnet_small"] | None = None
    """HRNet-W32, -W48, or one for trials on CPUs. --weights takes a file of the authors (pose, ImageNet) or of ours."""
    base_channels: Annotated[int | None, _Int] = None
    """Channels of the finest branch of --model hrnet_small. By default 16."""
    input_size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="HEIGHT WIDTH")] = None
    """Size that persons are cut out to; heat-maps have a quarter of it."""
    sigma: Annotated[float | None, _Float] = None
    """Standard deviation of the peaks to be learned, in heat-map pixels. By default 1/128 of the height, at least 1."""
    category: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Whose keypoints, where several categories of the annotations have some."""
    person_detections: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Evaluate in the boxes of a detector, a json file of COCO results, instead of the annotated ones."""
    person_score: Annotated[float, _Float] = 0.0
    """Leave out detections of a lower score."""
    scale: Annotated[float, _Float] = 0.35
    """In training boxes are enlarged by a random factor of 1 - X to 1 + X,"""
    rotate: Annotated[float, _Float] = 45.0
    """turned by up to so many degrees,"""
    rotate_probability: Annotated[float, _Float] = 0.6
    """which happens with this probability,"""
    half_body: Annotated[float, _Float] = 0.3
    """are the box of the upper or lower half of the body with this one (of COCO's 17 keypoints alone),"""
    flip: Annotated[float, _Float] = 0.5
    """and mirrored with this one."""
    joint_weighting: Literal["equal", "hard"] = "equal"
    """Weights of joints in the loss: all the same, or elbows and knees 1.2, wrists and ankles 1.5."""
    visibility_weighting: Literal["equal", "graded"] = "equal"
    """Weights of visible and of hidden joints: the same, or twice as much for visible ones, as in the tutorials."""
    decode: Literal["quarter", "dark", "none"] = "quarter"
    """How a place is refined below a pixel of the heat-map: a quarter towards the higher neighbour, DARK, or not."""
    flip_test: bool = True
    """In evaluation and prediction, average the heat-maps of a person and of its mirror image."""
    oks_nms: Annotated[float, _Float] = 0.9
    """Of two poses in an image that are more similar (OKS), the surer is kept; 1 keeps all."""
    min_joint_score: Annotated[float, _Float] = 0.2
    """Joints of a lower heat-map do not count in a pose's score, and are not drawn."""
    keypoint_sigmas: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="X...")] = None
    """Standard deviations of the keypoints in the evaluation, one for each. Needed where they are not COCO's 17."""
    norm: Literal["batch", "sync"] = "batch"
    """Normalise by the statistics of the persons of a process, or of all processes (CUDA)."""
    weight_decay: Annotated[float, _Float] = 1e-4
    """Weight decay of AdamW."""
    lr_steps: tuple[int, ...] | None = None
    """Epochs after which the learning rate is divided by ten. The default keeps its proportion to --epochs."""
    warmup: Annotated[int | None, _Int] = None
    """Optimizer steps of linear warm-up, at most those of the first epoch."""
    eval_every: Annotated[int, _Int] = 1
    """Epochs between two evaluations; the last epoch is always evaluated."""
    crops_per_forward: Annotated[int | None, _Int] = None
    """Evaluate so many persons together, of whatever images: faster on a GPU, but the last bits may depend on it."""
    group_by: Literal["shape", "aspect", "none"] = "none"
    """Make batches of persons from images of the same or of similar shape. They are cut to one size anyway."""

    def defaults(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        height, _ = self.input_size or fixed["input_size"]
        epochs = self.epochs or fixed["epochs"]
        steps = proportional_steps(fixed["lr_steps"], fixed["epochs"], epochs)
        return {"sigma": max(1.0, 2.0 * height / 256), "lr_steps": steps}

    def check(self) -> None:
        super().check()
        # The coarsest resolution, 1/32, must be more than one pixel: a batch of one person could not be normalised.
        if self.input_size is not None and (min(self.input_size) <= 32 or any(side % 4 for side in self.input_size)):
            shown = " ".join(map(str, self.input_size))
            raise ConfigError(f"--input-size must be two multiples of 4 above 32, the height first, got {shown}")
        for name in ("base_channels", "eval_every", "crops_per_forward"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.base_channels is not None and self.model in ("hrnet_w32", "hrnet_w48"):
            raise ConfigError(f"--base-channels is for --model hrnet_small; {self.model} has its own")
        for name in ("sigma", "oks_nms"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')} must be a positive number, got {value}")
        if self.warmup is not None and self.warmup < 0:
            raise ConfigError(f"--warmup must be 0 or more, got {self.warmup}")
        if self.lr_steps is not None and list(self.lr_steps) != sorted(set(self.lr_steps)):
            raise ConfigError(f"--lr-steps must rise, got {' '.join(map(str, self.lr_steps))}")
        if self.person_detections is not None and not self.person_detections.is_file():
            raise ConfigError(f"--person-detections must be a file; there is no file {self.person_detections}")
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
    """The model of ``checkpoint``, for persons cut out to ``size``, height and width."""
    record: Any = RecipeRecord.from_checkpoint(checkpoint, _NAME, Config)
    model = _load_model(record.config, checkpoint, len(KeypointSet.from_dict(record.details)))
    return exportable_crops(model, size or record.config.input_size, "heatmaps")


def predict(
    checkpoint: Path,
    images: Sequence[Path],
    *,
    output_dir: Path,
    boxes: Path | None = None,
    score_threshold: float = 0.5,
    device: str = "auto",
) -> None:
    """Draw the poses of persons in whole photographs, and write them to ``predictions.json``; see
    :func:`~ignite_imgtools.recipes.pose_prediction.predict_poses` for where the persons' boxes come from."""
    handlers.show_messages()
    record = RecipeRecord.from_checkpoint(checkpoint, _NAME, Config)
    config: Any = dataclasses.replace(record.config, device=device)
    keypoints = KeypointSet.from_dict(record.details)
    model = _load_model(config, checkpoint, len(keypoints)).to(config.torch_device(0))
    step = engines.pose_evaluation_step(model, **_evaluation_options(config, keypoints))
    predict_poses(
        step,
        transforms.pose_eval(config.input_size),
        images,
        output_dir,
        keypoints,
        boxes=boxes,
        score_threshold=score_threshold,
        joint_threshold=config.min_joint_score,
    )


def _train(local_rank: int, config: Any, instead: Instead | None = None) -> None:
    device, folder = open_run(local_rank, config)
    train_set, val_set, keypoints = _create_data(config)
    train_loader = create_train_loader(config, train_set, collate_fn=data.collate_persons)
    loss_fn = losses.HeatmapLoss(keypoints.joint_weights(config.joint_weighting), config.visibility_weighting)

    module = create_model(config, len(keypoints)).to(device)
    model, ema = prepare_model(config, module, device, sync_batchnorm=config.norm == "sync")
    optimizer = engines.create_optimizer("adamw", model.parameters(), config.lr, weight_decay=config.weight_decay)
    steps = handlers.steps_per_epoch(len(train_loader), config.accumulate)
    scheduler = handlers.warmup_multistep(
        optimizer, [epoch * steps for epoch in config.lr_steps], warmup_steps=min(config.warmup, steps)
    )
    update = create_update(config, optimizer, scheduler, ema)

    trainer = engines.create_pose_trainer(
        model, update, loss_fn.to(device), sigma=config.sigma, seed=config.seed, device=device
    )
    names = data.class_names(train_set.dataset)
    register_resumable(trainer, "recipe", RecipeRecord(_NAME, config, names, keypoints.to_dict()))
    if instead is not None:
        return instead.run(trainer, train_loader, model, update)
    evaluator = _create_evaluator(config, model, val_set, keypoints, folder, trainer, ema)
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
    )


def _evaluate(local_rank: int, config: Any, checkpoint: Path) -> None:
    handlers.show_messages()
    _, val_set, keypoints = _create_data(config)
    RecipeRecord.from_checkpoint(checkpoint, _NAME, Config).refuse_other_data(checkpoint, [], keypoints.to_dict())
    model = _load_model(config, checkpoint, len(keypoints)).to(config.torch_device(local_rank))
    evaluator = _create_evaluator(config, model, val_set, keypoints, config.output_dir)
    handlers.attach_evaluation_summary(evaluator)
    evaluator.run(_create_val_loader(config, val_set))


@refused_arguments()
def create_model(config: Any, num_keypoints: int) -> nn.Module:
    """The model of a configuration without ``None``."""
    if config.model == "hrnet_small":
        return models.hrnet_small(num_keypoints, base_channels=config.base_channels or 16, weights=config.weights)
    create = {"hrnet_w32": models.hrnet_w32, "hrnet_w48": models.hrnet_w48}[config.model]
    return create(num_keypoints, weights=config.weights)


def _load_model(config: Any, checkpoint: Path, num_keypoints: int) -> nn.Module:
    model = create_model(dataclasses.replace(config, weights="none"), num_keypoints)
    handlers.load_model(checkpoint, model)
    return model


@refused_arguments()
def _create_data(config: Any) -> tuple[data.PersonKeypoints, data.PersonImages, KeypointSet]:
    train_set, val_set = data.open_person_data(
        config.data or built_in_data(config.output_dir / "data", "coco_keypoints"),
        config.data_format,
        category=config.category,
        detections=config.person_detections,
        min_score=config.person_score,
        val_fraction=config.val_fraction,
        seed=config.seed,
        on_bad_sample=config.on_bad_sample,
    )
    mirrored = config.flip > 0 or config.flip_test
    keypoints = KeypointSet.of_persons(train_set, mirrored=mirrored, sigmas=config.keypoint_sigmas)
    train_set.transforms = transforms.PoseTransform(
        config.input_size,
        scale=config.scale,
        degrees=config.rotate,
        rotate_probability=config.rotate_probability,
        half_body_probability=config.half_body if keypoints.is_coco else 0.0,
        flip_probability=config.flip,
        flip_permutation=keypoints.flip_permutation,
    )
    val_set.transforms = transforms.pose_eval(config.input_size)
    return train_set, val_set.by_image(), keypoints


def _create_val_loader(config: Any, val_set: Any) -> Any:
    return data.create_loader(
        val_set,
        config.batch_size,
        num_workers=config.num_workers,
        on_bad_sample=config.on_bad_sample,
        collate_fn=data.collate_person_images,
    )


def _evaluation_options(config: Any, keypoints: KeypointSet) -> dict[str, Any]:
    return {
        "flip_permutation": keypoints.flip_permutation if config.flip_test else None,
        "refine": config.decode,
        "oks_threshold": config.oks_nms,
        "keypoint_sigmas": keypoints.sigmas,
        "min_keypoint_score": config.min_joint_score,
        "crops_per_forward": config.crops_per_forward,
        "sigma": config.sigma,
        "amp_dtype": config.amp_dtype,
    }


def _create_evaluator(
    config: Any,
    model: nn.Module,
    val_set: data.PersonImages,
    keypoints: KeypointSet,
    folder: Path,
    trainer: Engine | None = None,
    ema: Any = None,
) -> Engine:
    coco = metrics.CocoMetric(
        data.coco_index(val_set), ("keypoints",), keypoint_sigmas=keypoints.sigmas, keep_results=True
    )
    options = _evaluation_options(config, keypoints)
    evaluator = engines.create_pose_evaluator(model, {"coco": coco}, ema=ema, **options)
    heatmaps_of = engines.create_heatmap_predictor(
        distributed.unwrap_model(model) if ema is None else ema.module,
        flip_permutation=options["flip_permutation"],
        amp_dtype=config.amp_dtype,
    )
    handlers.PosePanels(
        folder, val_set.annotated, heatmaps_of, skeleton=keypoints.skeleton, names=keypoints.names
    ).attach(evaluator)
    handlers.attach_pr_curve(folder, evaluator, coco)
    handlers.attach_evaluation_analysis(folder, trainer, evaluator, coco)
    category_ids = data.category_ids(val_set.persons.dataset)
    handlers.attach_evaluation_files(folder, trainer, evaluator, coco, category_ids=category_ids)
    return evaluator
