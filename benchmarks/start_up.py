"""What it takes until a run begins: imports, the help, the index of a large data set, memory of loader workers.

``imports``: seconds in fresh processes that take turns: torch, torchvision and ignite alone, then with
``ignite_imgtools`` as well, and then with the packages that a script uses; medians. Files are in the page cache.

``index``: a file like COCO's instances_train2017 (``coco_json.py``) is written into a temporary folder, 0.5 GB with
118,287 links to images, and ``CocoDetection`` made of it in a process of its own, every image looked at: without a
cache, when the cache is written, and from the cache; beside ``pycocotools.coco.COCO``, which parses it and checks
nothing. Needs 6 GB of memory.

``workers``: private memory of forked loader workers (Linux: ``Private_*`` of smaps_rollup) before and after each of
them has made the targets of 40,000 images; the same with the annotations as lists of dictionaries.

    OMP_NUM_THREADS=1 python benchmarks/start_up.py imports
    OMP_NUM_THREADS=1 python benchmarks/start_up.py index
    OMP_NUM_THREADS=1 python benchmarks/start_up.py workers
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

_BASE = "import torch, torchvision, ignite.engine, ignite.metrics, ignite.handlers, ignite.distributed"
_IMPORTS = {
    "torch, torchvision, ignite": _BASE,
    "and ignite_imgtools": f"{_BASE}; import ignite_imgtools",
    "and its packages": f"{_BASE}; from ignite_imgtools import data, engines, handlers, metrics",
}
_COMMANDS = ("--help", "list", "train faster_rcnn --help")
_TOUCHED = 40_000


def imports(rounds: int) -> None:
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, code in _IMPORTS.items():
            script = f"import time; begun = time.perf_counter(); {code}; print(time.perf_counter() - begun)"
            done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
            times.setdefault(name, []).append(float(done.stdout))
        for command in _COMMANDS:
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "ignite_imgtools", *command.split()], check=True, stdout=subprocess.DEVNULL
            )
            times.setdefault(f"ignite-imgtools {command}", []).append(time.perf_counter() - begun)
    base = statistics.median(times[next(iter(_IMPORTS))])
    for name, seconds in times.items():
        added = f"adds {1000 * (statistics.median(seconds) - base):6.0f} ms" if name in _IMPORTS else ""
        print(f"{name:42} {statistics.median(seconds):6.2f} s  {added}")


def index(folder: Path, file: Path) -> None:
    print(f"{file.stat().st_size / 1e6:.0f} MB")
    for name, cache in {
        "pycocotools": None,
        "without a cache": "off",
        "cache written": folder / "cache",
        "from the cache": folder / "cache",
    }.items():
        environment = {**os.environ, "IGNITE_IMGTOOLS_CACHE": str(cache or "off")}
        # Of the code alone: importing torch is another matter.
        command = [sys.executable, __file__, "one-index", "--file", str(file), *(["--peer"] if cache is None else [])]
        done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
        print(f"{name:16} {done.stdout.splitlines()[-1]}")


def one_index(file: Path, peer: bool) -> None:
    if peer:
        from pycocotools.coco import COCO

        make: Callable[[], Any] = lambda: COCO(str(file))  # noqa: E731
    else:
        from ignite_imgtools.data import CocoDetection

        make = lambda: CocoDetection(file.parents[1] / "train2017", file, masks=True)  # noqa: E731
    begun, begun_cpu = time.perf_counter(), time.process_time()
    made = make()
    wall, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    del made
    print(f"{wall:6.1f} s, {cpu:6.1f} s of CPU, peak {peak:.1f} GB")


def workers(file: Path, count: int) -> None:
    from ignite_imgtools.data import CocoDetection

    dataset = CocoDetection(file.parents[1] / "train2017", file, check_images=False)
    _report("flat arrays", dataset.annotations, count, len(dataset))
    with file.open() as opened:
        rows: dict[int, list[Any]] = {}
        for row in json.load(opened)["annotations"]:
            rows.setdefault(row["image_id"] - 1, []).append(row)
    _report("lists of dictionaries", lambda i: [dict(row) for row in rows.get(i, ())], count, len(dataset))


def _report(name: str, read: Callable[[int], Any], count: int, images: int) -> None:
    context = get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_touch, args=(read, images, seed, queue)) for seed in range(count)]
    for process in processes:
        process.start()
    grown = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    begun, after = (statistics.mean(values) for values in zip(*grown, strict=True))
    print(f"{name:22} private to each of {count} workers: {begun:7.1f} MB at first, {after:7.1f} MB after {_TOUCHED:,}")


def _touch(read: Callable[[int], Any], images: int, seed: int, queue: Any) -> None:
    begun = _private_megabytes()
    for step in range(_TOUCHED):
        read((seed + step * 7919) % images)
    queue.put((begun, _private_megabytes()))


def _private_megabytes() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["imports", "index", "workers", "one-index"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--annotations", type=int, default=860_001)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--file", type=Path, help="of an earlier run, and not to be written")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "imports":
        imports(options.rounds)
        return
    if options.what == "one-index":
        one_index(options.file, options.peer)
        return
    from coco_json import write_coco

    with tempfile.TemporaryDirectory() as folder:
        file = options.file or write_coco(Path(folder), options.images, options.annotations)
        if options.what == "index":
            index(Path(folder), file)
        else:
            workers(file, options.workers)


if __name__ == "__main__":
    main()
