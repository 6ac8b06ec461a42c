"""Whether each dense model learns 8 images by heart, which proves that model, loss, steps and metric fit together.

Each model sees the same 8 images in every step, resized to a square and not augmented, and is evaluated on them every
25 steps, until it reaches the aim (mean IoU 0.9, for U2-Net the largest F measure 0.95) or the steps end. Images are
the built-in ones, or the first 8 of a folder of data. The status is 1 if a model does not get there.

    python benchmarks/overfit.py
    python benchmarks/overfit.py --models fcn deeplab_v3 lraspp unet --data VOCdevkit/VOC2012 --size 256
    python benchmarks/overfit.py --models u2net_lite u2net --data DUTS-TR --size 128 --device cuda
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ignite.engine import Events
from torch import nn
from torch.utils.data import Subset
from torchvision.transforms import v2

from ignite_imgtools import data, distributed, engines, handlers, losses, metrics, models
from ignite_imgtools.data.transforms import DenseTransform

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "unet": lambda classes: models.unet(classes, base_channels=16),
    "unet_mobilenet_v3_large": models.unet_mobilenet_v3_large,
    "fcn": models.fcn,
    "deeplab_v3": models.deeplab_v3,
    "deeplab_v3_mobilenet": lambda classes: models.deeplab_v3(classes, "mobilenet_v3_large"),
    "lraspp": models.lraspp,
    "u2net_lite": lambda classes: models.u2net_lite(),
    "u2net": lambda classes: models.u2net(),
}
_EVERY = 25
# Networks that answer at a stride of 8 or 16 cannot tell the shapes' corners in small pictures.
_STRIDED = ("fcn", "deeplab_v3", "lraspp")


class Outcome(NamedTuple):
    """What became of a model: its score and when, its losses at the beginning and at the end, seconds of training."""

    score: float
    steps: int
    first_loss: float
    last_loss: float
    seconds: float


def is_saliency(name: str) -> bool:
    """Whether a model finds what is salient, and not classes."""
    return name.startswith("u2net")


def load_images(
    folder: Path | None, saliency: bool, size: int, count: int = 8
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """The first ``count`` images as one batch of squares, their targets, and the names of the classes."""
    transforms = DenseTransform([v2.Resize((size, size))])
    create = data.open_saliency_data if saliency else data.open_segmentation_data
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            folder = data.make_data(
                "saliency" if saliency else "masks", Path(temporary) / "data", num_train=count, num_val=1
            )
        dataset, _ = create(folder, train_transforms=transforms, val_transforms=transforms)
        samples = list(Subset(dataset, range(min(count, len(dataset)))))  # type: ignore[arg-type]
    images, targets = data.collate_dense(samples)
    return images, targets, data.class_names(dataset)


def overfit(
    name: str, folder: Path | None, *, size: int, steps: int, lr: float, device: str = "cpu", count: int = 8
) -> Outcome:
    """Train the model ``name`` on ``count`` images until it knows them or ``steps`` end."""
    distributed.seed_all(0)
    saliency = is_saliency(name)
    images, targets, class_names = load_images(folder, saliency, size, count)
    model = MODELS[name](len(class_names)).to(device)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # a MobileNet's 0.01 would take hundreds of steps to know its images
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    update = engines.GradientUpdate(optimizer, scheduler=handlers.warmup_poly(optimizer, steps, warmup_steps=20))
    metric: Any
    if saliency:
        trainer = engines.create_saliency_trainer(model, update, losses.DeepSupervisionLoss())
        metric, key, aim = metrics.SaliencyMetric(), "max_F", 0.95
        evaluator = engines.create_saliency_evaluator(model, {"metric": metric})
    else:
        trainer = engines.create_segmentation_trainer(model, update, losses.SegmentationLoss())
        metric, key, aim = metrics.SegmentationMetric(len(class_names)), "mean_IoU", 0.9
        evaluator = engines.create_segmentation_evaluator(model, {"metric": metric})
    seen: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(event_filter=lambda engine, i: i == 1 or i % _EVERY == 0),
        lambda: seen.append(float(trainer.state.output["loss"])),  # type: ignore[index]
    )
    seconds, score = 0.0, 0.0
    for done in range(0, steps, _EVERY):
        begin = time.perf_counter()
        trainer.run([(images, targets)] * steps, max_iters=min(done + _EVERY, steps))
        seconds += time.perf_counter() - begin
        evaluator.run([(images, targets)])
        score = evaluator.state.metrics[key]
        if score > aim:
            break
    return Outcome(score, int(trainer.state.iteration), seen[0], seen[-1], seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--data", type=Path, help="a folder of segmentation or saliency data")
    parser.add_argument("--size", type=int, help="side of the squares; by default 64, or 192 for models of a stride")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    all_learned = True
    print(f"8 images, AdamW, {torch.get_num_threads()} threads")
    for name in options.models:
        size = options.size or (192 if name.startswith(_STRIDED) else 64)
        outcome = overfit(name, options.data, size=size, steps=options.steps, lr=options.lr, device=options.device)
        what, aim = ("max F", 0.95) if is_saliency(name) else ("mean IoU", 0.9)
        all_learned &= outcome.score > aim
        print(
            f"{name:<24}{size:>4} pixels: {what} {outcome.score:.3f} after {outcome.steps} steps, "
            f"loss {outcome.first_loss:.3f} -> {outcome.last_loss:.4f}, {outcome.seconds:.0f} s",
            flush=True,
        )
    return 0 if all_learned else 1


if __name__ == "__main__":
    raise SystemExit(main())
