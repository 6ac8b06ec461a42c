"""Kill each recipe in the middle of an epoch, resume it, and compare with the run that nobody killed, bit for bit.

Every recipe runs with augmentation, its gradients accumulated over two batches and so killed half-way of a step too,
an exponential moving average, a schedule for every iteration, and what is its own: mosaic and multi-scale training,
mixup, dropout. Weights, optimizer, average, schedule, meters, ``metrics.jsonl`` and the rest of the checkpoint must be
those of the straight run. Modes:

* ``plain``: with 0 and 2 loader workers, on 1 and 2 processes;
* ``float16``: autocast with a gradient scaler, whose state is a part of what goes on;
* ``other``: killed on one process, resumed on two, or the other way round. Batch normalisation sees other batches
  then, so what must be equal are the samples: each global batch of the epoch the same, none lost, none twice.

The parent imports torch once, never computes a gradient, and forks the processes of each run.

    python -m tests.faults.resume --recipes unet yolov3_spp --modes plain --workers 2 --processes 2
    python -m tests.faults.resume      # the long form: all recipes in all modes

prints a line for each run: where it was killed and whether it ended equal.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ignite_imgtools.cli import main as command
from ignite_imgtools.data.make_data import make_data
from ignite_imgtools.data.samplers import GroupedBatchSampler
from ignite_imgtools.distributed import keyed_seed
from ignite_imgtools.handlers import load_checkpoint
from ignite_imgtools.recipes import load_recipe
from tests.recipes.faster_rcnn_runs import assert_same_run, metrics_lines

__all__ = ["RECIPES", "run_trial"]

_MODES = ("plain", "float16", "other")
_SEGMENTATION = "--base-size 40 72 --crop-size 48 --lr 2e-3 --warmup 3 --eval-size 0 --val-losses"
_DETECTION = "--backbone resnet18 --min-size 48 --max-size 64 --optimizer adamw --lr 1e-3 --group-by none --val-losses"
_ANCHORS = "--anchor-sizes 8 12 16 32 64"


class Recipe(NamedTuple):
    """What its runs are made of: a format of built-in data, and the flags that make it small."""

    data_format: str
    flags: str


RECIPES: dict[str, Recipe] = {
    "classification": Recipe(
        "class_folders",
        "--model mobilenet_v3_small --dropout 0.3 --image-size 64 --optimizer adamw --mixup 0.2 --cutmix 1 --warmup 2",
    ),
    "fcn": Recipe("voc_segmentation", f"{_SEGMENTATION} --backbone resnet50 --crop-size 32 --jitter 0.3"),
    "deeplab_v3": Recipe("voc_segmentation", f"{_SEGMENTATION} --backbone mobilenet_v3_large"),
    "lraspp": Recipe("voc_segmentation", _SEGMENTATION),
    "unet": Recipe("drive", f"--base-channels 4 {_SEGMENTATION} --optimizer adamw --jitter 0.3"),
    "u2net": Recipe("saliency", "--model lite --resize 72 --crop-size 64 --lr 2e-3 --warmup 3"),
    "faster_rcnn": Recipe("coco", f"{_DETECTION} {_ANCHORS} --heads small"),
    "retinanet": Recipe("coco", f"{_DETECTION} {_ANCHORS} --fpn-channels 32"),
    "mask_rcnn": Recipe("coco", f"{_DETECTION} {_ANCHORS} --heads small"),
    "coco_detection": Recipe(
        "coco", f"{_DETECTION} --backbone mobilenet_v3_large --fpn True --channels 32 --schedule cosine"
    ),
    "yolov3_spp": Recipe(
        "yolo",
        "--width 0.03 --depth 0.1 --max-size 64 --multi-scale 1.5 --degrees 10 --translate 0.1 "
        "--scale 0.3 --shear 2 --optimizer adamw --lr 2e-3 --warmup 5 --min-score 0.001 --val-losses",
    ),
    "hrnet": Recipe(
        "coco_keypoints", "--model hrnet_small --base-channels 4 --input-size 64 48 --warmup 2 --half-body 0.5"
    ),
    "deeppose": Recipe("wflw", "--model shufflenet_v2_x0_5 --image-size 40 --warmup 2 --normaliser inter_pupil"),
}
_COMMON = "--eval-every 2 --accumulate 2 --ema-decay 0.9 --log-every 1 --batch-size 2 --device cpu"


def _forked(function: Callable[[], Any], log: Path) -> int:
    """The process id of a child, leader of a process group, that calls ``function`` and ends with what it returns."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        torch.set_num_threads(1)
        code = function() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def _wait(children: list[int], log: Path) -> None:
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        raise RuntimeError(f"ended with {codes}: {log.read_text()[-3000:]}")


def _note_samples(folder: Path) -> None:
    """Let the sampler write down each batch of this process as it is drawn; without workers that is when it is used."""
    drawn = GroupedBatchSampler.__iter__

    def noted(self: GroupedBatchSampler) -> Any:
        for batch in drawn(self):
            with (folder / f"order-{os.environ.get('RANK', '0')}.txt").open("a") as file:
                file.write(" ".join(map(str, batch)) + "\n")
            yield batch

    GroupedBatchSampler.__iter__ = noted  # type: ignore[method-assign]


def _start(arguments: list[str], folder: Path, processes: int) -> list[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

    def run(rank: int) -> int:
        if processes > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            os.environ.update({name: str(value) for name, value in place.items()})
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
        _note_samples(folder)
        return command(arguments)

    folder.mkdir(exist_ok=True)
    return [_forked(lambda rank=rank: run(rank), folder / "out.txt") for rank in range(processes)]  # type: ignore[misc]


def _kill_after(iteration: int, children: list[int], folder: Path, draw: random.Random) -> None:
    """Kill all processes of a run, and their workers, at some instant after ``iteration`` was logged."""
    log, deadline = folder / "run" / "metrics.jsonl", time.monotonic() + 300
    while f'"iteration": {iteration},' not in (log.read_text() if log.exists() else ""):
        if time.monotonic() > deadline or os.waitpid(children[0], os.WNOHANG)[0]:
            raise RuntimeError(f"not killed at {iteration}: {(folder / 'out.txt').read_text()[-3000:]}")
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.05))
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)


def _orders(folder: Path) -> list[list[str]]:
    """For each process, its batches in the order in which they were drawn."""
    return [path.read_text().splitlines() for path in sorted(folder.glob("order-*.txt"))]


def _batches(processes: list[list[str]]) -> list[list[int]]:
    return [sorted({int(index) for share in shares for index in share.split()}) for shares in zip(*processes)]  # noqa: B905


class Trials:
    """The data and the straight runs of one recipe, and trials against these."""

    def __init__(self, name: str, folder: Path, seed: int = 0, epochs: int = 3):
        self.name, self.folder, self.epochs = name, folder, epochs
        self.draw = random.Random(keyed_seed(seed, *name.encode()))
        self._straight: dict[tuple[str, int], Path] = {}
        folder.mkdir()
        self.data = folder / "data"
        log = folder / "data.txt"

        def write() -> None:
            make_data(RECIPES[name].data_format, self.data, num_train=11, num_val=3, image_size=64)

        _wait([_forked(write, log)], log)

    def _arguments(self, folder: Path, mode: str, workers: int) -> list[str]:
        # Checkpoints of the one large model are half a gigabyte.
        every = "3" if self.name == "fcn" else "1"
        options = [*_COMMON.split(), "--epochs", str(self.epochs), "--checkpoint-every", every]
        options += RECIPES[self.name].flags.split()
        options += ["--amp-dtype", "float16"] if mode == "float16" else []
        paths = ["--data", str(self.data), "--output-dir", str(folder / "run"), "--num-workers", str(workers)]
        return ["train", self.name, *paths, *options]

    def straight(self, mode: str, processes: int) -> Path:
        """The folder of a run that was not killed."""
        key = ("float16" if mode == "float16" else "plain", processes)
        if key not in self._straight:
            folder = self.folder / f"straight-{key[0]}-{processes}"
            _wait(_start(self._arguments(folder, mode, 0), folder, processes), folder / "out.txt")
            self._straight[key] = folder
        return self._straight[key]

    def trial(self, mode: str, workers: int, processes: int) -> str:
        """Kill and resume; where it was killed.

        Raises:
            AssertionError: it did not end as it should.
            RuntimeError: a process of it failed.
        """
        straight = self.straight(mode, processes)
        folder = self.folder / f"killed-{mode}-{workers}-{processes}"
        length = max(line["iteration"] for line in metrics_lines(straight / "run")) // self.epochs
        at = self.draw.randrange(length + 1, 2 * length)
        arguments = self._arguments(folder, mode, workers)
        _kill_after(at, _start(arguments, folder, processes), folder, self.draw)
        last = load_checkpoint(folder / "run" / "checkpoints" / "last.pt")["trainer"]["iteration"]
        before = [order[:last] for order in _orders(folder)]
        for path in folder.glob("order-*.txt"):
            path.unlink()
        resumed_on = 3 - processes if mode == "other" else processes
        _wait(_start(arguments, folder, resumed_on), folder / "out.txt")
        assert "resumed from" in (folder / "out.txt").read_text(), "it was not resumed"
        if mode == "other":
            seen = _batches(before) + _batches(_orders(folder))
            assert seen == _batches(_orders(straight)), f"other samples: {seen}"
        else:
            assert_same_run(folder / "run", straight / "run")
        left = list((folder / "run" / "checkpoints").glob(".*"))
        assert not left, f"left over: {left}"
        return f"killed after {at} of {self.epochs * length}, went on from {last}"


def settings(modes: list[str], workers: list[int], processes: list[int]) -> list[tuple[str, int, int]]:
    """Mode, workers and processes of each trial of a recipe."""
    found = [("plain", w, p) for p in processes for w in workers] if "plain" in modes else []
    found += [("float16", 0, 1)] if "float16" in modes else []
    return found + ([("other", 0, p) for p in processes] if "other" in modes else [])


def run_trial(name: str, mode: str, workers: int, processes: int, folder: Path) -> str:
    """One trial of one recipe, see :meth:`Trials.trial`."""
    return Trials(name, folder / name).trial(mode, workers, processes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument(
        "--modes", nargs="+", choices=("plain", "float16", "other"), default=["plain", "float16", "other"]
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], choices=(1, 2))
    parser.add_argument("--epochs", type=int, default=3, help="of a run; it is killed in the second")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.recipes:  # before any process is forked
        load_recipe(name)
    tried = equal = 0
    for name in options.recipes:
        with tempfile.TemporaryDirectory() as folder:
            trials = Trials(name, Path(folder) / name, options.seed, options.epochs)
            for mode, workers, processes in settings(options.modes, options.workers, options.processes):
                begin = time.monotonic()
                try:
                    said, good = trials.trial(mode, workers, processes), True
                except (AssertionError, RuntimeError) as error:
                    said, good = f"NOT EQUAL: {str(error)[-300:]}", False
                tried, equal = tried + 1, equal + good
                setting = f"{name:15} {mode:8} {workers} workers {processes} processes"
                print(f"{setting} {time.monotonic() - begin:5.1f} s  {said}", flush=True)
    print(f"{equal} of {tried} equal")
    return int(equal != tried)


if __name__ == "__main__":
    raise SystemExit(main())
