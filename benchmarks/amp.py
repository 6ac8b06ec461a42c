"""Images per second of a training, of each recipe's model, by the flags that are to make it faster, in one run.

Each model is trained on the same batches, uint8 and in memory, by a ``loop`` of plain PyTorch in float32; by
``reference``, a loop like those of torchvision's reference recipes, written anew: meters of every loss and of the
accuracy fed by ``.item()``, the loss looked at in each step, text every 10; and by our trainer with its logger and
optimizer, as the recipes use them: in float32, with ``--amp-dtype`` bfloat16 and float16, with ``--channels-last``,
compiled, and with all of the two or three that go together. Above 1 is faster than the loop.

The ways take turns in rounds, after one that warms up (and compiles). Time is that of the CPU, on CUDA that of the
clock, the device waited for; it runs from one request for a batch to another, so that the ends of epochs take no part.
Medians of the rounds' ratios.

    OMP_NUM_THREADS=1 python benchmarks/amp.py --ways ours channels-last --steps 3 --rounds 5
    OMP_NUM_THREADS=1 python benchmarks/amp.py --recipes unet --ways ours compile --steps 4
    python benchmarks/amp.py --device cuda --steps 20
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ignite_imgtools import engines, handlers, losses, models
from ignite_imgtools.engines.dense import create_normaliser
from ignite_imgtools.formats import images_to_device, targets_to_device

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WAYS: dict[str, dict[str, Any]] = {
    "ours": {},
    "bfloat16": {"amp": "bfloat16"},
    "float16": {"amp": "float16"},
    "channels-last": {"channels_last": True},
    "compile": {"compile": True},
    "all with bfloat16": {"amp": "bfloat16", "channels_last": True, "compile": True},
}

Batch = tuple[Any, Any]


class Batches:
    """Batches in memory; notes when the first and the last of them is asked for."""

    def __init__(self, batches: list[Batch], device: str):
        self._batches, self._device = batches, device
        self._begun = self._ended = 0.0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        self._begun = self._now()
        yield from self._batches[:-1]
        self._ended = self._now()
        yield self._batches[-1]

    def _now(self) -> float:
        if self._device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    @property
    def seconds(self) -> float:
        """From the first request to the last: one step less than there are batches."""
        return self._ended - self._begun


Way = Callable[[Batches], None]


@dataclass(frozen=True)
class Task:
    """A model, batches for it, and what is learned of them.

    Args:
        losses: of the model's output for a batch on the device.
        trainer: made of a model and its update.
        accurate: whether the reference's loop counts right answers.
    """

    model: nn.Module
    batches: list[Batch]
    losses: Callable[[nn.Module, Batch], dict[str, Tensor]]
    trainer: Callable[[nn.Module, Any], Any]
    accurate: bool = False


def _stacked(count: int, batch: int, size: int, targets: Callable[[], Any]) -> list[Batch]:
    return [(torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8), targets()) for _ in range(count)]


def classification(device: str, steps: int, large: bool) -> Task:
    model, size, batch = ("resnet50", 224, 64) if large else ("resnet18", 64, 8)
    loss_fn, normalise = losses.ClassificationLoss(), create_normaliser(_MEAN, _STD, device)
    return Task(
        models.classifier(model, 100),
        _stacked(steps, batch, size, lambda: torch.randint(0, 100, (batch,))),
        lambda module, batch: {"loss": nn.functional.cross_entropy(module(normalise(batch[0])), batch[1])},
        lambda module, update: engines.create_classification_trainer(module, update, loss_fn),
        accurate=True,
    )


def _dense(create: Callable[[bool], nn.Module], sizes: tuple[int, int]) -> Callable[[str, int, bool], Task]:
    def task(device: str, steps: int, large: bool) -> Task:
        size, batch = (sizes[1], 8) if large else (sizes[0], 2)
        loss_fn, normalise = losses.SegmentationLoss(), create_normaliser(_MEAN, _STD, device)
        return Task(
            create(large),
            _stacked(steps, batch, size, lambda: torch.randint(0, 21, (batch, size, size))),
            lambda module, batch: loss_fn(module(normalise(batch[0])), batch[1]),
            lambda module, update: engines.create_segmentation_trainer(module, update, loss_fn),
        )

    return task


def u2net(device: str, steps: int, large: bool) -> Task:
    size, batch = (320, 8) if large else (96, 2)
    loss_fn, normalise = losses.DeepSupervisionLoss(), create_normaliser(_MEAN, _STD, device)
    return Task(
        models.u2net() if large else models.u2net_lite(),
        _stacked(steps, batch, size, lambda: torch.rand(batch, 1, size, size)),
        lambda module, batch: loss_fn(module(normalise(batch[0])), batch[1]),
        lambda module, update: engines.create_saliency_trainer(module, update, loss_fn),
    )


def hrnet(device: str, steps: int, large: bool) -> Task:
    size, batch = (256, 32) if large else (96, 4)
    loss_fn, normalise = losses.HeatmapLoss().to(device), create_normaliser(_MEAN, _STD, device)

    def terms(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        heatmaps = module(normalise(batch[0])).float()
        shape = (heatmaps.shape[2], heatmaps.shape[3])
        return loss_fn(heatmaps, *engines.keypoints_to_heatmaps(batch[1]["keypoints"], shape, stride=4, sigma=2.0))

    return Task(
        models.hrnet_w32() if large else models.hrnet_small(),
        _stacked(steps, batch, size, lambda: {"keypoints": torch.rand(batch, 17, 3) * torch.tensor([size, size, 1])}),
        terms,
        lambda module, update: engines.create_pose_trainer(module, update, loss_fn),
    )


def deeppose(device: str, steps: int, large: bool) -> Task:
    size, batch = (256, 32) if large else (64, 4)
    loss_fn, normalise = losses.LandmarkLoss(), create_normaliser(_MEAN, _STD, device)

    def terms(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        points = module(normalise(batch[0])).float().reshape(len(batch[0]), -1, 2) * size
        return loss_fn(points, batch[1]["points"])

    return Task(
        models.deep_pose(98, "resnet50" if large else "resnet18", image_size=size),
        _stacked(steps, batch, size, lambda: {"points": torch.rand(batch, 98, 2) * size}),
        terms,
        lambda module, update: engines.create_landmark_trainer(module, update, loss_fn),
    )


def _detector(create: Callable[[int, bool], nn.Module]) -> Callable[[str, int, bool], Task]:
    def task(device: str, steps: int, large: bool) -> Task:
        size = 640 if large else 160
        boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.8]]) * size
        masks = torch.zeros(2, size * 3 // 4, size, dtype=torch.uint8)
        masks[0, size // 5 : size // 3, size // 5 : size // 2] = masks[1, size // 2 :, size // 2 :] = 1
        target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}
        batches = [
            (
                [torch.randint(0, 256, (3, size * 3 // 4, size), dtype=torch.uint8) for _ in range(8 if large else 2)],
                [{**target, "image_id": i} for i in range(8 if large else 2)],
            )
            for _ in range(steps)
        ]
        return Task(
            create(size, large),
            batches,
            lambda module, batch: module(images_to_device(batch[0], device), batch[1]),
            engines.create_detection_trainer,
        )

    return task


_TASKS: dict[str, Callable[[str, int, bool], Task]] = {
    "classification": classification,
    "unet": _dense(lambda large: models.unet(21, base_channels=32 if large else 16), (96, 480)),
    "fcn": _dense(lambda large: models.fcn(21, "resnet50" if large else "mobilenet_v3_large"), (96, 480)),
    "lraspp": _dense(lambda large: models.lraspp(21), (96, 480)),
    "deeplab_v3": _dense(lambda large: models.deeplab_v3(21), (96, 480)),
    "u2net": u2net,
    "hrnet": hrnet,
    "deeppose": deeppose,
    "yolov3_spp": _detector(
        lambda size, large: models.yolov3_spp(21, size=size, width=1 if large else 0.25, loss_fn=losses.YoloLoss())
    ),
    "faster_rcnn": _detector(
        lambda size, large: models.faster_rcnn(
            21, backbone="resnet50" if large else "resnet18", min_size=size * 3 // 4, max_size=size
        )
    ),
    "mask_rcnn": _detector(
        lambda size, large: models.mask_rcnn(
            21, backbone="resnet50" if large else "resnet18", min_size=size * 3 // 4, max_size=size
        )
    ),
    "coco_detection": _detector(
        lambda size, large: models.faster_rcnn(21, backbone="mobilenet_v3_large", min_size=size * 3 // 4, max_size=size)
    ),
    "retinanet": _detector(
        lambda size, large: models.retinanet(
            21, backbone="resnet50" if large else "resnet18", min_size=size * 3 // 4, max_size=size
        )
    ),
}


def _to_device(batch: Batch, device: str) -> Batch:
    images, targets = batch
    if isinstance(targets, Tensor):
        return images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
    if isinstance(targets, dict):
        moved = {key: value.to(device, non_blocking=True) for key, value in targets.items()}
        return images.to(device, non_blocking=True), moved
    return images, targets_to_device(targets, device)


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(_trained(model), lr=1e-4, momentum=0.9)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def loop(task: Task, device: str) -> Way:
    model = copy.deepcopy(task.model).to(device).train()
    optimizer = _optimizer(model)

    def run(batches: Batches) -> None:
        for batch in batches:
            optimizer.zero_grad()
            torch.stack(list(task.losses(model, _to_device(batch, device)).values())).sum().backward()
            optimizer.step()

    return run


def reference(task: Task, device: str) -> Way:
    model = copy.deepcopy(task.model).to(device).train()
    optimizer = _optimizer(model)
    logits: list[Tensor] = []
    if task.accurate:
        model.register_forward_hook(lambda module, args, output: logits.append(output.detach()))

    def run(batches: Batches) -> None:
        meters: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=20))
        for number, batch in enumerate(batches):
            begun = time.time()
            images, targets = _to_device(batch, device)
            terms = task.losses(model, (images, targets))
            loss = torch.stack(list(terms.values())).sum()
            if not math.isfinite(loss.item()):
                raise RuntimeError(f"loss is {loss.item()}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if task.accurate:
                right = logits.pop().topk(5, 1).indices.t() == targets[None]
                for k in (1, 5):
                    meters[f"acc{k}"].append(right[:k].flatten().sum(dtype=torch.float32).item() / len(targets))
            for name, value in {"loss": loss, **terms}.items():
                meters[name].append(value.item())
            meters["lr"].append(optimizer.param_groups[0]["lr"])
            meters["time"].append(time.time() - begun)
            if number % 10 == 0:
                "  ".join(f"{name}: {statistics.median(values):.4f}" for name, values in meters.items())

    return run


def ours(task: Task, device: str, folder: Path, amp: str | None = None, **flags: bool) -> Way:
    module = copy.deepcopy(task.model).to(device)
    if flags.get("channels_last"):
        module = module.to(memory_format=torch.channels_last)
    if flags.get("compile"):
        models.compile_network(module)
    optimizer = engines.create_optimizer("sgd", _trained(module), 1e-4, momentum=0.9)
    trainer = task.trainer(module, engines.GradientUpdate(optimizer, amp_dtype=amp))
    handlers.MetricLogger(folder, console=False, bar=False).attach(trainer, every=50)
    rounds = 0

    def run(batches: Batches) -> None:
        nonlocal rounds
        rounds += 1
        trainer.run(batches, max_epochs=rounds)

    return run


def measure(ways: dict[str, Way], batches: Batches, rounds: int) -> dict[str, float]:
    """Images per second of each way over those of the first one."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for i in range(rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            ways[name](batches)
            if i:
                times[name].append(batches.seconds)
    base = times[names[0]]
    return {name: statistics.median(b / t for b, t in zip(base, values, strict=True)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=list(_TASKS), default=list(_TASKS))
    parser.add_argument("--ways", nargs="+", choices=list(_WAYS), default=list(_WAYS))
    parser.add_argument("--steps", type=int, default=4, help="in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    for name in options.recipes:
        torch.manual_seed(0)
        task = _TASKS[name](options.device, options.steps + 1, options.device != "cpu")
        with tempfile.TemporaryDirectory() as folder:
            ways = {"loop": loop(task, options.device), "reference": reference(task, options.device)}
            for way in options.ways:
                ways[way] = ours(task, options.device, Path(folder) / way.replace(" ", "_"), **_WAYS[way])
            ratios = measure(ways, Batches(task.batches, options.device), options.rounds)
        print(f"{name:16}" + "".join(f"  {way} {ratio:.2f}" for way, ratio in ratios.items()), flush=True)


if __name__ == "__main__":
    main()
