"""Whether a detector learns four images by heart, which proves that model, loss, steps and metric fit together.

Each model sees the same four built-in images in every step, not augmented, and is evaluated on them every 25 steps,
until AP50 is above 0.9 or the steps end. The status is 1 if a model does not get there.

    python benchmarks/overfit_detectors.py
    python benchmarks/overfit_detectors.py --models yolov3_spp --size 320 --device cuda
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ignite_imgtools import data, distributed, engines, handlers, losses, metrics, models


def _yolov3_spp(dataset: Any, size: int, **options: Any) -> nn.Module:
    anchors = data.kmeans_anchors(data.object_sizes(dataset, size))
    classes = len(dataset.class_names)
    return models.yolov3_spp(classes, size=size, anchors=anchors.tolist(), loss_fn=losses.YoloLoss(), **options)


MODELS: dict[str, Callable[[Any, int], nn.Module]] = {
    "yolov3_spp_small": lambda dataset, size: _yolov3_spp(dataset, size, width=0.25, depth=0.34),
    "yolov3_spp": _yolov3_spp,
}
_EVERY = 25


class Outcome(NamedTuple):
    """What became of a model: its AP50 and AP, when, and the seconds of training."""

    ap50: float
    ap: float
    steps: int
    seconds: float


def overfit(name: str, *, size: int, steps: int, lr: float, device: str = "cpu", count: int = 4) -> Outcome:
    """Train the model ``name`` on ``count`` images until it knows them or ``steps`` end."""
    distributed.seed_all(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = data.make_data("yolo", Path(temporary) / "data", num_train=count, num_val=0, image_size=size)
        dataset = data.YoloDetection(folder, transforms=data.transforms.detection_eval())
        batch = data.collate_detection([dataset[index] for index in range(count)])
    model = MODELS[name](dataset, size).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    schedule = handlers.warmup_cosine(optimizer, steps, warmup_steps=20, end_factor=0.05)
    trainer = engines.create_detection_trainer(model, engines.GradientUpdate(optimizer, scheduler=schedule))
    evaluator = engines.create_detection_evaluator(model, {"coco": metrics.CocoMetric(data.coco_index(dataset))})
    seconds = 0.0
    for done in range(0, steps, _EVERY):
        begin = time.perf_counter()
        trainer.run([batch] * steps, max_iters=min(done + _EVERY, steps))
        seconds += time.perf_counter() - begin
        evaluator.run([batch])
        if evaluator.state.metrics["bbox/AP50"] > 0.9:
            break
    found = evaluator.state.metrics
    return Outcome(found["bbox/AP50"], found["bbox/AP"], int(trainer.state.iteration), seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["yolov3_spp_small"])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    all_learned = True
    print(f"4 images of at most {options.size} pixels, AdamW, {torch.get_num_threads()} threads")
    for name in options.models:
        outcome = overfit(name, size=options.size, steps=options.steps, lr=options.lr, device=options.device)
        all_learned &= outcome.ap50 > 0.9
        print(
            f"{name:<24}AP50 {outcome.ap50:.3f}, AP {outcome.ap:.3f} after {outcome.steps} steps, "
            f"{outcome.seconds:.0f} s",
            flush=True,
        )
    return 0 if all_learned else 1


if __name__ == "__main__":
    raise SystemExit(main())
