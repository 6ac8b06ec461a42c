"""What the batches of ``GroupedBatchSampler`` cost to make and what they save, beside other samplers, in one run.

Sizes of images are drawn as COCO has them (``coco_shapes.py``), 118,287 of them; a detector resizes them to 800 by at
most 1333 pixels and pads a batch to its largest image and to multiples of 32. ``padding`` is the padded area over the
images' own, less 1, at batch 8. ``skew`` is the padded area of the slowest of 8 ranks over the mean of all, in the mean
of all steps; ``throughput`` is images per padded area of the slowest ranks, over that of the tutorials' sampler: groups
by aspect ratio (k = 3, so 8 of them), each rank for itself over its share, a batch whenever a group has 8.

``plan`` is the time to all batches of an epoch as lists, and to the first one; its memory that of a process of its
own. ``headers`` reads the sizes of 5,000 JPEG files. Least of the rounds, CPU time.

    python benchmarks/sampler.py
    OMP_NUM_THREADS=1 python benchmarks/sampler.py --train 60   # steps of a small Faster R-CNN on batches of each
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coco_shapes import coco_sizes
from PIL import Image

from ignite_imgtools import data, models
from ignite_imgtools.data.groups import aspect_ratio_groups, padded_shape_groups, padded_shapes

_COCO = 118_287
_BATCH, _RANKS = 8, 8

Batches = list[list[list[int]]]
"""Indices by step and rank."""


def ours(sizes: np.ndarray, world_size: int, **resize: int) -> Batches:
    groups = padded_shape_groups(sizes, **resize)
    samplers = [
        data.GroupedBatchSampler(groups, _BATCH * world_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    return [list(step) for step in zip(*samplers, strict=True)]


def of_the_tutorials(sizes: np.ndarray, world_size: int) -> Batches:
    """Each rank takes its share of a permutation and keeps a buffer for each aspect group."""
    groups = aspect_ratio_groups(sizes, 3)
    permutation = np.random.default_rng(0).permutation(len(sizes))
    by_rank = []
    for rank in range(world_size):
        buffers: dict[int, list[int]] = {}
        batches = []
        for index in permutation[rank::world_size].tolist():
            buffer = buffers.setdefault(int(groups[index]), [])
            buffer.append(index)
            if len(buffer) == _BATCH:
                batches.append(buffer)
                buffers[int(groups[index])] = []
        by_rank.append(batches)
    return [list(step) for step in zip(*by_rank, strict=False)]


def at_random(sizes: np.ndarray, world_size: int) -> Batches:
    permutation = np.random.default_rng(0).permutation(len(sizes))
    steps = len(sizes) // (_BATCH * world_size)
    return permutation[: steps * _BATCH * world_size].reshape(steps, world_size, _BATCH).tolist()


SAMPLERS: dict[str, Callable[..., Batches]] = {"tutorials": of_the_tutorials, "random": at_random, "ours": ours}


def padded_areas(batches: Batches, sizes: np.ndarray) -> np.ndarray:
    """Area of the padded batch of each step and rank."""
    shapes = padded_shapes(sizes)
    return np.array([[len(batch) * shapes[batch].max(axis=0).prod() for batch in step] for step in batches])


def own_area(batches: Batches, sizes: np.ndarray) -> int:
    """Area of the resized images of all batches, without any padding."""
    areas = padded_shapes(sizes, divisor=1).prod(axis=1)
    return int(sum(areas[batch].sum() for step in batches for batch in step))


def compare_batches() -> None:
    sizes = coco_sizes(_COCO)
    base = 0.0
    for name, sampler in SAMPLERS.items():
        single, many = sampler(sizes, 1), sampler(sizes, _RANKS)
        padding = padded_areas(single, sizes).sum() / own_area(single, sizes) - 1
        areas = padded_areas(many, sizes)
        images = sum(len(batch) for step in many for batch in step)
        throughput = images / areas.max(axis=1).sum()
        base = base or throughput
        skew = (areas.max(axis=1) / areas.mean(axis=1)).mean()
        print(
            f"{name:10} padding {padding * 100:5.1f} %  skew {skew:.3f}  throughput {throughput / base:.2f}", flush=True
        )


def plan(count: int, rounds: int = 3) -> None:
    """Print the time to an epoch's batches, and the memory they take beyond the groups."""
    groups = padded_shape_groups(coco_sizes(count))
    before = int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024
    Path("/proc/self/clear_refs").write_text("5")  # the largest size so far is forgotten
    totals, firsts = [], []
    for _ in range(rounds):
        start = time.process_time()
        sampler = data.GroupedBatchSampler(groups, _BATCH, world_size=1, rank=0)
        iterator = iter(sampler)
        next(iterator)
        firsts.append(time.process_time() - start)
        for _ in iterator:
            pass
        totals.append(time.process_time() - start)
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    print(
        f"{count:>10,} samples: plan {min(totals):.3f} s, first batch after {min(firsts):.3f} s, "
        f"{peak - before:.0f} MB beyond the groups, which are {groups.nbytes / 2**20:.0f} MB"
    )


def headers(count: int = 5000, rounds: int = 3) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        encoded = []
        for height, width in coco_sizes(100).tolist():
            buffer = io.BytesIO()
            pixels = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((width, height)).save(buffer, "JPEG", quality=60)
            encoded.append(buffer.getvalue())
        paths = [Path(folder) / f"{i:012}.jpg" for i in range(count)]
        for i, path in enumerate(paths):
            path.write_bytes(encoded[i % len(encoded)])
        for name, read in {"image_size": data.image_size, "Pillow": _pillow_size}.items():
            seconds = []
            for _ in range(rounds):
                start = time.process_time()
                for path in paths:
                    read(path)
                seconds.append(time.process_time() - start)
            print(f"headers of {count:,} JPEGs, {name:10} {min(seconds):.3f} s")


def _pillow_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def train(steps: int) -> None:
    """Time training steps of a small Faster R-CNN on images of COCO's shapes, batches of each sampler in turn."""
    resize = {"min_size": 128, "max_size": 213}
    torch.manual_seed(0)
    model = models.faster_rcnn(3, backbone="resnet18", fpn_channels=64, representation=128, **resize).train()  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    # A fifth of COCO's sides, so that the detector's resize works as it does on COCO.
    sizes = coco_sizes(20_000) // 3
    batches = {
        name: [step[0] for step in (sampler(sizes, 1, **resize) if name == "ours" else sampler(sizes, 1))]
        for name, sampler in SAMPLERS.items()
    }
    rng = np.random.default_rng(1)
    seconds: dict[str, float] = dict.fromkeys(batches, 0.0)
    images: dict[str, int] = dict.fromkeys(batches, 0)
    for step in range(steps + 2):
        for name, own in batches.items():
            batch = own[int(rng.integers(len(own)))]
            start = time.process_time()
            _train_step(model, optimizer, sizes[batch].tolist())
            if step > 1:
                seconds[name] += time.process_time() - start
                images[name] += len(batch)
    base = images["tutorials"] / seconds["tutorials"]
    for name, total in seconds.items():
        print(f"{name:10} {images[name] / total:6.2f} images per CPU second  ratio {images[name] / total / base:.3f}")


def _train_step(model: Any, optimizer: torch.optim.Optimizer, sizes: Sequence[Sequence[int]]) -> None:
    images = [torch.rand(3, height, width) for height, width in sizes]
    targets = [
        {"boxes": torch.tensor([[4.0, 4.0, width / 2, height / 2]]), "labels": torch.tensor([1])}
        for height, width in sizes
    ]
    optimizer.zero_grad()
    sum(model(images, targets).values()).backward()
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, metavar="STEPS", help="time so many steps of Faster R-CNN instead")
    parser.add_argument("--plan", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan:
        plan(options.plan)
    elif options.train:
        torch.set_num_threads(1)
        train(options.train)
    else:
        for count in (_COCO, 10_000_000):
            subprocess.run([sys.executable, __file__, "--plan", str(count)], check=True)
        headers()
        compare_batches()


if __name__ == "__main__":
    main()
