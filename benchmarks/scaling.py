"""What a training costs on more processes, measured on one and two, and for 8 to 1,024 of them part by part.

``weak``: seconds of an iteration of a small ResNet, 8 images on each process, on one process and on two (gloo), of a
bare loop with DistributedDataParallel and of ours with logger, checkpoints, signals and TensorBoard, which take turns
with one model. The time of one process over that of two is the efficiency. On a machine with fewer free cores than
processes look at the CPU time, which has no waiting in it. And page faults an iteration: glibc gives freed memory at
the end of its heap back to the system, and gets it again page by page. Where a run's memory ends is chance, so of two
loops with a model each one may pay a tenth and the other nothing. With ``MALLOC_TRIM_THRESHOLD_=2000000000`` and
``MALLOC_MMAP_THRESHOLD_=33554432`` in the environment none does.

``ranks``: for N processes, in this one: the order of an epoch of 118,287 images of COCO's shapes as each rank makes it
(batch 8 on each), by groups of padded shape, of aspect ratio (8 of them) and without any; ``useful`` is the images' own
area over the padded area that all ranks have time for while the slowest of each step is at work, and some samples are
drawn again so that each rank has one. And what a rank receives of an evaluation of 5,000 images with 53 detections
each, and how long it takes to make the numbers of N parts.

``store``: requests a second that a TCPStore answers to one client and to eight at once: stop requests look there once
an iteration, and the watch over processes eleven times a second.

``checkpoint``: seconds that one process needs for a checkpoint of 160 MB and of 1 GB, synced.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py weak
    OMP_NUM_THREADS=1 python benchmarks/scaling.py ranks
    OMP_NUM_THREADS=1 python benchmarks/scaling.py store
    OMP_NUM_THREADS=1 python benchmarks/scaling.py checkpoint
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine
from torch import nn

from ignite_imgtools import data, distributed, engines, handlers, metrics, models
from ignite_imgtools.data.groups import aspect_ratio_groups, padded_shape_groups, padded_shapes

_WORLDS = (8, 64, 256, 1024)
_BATCH = 8


def weak(rounds: int, steps: int) -> None:
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for world_size in (1, 2):
            told = Path(folder) / f"{world_size}.json"
            arguments = (rounds, steps, Path(folder) / str(world_size), told)
            if world_size == 1:
                _time_loops(0, *arguments)
            else:
                distributed.launch(_time_loops, *arguments, nproc_per_node=2, backend="gloo")
            found[world_size] = json.loads(told.read_text())
    for name in ("bare", "bare, CPU", "ours", "ours, CPU"):
        one, two = found[1][name], found[2][name]
        print(f"{name:9} {1e3 * one:7.1f} ms on 1 process, {1e3 * two:7.1f} ms on 2: efficiency {one / two:.2f}")
    for world_size, times in found.items():
        wall, cpu = times["ours"] / times["bare"], times["ours, CPU"] / times["bare, CPU"]
        faults = [times[f"{name}, page faults"] for name in ("bare", "ours")]
        print(
            f"ours over bare on {world_size}: {wall:.3f}, of CPU time {cpu:.3f}; page faults an iteration "
            f"{faults[0]:,.0f} and {faults[1]:,.0f}"
        )


class Batches:
    """The same batch again and again; notes when the first and the last is asked for."""

    def __init__(self, batch: Any, steps: int):
        self._batch, self._steps = batch, steps
        self.seconds = self.cpu_seconds = self.page_faults = 0.0

    def __len__(self) -> int:
        return self._steps + 1

    def __iter__(self) -> Iterator[Any]:
        before = self._used()
        for _ in range(self._steps):
            yield self._batch
        used = (self._used() - before) / self._steps
        self.seconds, self.cpu_seconds, self.page_faults = used.tolist()
        yield self._batch

    def _used(self) -> np.ndarray:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        return np.array([time.perf_counter(), time.process_time(), faults])


def _time_loops(local_rank: int, rounds: int, steps: int, folder: Path, told: Path) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(idist.get_rank())
    images = torch.rand(_BATCH, 3, 64, 64, generator=generator)
    batches = Batches((images, torch.randint(0, 10, (_BATCH,), generator=generator)), steps)
    # Where the tensors of a model lie decides how much a loop pays for memory: so both train the same one.
    model, optimizer = _model()
    ways = {"bare": _bare(model, optimizer), "ours": _ours(model, optimizer, folder)}
    times: dict[str, list[float]] = defaultdict(list)
    for round_ in range(rounds + 1):
        for name in sorted(ways, reverse=bool(round_ % 2)):
            idist.barrier()
            ways[name](batches)
            if round_:
                times[name].append(batches.seconds)
                times[f"{name}, CPU"].append(batches.cpu_seconds)
                times[f"{name}, page faults"].append(batches.page_faults)
    if idist.get_rank() == 0:
        told.write_text(json.dumps({name: statistics.median(values) for name, values in times.items()}))


def _model() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = distributed.create_parallel_model(models.classifier("resnet18", 10), "cpu")
    return model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


def _bare(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Batches], None]:
    def run(batches: Batches) -> None:
        for images, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    return run


def _ours(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Callable[[Batches], None]:
    update = engines.GradientUpdate(optimizer)

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        output: dict[str, Any] = update(
            engine, model, lambda: {"cross_entropy": nn.functional.cross_entropy(model(batch[0]), batch[1])}
        )
        return {**output, "batch_size": len(batch[0])}

    trainer = engines.create_trainer(step, model, update)
    handlers.MetricLogger(folder, console=False, bar=False).attach(trainer, every=50)
    # Written in the foreground: at the end of each round, where no time is taken.
    checkpoints = handlers.attach_checkpoints(
        trainer, None, {"model": model, "optimizer": optimizer}, folder, resume="never"
    )
    handlers.attach_signals(trainer, checkpoints)
    handlers.attach_tensorboard(folder, trainer, optimizer)
    rounds = 0

    def run(batches: Batches) -> None:
        nonlocal rounds
        rounds += 1
        trainer.run(batches, max_epochs=rounds)

    return run


def ranks(worlds: tuple[int, ...]) -> None:
    from coco_shapes import coco_sizes
    from coco_workloads import box_workload

    sizes = coco_sizes(118_287)
    padded = padded_shapes(sizes)
    own_area = _own_area(sizes)
    groupings = {
        "shape": padded_shape_groups(sizes),
        "aspect": aspect_ratio_groups(sizes, 3),
        "none": np.zeros(len(sizes), np.int64),
    }
    workload = box_workload(5000)
    metric, indices = _filled(workload)
    for world_size in worlds:
        for name, groups in groupings.items():
            _sampling(name, groups, padded, own_area, world_size)
        _gathering(metric, indices, world_size)


def _own_area(sizes: np.ndarray) -> float:
    """Pixels of all images, resized to 800 by at most 1333 and not padded."""
    scale = np.minimum(800 / sizes.min(1), 1333 / sizes.max(1))
    return float((sizes.prod(1) * scale**2).sum())


def _sampling(name: str, groups: np.ndarray, padded: np.ndarray, own_area: float, world_size: int) -> None:
    begun = time.process_time()
    first = list(data.GroupedBatchSampler(groups, _BATCH * world_size, rank=0, world_size=world_size))
    seconds = time.process_time() - begun
    areas = np.zeros((len(first), world_size))
    drawn = 0
    for rank in range(world_size):
        batches = list(data.GroupedBatchSampler(groups, _BATCH * world_size, rank=rank, world_size=world_size))
        for step, batch in enumerate(batches):
            drawn += len(batch)
            areas[step, rank] = len(batch) * padded[batch].max(0).prod()
    # Pixels of images over those that all have time for while the slowest of each step is at work.
    useful = own_area / (world_size * areas.max(1).sum())
    print(
        f"N {world_size:5}, by {name:6}: order of an epoch {1e3 * seconds:5.1f} ms on each rank, {len(first):5} steps, "
        f"useful {useful:.2f}, {drawn - len(groups):6} samples again",
        flush=True,
    )


def _filled(workload: Any) -> tuple[Any, dict[int, int]]:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = workload.dataset
    coco.createIndex()
    metric = metrics.CocoMetric(coco)
    targets = [{"image_id": image_id} for image_id in workload.image_ids]
    metric.update((workload.predictions, targets))
    return metric, {image_id: place for place, image_id in enumerate(workload.image_ids)}


def _gathering(metric: Any, indices: dict[int, int], world_size: int) -> None:
    from ignite_imgtools.metrics.coco.record import Record

    whole, evaluation = metric.record("bbox"), metric._evaluations["bbox"]
    parts = [_part(whole, rank, world_size) for rank in range(world_size)]
    arrays = [part.to_arrays() for part in parts]
    own = [sum(array.nbytes for array in part.values()) for part in arrays]
    begun = time.process_time()
    numbers = evaluation.arrays(evaluation.merge([Record.from_arrays(part) for part in arrays]), True)
    seconds = time.process_time() - begun
    assert np.array_equal(numbers["precision"], metric.arrays("bbox")["precision"])
    print(
        f"         evaluation: {sum(own) / len(indices):.0f} bytes an image; every rank receives "
        f"{world_size * max(own) / 1e6:.1f} MB for 5,000 images; numbers of the parts {seconds:.2f} s",
        flush=True,
    )


def _part(record: Any, rank: int, world_size: int) -> Any:
    """What rank ``rank`` has of the images, each ``world_size``-th one."""
    kept = np.zeros(len(record.images), dtype=bool)
    kept[rank::world_size] = True
    rows = np.repeat(kept, record.counts)
    return type(record)(
        images=record.images[kept],
        counts=record.counts[kept],
        category=record.category[rows],
        scores=record.scores[rows],
        outside=record.outside[rows],
        matched=record.matched[rows],
        flags=record.flags[rows[record.matched]],
    )


def store(seconds: float) -> None:
    server = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = get_context("fork")
    for clients in (1, 8):
        queue = context.Queue()
        processes = [context.Process(target=_ask, args=(server.port, seconds, queue)) for _ in range(clients)]
        for process in processes:
            process.start()
        counts = [queue.get() for _ in processes]
        for process in processes:
            process.join()
        rate = sum(counts) / seconds
        print(f"{clients} clients: {rate:,.0f} requests a second, {1e6 * clients / rate:.0f} us each")


def _ask(port: int, seconds: float, queue: Any) -> None:
    client = torch.distributed.TCPStore("127.0.0.1", port, is_master=False)
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        client.check(["note/0"])
        count += 1
    queue.put(count)


def checkpoint(folder: Path) -> None:
    for megabytes in (160, 1000):
        state = {str(i): torch.rand(250_000) for i in range(megabytes)}
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            with (folder / "state.pt").open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            times.append(time.perf_counter() - begun)
        print(f"{megabytes} MB: {min(times):.2f} s, median {statistics.median(times):.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["weak", "ranks", "store", "checkpoint"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--worlds", type=int, nargs="+", default=list(_WORLDS))
    options = parser.parse_args()
    if options.what == "weak":
        weak(options.rounds, options.steps)
    elif options.what == "ranks":
        ranks(tuple(options.worlds))
    elif options.what == "store":
        store(3.0)
    else:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint(Path(folder))


if __name__ == "__main__":
    main()
