"""Whether a detector learns four images by heart, which proves that model, loss, steps and metric fit together.

Each model sees the same four built-in images in every step, not augmented, and is evaluated on them every 25 steps,
until AP50 (of its boxes, and of its masks if it has any) is above 0.9 or the steps end. The status is 1 if a model
does not get there.

    python benchmarks/overfit_detectors.py
    python benchmarks/overfit_detectors.py --models ssd300 --size 300 --lr 3e-4
    python benchmarks/overfit_detectors.py --models yolov3_spp --size 320 --device cuda
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ignite_imgtools import data, distributed, engines, handlers, losses, metrics, models

# Levels of the pyramid begin at small objects, since the images are small.
_ANCHORS = ((8, 11), (16, 23), (32, 45), (64, 91), (128, 181))
_SMALL_HEADS: dict[str, Any] = {
    "backbone": "resnet18",
    "fpn_channels": 64,
    "anchor_sizes": _ANCHORS,
    "representation": 256,
    "proposals": (200, 100),
    "sampling_ratio": 1,
    "rpn_batch_size_per_image": 64,
    "box_batch_size_per_image": 64,
    "box_positive_fraction": 0.5,
}


def _yolov3_spp(dataset: Any, size: int, **options: Any) -> nn.Module:
    anchors = data.kmeans_anchors(data.object_sizes(dataset, size))
    classes = len(dataset.class_names)
    return models.yolov3_spp(classes, size=size, anchors=anchors.tolist(), loss_fn=losses.YoloLoss(), **options)


def _rcnn(build: Callable[..., nn.Module], **options: Any) -> Callable[[Any, int], nn.Module]:
    def create(dataset: Any, size: int) -> nn.Module:
        return build(len(dataset.class_names) + 1, min_size=size, max_size=size, **_SMALL_HEADS, **options)

    return create


def _one_stage(build: Callable[..., nn.Module], anchors: tuple[int, ...]) -> Callable[[Any, int], nn.Module]:
    def create(dataset: Any, size: int) -> nn.Module:
        options: dict[str, Any] = {"backbone": "resnet18", "fpn_channels": 64, "anchor_sizes": anchors}
        return build(len(dataset.class_names) + 1, min_size=size, max_size=size, **options)

    return create


MODELS: dict[str, Callable[[Any, int], nn.Module]] = {
    "yolov3_spp_small": lambda dataset, size: _yolov3_spp(dataset, size, width=0.25, depth=0.34),
    "yolov3_spp": _yolov3_spp,
    "faster_rcnn": _rcnn(models.faster_rcnn),
    "mask_rcnn": _rcnn(models.mask_rcnn, mask_layers=(64, 64)),
    "keypoint_rcnn": _rcnn(models.keypoint_rcnn, keypoint_layers=(64, 64)),
    "retinanet": _one_stage(functools.partial(models.retinanet, head_norm="group"), (8, 16, 32, 64, 128)),
    "fcos": _one_stage(models.fcos, (8, 16, 32, 64, 128)),
    "ssd300": lambda dataset, size: models.ssd300(len(dataset.class_names) + 1),
    "ssdlite": lambda dataset, size: models.ssdlite(len(dataset.class_names) + 1),
}
_DEFAULT = ["yolov3_spp_small", "faster_rcnn", "mask_rcnn", "keypoint_rcnn", "retinanet", "fcos", "ssdlite"]
_IOU_TYPES = {"mask_rcnn": ("bbox", "segm"), "keypoint_rcnn": ("bbox", "keypoints")}
_EVERY = 25


class Outcome(NamedTuple):
    """What became of a model: the smallest AP50 of its results and their numbers, when, and the seconds of training."""

    ap50: float
    numbers: dict[str, float]
    steps: int
    seconds: float


def overfit(name: str, *, size: int, steps: int, lr: float, device: str = "cpu", count: int = 4) -> Outcome:
    """Train the model ``name`` on ``count`` images until it knows them or ``steps`` end."""
    distributed.seed_all(0)
    iou_types = _IOU_TYPES.get(name, ("bbox",))
    options = {"masks": "segm" in iou_types, "keypoints": "keypoints" in iou_types}
    with tempfile.TemporaryDirectory() as temporary:
        kind = "coco_keypoints" if "keypoints" in iou_types else "coco"
        folder = data.make_data(kind, Path(temporary) / "data", num_train=count, num_val=1, image_size=size)
        dataset: Any
        dataset, _ = data.open_detection_data(folder, train_transforms=data.transforms.detection_eval(), **options)
        batch = data.collate_detection([dataset[index] for index in range(count)])
    model = MODELS[name](dataset, size).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    schedule = handlers.warmup_cosine(optimizer, steps, warmup_steps=20, end_factor=0.05)
    trainer = engines.create_detection_trainer(model, engines.GradientUpdate(optimizer, scheduler=schedule))
    metric = metrics.CocoMetric(data.coco_index(dataset), iou_types)
    evaluator = engines.create_detection_evaluator(model, {"coco": metric})
    seconds, lowest = 0.0, 0.0
    for done in range(0, steps, _EVERY):
        begin = time.perf_counter()
        trainer.run([batch] * steps, max_iters=min(done + _EVERY, steps))
        seconds += time.perf_counter() - begin
        evaluator.run([batch])
        lowest = min(evaluator.state.metrics[f"{iou_type}/AP50"] for iou_type in iou_types)
        if lowest > 0.9:
            break
    keys = [f"{iou_type}/{number}" for iou_type in iou_types for number in ("AP50", "AP")]
    numbers = {key: evaluator.state.metrics[key] for key in keys}
    return Outcome(lowest, numbers, int(trainer.state.iteration), seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=_DEFAULT)
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
        numbers = ", ".join(f"{key} {value:.3f}" for key, value in outcome.numbers.items())
        print(f"{name:<18}{numbers} after {outcome.steps} steps, {outcome.seconds:.0f} s", flush=True)
    return 0 if all_learned else 1


if __name__ == "__main__":
    raise SystemExit(main())
