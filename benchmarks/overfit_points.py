"""Whether a model of points learns eight persons or faces by heart: do model, loss, decoding and metric fit together?

A model sees the same eight samples in every step, not augmented, and is evaluated on them every 25 steps, until it
reaches its aim or the steps end. They are the built-in ones, or the first ones of a folder of data. The status is 1 if
a model does not get there.

    python benchmarks/overfit_points.py
    python benchmarks/overfit_points.py --models hrnet_w32 --data coco --size 256 192 --device cuda
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from torch import nn
from torch.utils.data import Subset

from ignite_imgtools import data, distributed, engines, handlers, losses, metrics, models
from ignite_imgtools.data import transforms

_EVERY = 25


@dataclasses.dataclass(frozen=True)
class Options:
    """What is asked on the command line; ``None`` is a model's own."""

    data: Path | None = None
    size: tuple[int, int] | None = None
    """Height and width of the crops."""
    steps: int = 400
    lr: float = 2e-3
    device: str = "cpu"
    count: int = 8


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a model: the number that its metric has, whether that is its aim, when, seconds of training."""

    metric: str
    value: float
    learned: bool
    steps: int
    seconds: float


def overfit_persons(create: Callable[..., nn.Module], options: Options) -> Outcome:
    """HRNet on persons; the aim is an average precision above 0.9, decoded by DARK."""
    size = options.size or (128, 96)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or data.make_data("coco_keypoints", Path(temporary) / "data", num_train=16, num_val=4)
        persons = _first_persons(data.open_person_data(folder)[0], options.count)
        # What the training is shown and what the evaluation is shown are the same crops.
        persons.transforms = transforms.pose_eval(size)
        batch = data.collate_persons([persons[index] for index in range(len(persons))])
        images = persons.by_image()
        all_images = data.collate_person_images([images[index] for index in range(len(images))])
    sigma = 2.0 * size[0] / 256
    model = create(persons.num_keypoints).to(options.device)
    coco = metrics.CocoMetric(data.coco_index(images), ("keypoints",))
    evaluator = engines.create_pose_evaluator(model, {"coco": coco}, sigma=sigma, refine="dark")
    update = _update(model, options)
    trainer = engines.create_pose_trainer(model, update, losses.HeatmapLoss(), sigma=sigma)
    key = "keypoints/AP"
    return _run(trainer, evaluator, batch, all_images, options, key, lambda value: value > 0.9)


def overfit_faces(backbone: str, options: Options) -> Outcome:
    """DeepPose on faces; the aim is an error below a hundredth of the distance of the eyes' outer corners."""
    size = options.size or (64, 64)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or data.make_data("pts", Path(temporary) / "data", num_train=options.count, num_val=1)
        cut_out = transforms.landmark_eval(size)
        faces = Subset(data.open_landmark_data(folder, train_transforms=cut_out)[0], range(options.count))
        batch = data.collate_landmarks([faces[index] for index in range(options.count)])
    model = models.deep_pose(batch[1]["points"].shape[1], backbone)
    models.begin_at_points(model, data.mean_face(faces))
    model = model.to(options.device)
    evaluator = engines.create_landmark_evaluator(model, {"landmarks": metrics.LandmarkMetric()})
    trainer = engines.create_landmark_trainer(model, _update(model, options), losses.LandmarkLoss())
    return _run(trainer, evaluator, batch, batch, options, "NME", lambda value: value < 0.01)


def _first_persons(persons: Any, count: int) -> Any:
    """The first images that hold so many persons with keypoints, and no other image."""
    chosen: list[int] = []
    left = count
    for image in dict.fromkeys(persons.image_indices.tolist()):
        held = int((persons.image_indices == image).sum())
        if held <= left:
            chosen.append(image)
            left -= held
    return data.PersonKeypoints(Subset(persons.dataset, chosen))


def _update(model: nn.Module, options: Options) -> engines.GradientUpdate:
    optimizer = torch.optim.AdamW(model.parameters(), options.lr)
    schedule = handlers.warmup_cosine(optimizer, options.steps, warmup_steps=20, end_factor=0.05)
    return engines.GradientUpdate(optimizer, scheduler=schedule)


def _run(
    trainer: Engine,
    evaluator: Engine,
    batch: Any,
    evaluated: Any,
    options: Options,
    key: str,
    is_learned: Callable[[float], bool],
) -> Outcome:
    """Train on one batch until the number ``key`` of the evaluation is that of a model that knows it."""
    seconds, value = 0.0, float("nan")
    for done in range(0, options.steps, _EVERY):
        begin = time.perf_counter()
        trainer.run([batch] * options.steps, max_iters=min(done + _EVERY, options.steps))
        seconds += time.perf_counter() - begin
        evaluator.run([evaluated])
        value = evaluator.state.metrics[key]
        if is_learned(value):
            break
    return Outcome(key, value, is_learned(value), int(trainer.state.iteration), seconds)


MODELS: dict[str, Callable[[Options], Outcome]] = {
    "hrnet_small": lambda options: overfit_persons(models.hrnet_small, options),
    "hrnet_w32": lambda options: overfit_persons(models.hrnet_w32, options),
    "hrnet_w48": lambda options: overfit_persons(models.hrnet_w48, options),
    "deeppose": lambda options: overfit_faces("resnet18", options),
    "deeppose_resnet50": lambda options: overfit_faces("resnet50", options),
}
_SMALL = ["hrnet_small", "deeppose"]


def overfit(name: str, options: Options) -> Outcome:
    """Train the model ``name`` until it knows its samples or the steps end."""
    distributed.seed_all(0)
    return MODELS[name](options)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=_SMALL)
    parser.add_argument("--data", type=Path, help="a folder of data for these models")
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--steps", type=int, default=Options.steps)
    parser.add_argument("--lr", type=float, default=Options.lr)
    parser.add_argument("--device", default=Options.device)
    values = vars(parser.parse_args())
    names = values.pop("models")
    options = Options(**{**values, "size": values["size"] and tuple(values["size"])})
    all_learned = True
    print(f"{options.count} samples, AdamW, {torch.get_num_threads()} threads")
    for name in names:
        outcome = overfit(name, options)
        all_learned &= outcome.learned
        print(
            f"{name:<16}{outcome.metric} {outcome.value:.4f} after {outcome.steps} steps, {outcome.seconds:.0f} s",
            flush=True,
        )
    return 0 if all_learned else 1


if __name__ == "__main__":
    raise SystemExit(main())
