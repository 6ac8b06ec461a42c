"""Train for hours, and see whether any process grows: its memory, its open files, its threads.

The run is one of the recipes as a user starts it, on a small built-in set: two processes with two loader workers each
for training and two for evaluation, an evaluation with all its files, pictures and plots after every epoch, and a
checkpoint too. While it goes on, ``/proc`` tells of each process, every few seconds: resident memory (RSS), open
files, threads, and its share of memory (PSS: pages that n processes share count 1/n, so that the sum over all is what
the run takes, if no other program maps the same libraries); and the process itself says how much of its memory its C
allocator has given out (``soak_inside``), which a leak makes grow and free pieces between others do not. Pages of its
own (USS) would mislead: a training process shares what it has with the loader workers, its forks, and a page becomes
its own by being written. Tensors that loader workers hand over are open files too; how many of them are under way
changes from moment to moment, and so these are counted by themselves.

    python -m tests.faults.soak --hours 2 --csv soak.csv
    python -m tests.faults.soak --report soak.csv        # of a run that is over, or still going on

prints a line for each process: the slopes of its memory by least squares, in MB an hour, with their standard errors,
after the warm-up (the first quarter, unless ``--warm-up`` says otherwise), and how many files and threads it had in the
first and the second half of what is left. A file is open, and a thread runs, while a checkpoint is written: what must
not grow is the smallest number of each half. Of the tensors under way it is the largest number, and only by less than
four.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = ["Sample", "Trend", "read_samples", "run_soak", "sample_session", "trends"]

_ROOT = Path(__file__).resolve().parents[2]
_INSIDE = Path(__file__).parent / "soak_inside"  # holds the sitecustomize.py
_MEBIBYTE = 2**20
# Batches come in one piece each; how many are under way changes.
_BATCHES = 4
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
# Images of 80 pixels, so that an epoch with its evaluation takes seconds.
_DATA = ("coco", "--num-train", "96", "--num-val", "24", "--image-size", "80")
_RECIPE = (
    "faster_rcnn --backbone resnet18 --heads small --min-size 48 --max-size 64 --anchor-sizes 8 12 16 32 64 "
    "--optimizer adamw --lr 1e-4 --weight-decay 0.01 --warmup 5 --batch-size 8 --log-every 5 --eval-every 1 "
    "--device cpu --epochs 1000000"
).split()


class Sample(NamedTuple):
    """What ``/proc`` said of one process at one moment."""

    seconds: float
    epoch: int
    role: str
    pid: int
    rss_mb: float
    pss_mb: float
    files: int
    tensors: int
    threads: int
    in_use_mb: float


class Trend(NamedTuple):
    """What became of one process, or of the sum over all (``pid`` 0), after the warm-up."""

    role: str
    pid: int
    rss_slope: float
    rss_error: float
    pss_slope: float
    pss_error: float
    in_use_slope: float
    in_use_error: float
    rss_mb: float
    pss_mb: float
    in_use_mb: float
    files: tuple[int, int, int]
    threads: tuple[int, int, int]
    tensors: tuple[int, int]

    @property
    def steady(self) -> bool:
        """Whether neither open files nor threads nor tensors under way have become more."""
        files_and_threads = self.files[1] <= self.files[0] and self.threads[1] <= self.threads[0]
        return files_and_threads and self.tensors[1] < self.tensors[0] + _BATCHES


def sample_session(leader: int, seconds: float, epoch: int, inside: Path | None = None) -> list[Sample]:
    """One sample of each process of the session that ``leader`` began; those that end meanwhile are left out.

    Args:
        inside: the folder where they say what is in use; it is nan of those that do not.
    """
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] not in "ZX":
                parents[int(path.name)] = int(fields[1])
    samples = []
    for pid, role in _roles(leader, parents).items():
        with contextlib.suppress(OSError, IndexError, ValueError):
            place = Path("/proc") / str(pid)
            rss = int((place / "statm").read_text().split()[1]) * _PAGE / _MEBIBYTE
            pages = dict(line.split(":", 1) for line in (place / "smaps_rollup").read_text().splitlines()[1:])
            pss = int(pages["Pss"].split()[0]) / 1024
            files, tensors = _open_files(place / "fd")
            threads = len(list((place / "task").iterdir()))
            sizes = (round(rss, 3), round(pss, 3))
            samples.append(Sample(seconds, epoch, role, pid, *sizes, files, tensors, threads, _in_use(inside, pid)))
    return samples


def _in_use(inside: Path | None, pid: int) -> float:
    try:
        return math.nan if inside is None else float((inside / f"{pid}.txt").read_text())
    except FileNotFoundError:
        return math.nan


def _open_files(folder: Path) -> tuple[int, int]:
    """How many files are open, and how many tensors in shared memory."""
    targets = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            targets.append(str(path.readlink()))
    tensors = sum("/torch_" in target for target in targets)
    return len(targets) - tensors, tensors


def _roles(leader: int, parents: dict[int, int]) -> dict[int, str]:
    """What each process is for, by its place in the tree; a training of one process is its own launcher."""
    roles = {leader: "launcher"} if leader in parents else {}
    counts: dict[str, int] = defaultdict(int)
    for parent in (leader, *sorted(pid for pid in parents if parents[pid] == leader)):
        above = "" if parent == leader else f"{roles[parent]} "
        for pid in sorted(pid for pid in parents if parents[pid] == parent and pid not in roles):
            command = _command(pid)  # of a forked process that of its parent
            is_rank = parent == leader and "spawn_main" in command
            kind = "tracker" if "resource_tracker" in command else "rank" if is_rank else "worker"
            roles[pid] = f"{above}{kind} {counts[above + kind]}"
            counts[above + kind] += 1
    return roles


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def read_samples(path: Path) -> list[Sample]:
    """The samples of a csv; the last line may be half written."""
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    rows = list(csv.DictReader(whole))
    return [
        Sample(
            float(row["seconds"]),
            int(row["epoch"]),
            row["role"],
            int(row["pid"]),
            float(row["rss_mb"]),
            float(row["pss_mb"]),
            int(row["files"]),
            int(row["tensors"]),
            int(row["threads"]),
            float(row.get("in_use_mb", "nan")),  # tables of old have none
        )
        for row in rows
    ]


def trends(samples: Sequence[Sample], warm_up: float) -> list[Trend]:
    """The trend of every process that lived from the end of the warm-up to the last sample, and of their sum.

    Args:
        warm_up: seconds from the start that do not count.
    """
    if not samples:
        return []
    by_process: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    times = sorted({sample.seconds for sample in samples if sample.seconds >= warm_up})
    for sample in samples:
        if sample.seconds >= warm_up:
            by_process[sample.role, sample.pid].append(sample)
    whole = {key: own for key, own in by_process.items() if len(own) == len(times)}
    found = [_trend(role, pid, own) for (role, pid), own in whole.items()]
    tells = [not any(math.isnan(sample.in_use_mb) for sample in own) for own in whole.values()]
    total = [
        Sample(
            at[0].seconds,
            at[0].epoch,
            "all",
            0,
            sum(s.rss_mb for s in at),
            sum(s.pss_mb for s in at),
            0,
            0,
            0,
            sum(s.in_use_mb for s, told in zip(at, tells, strict=True) if told),
        )
        for at in zip(*whole.values(), strict=True)
    ]
    return [*found, _trend("all", 0, total)] if total else found


def _trend(role: str, pid: int, samples: Sequence[Sample]) -> Trend:
    hours = [sample.seconds / 3600 for sample in samples]
    told = [(sample.in_use_mb, hour) for sample, hour in zip(samples, hours, strict=True) if sample.in_use_mb >= 0]
    return Trend(
        role,
        pid,
        *slope([sample.rss_mb for sample in samples], hours),
        *slope([sample.pss_mb for sample in samples], hours),
        *slope([in_use for in_use, _ in told], [hour for _, hour in told]),
        samples[-1].rss_mb,
        samples[-1].pss_mb,
        samples[-1].in_use_mb,
        _halves([sample.files for sample in samples]),
        _halves([sample.threads for sample in samples]),
        _largest_of_halves([sample.tensors for sample in samples]),
    )


def slope(values: Sequence[float], times: Sequence[float]) -> tuple[float, float]:
    """The slope of a straight line by least squares, and its standard error."""
    if len(values) < 3:
        return 0.0, float("inf")
    x, y = np.asarray(times) - np.mean(times), np.asarray(values) - np.mean(values)
    found = float(x @ y / (x @ x))
    return found, float(np.sqrt(np.square(y - found * x).sum() / (len(x) - 2) / (x @ x)))


def _halves(numbers: Sequence[int]) -> tuple[int, int, int]:
    """The smallest of the first half, the smallest of the second half, the largest of all."""
    middle = max(1, len(numbers) // 2)
    return min(numbers[:middle]), min(numbers[middle:] or numbers), max(numbers)


def _largest_of_halves(numbers: Sequence[int]) -> tuple[int, int]:
    middle = max(1, len(numbers) // 2)
    return max(numbers[:middle]), max(numbers[middle:] or numbers)


def run_soak(
    folder: Path,
    table: Path,
    seconds: float,
    *,
    every: float = 10.0,
    epochs: int = 0,
    processes: int = 2,
    workers: int = 2,
    extra: Sequence[str] = (),
) -> int:
    """Train in ``folder`` for a time, and write samples into the csv ``table``.

    Args:
        every: seconds between two samples.
        epochs: go on until so many epochs are done, if the time is over before.
        processes: training processes.
        workers: loader workers of each, for training and as many for evaluation.
        extra: further flags of the recipe.

    Returns:
        How many epochs were done.

    Raises:
        RuntimeError: the run has ended by itself; with the end of what it said.
    """
    program = [sys.executable, "-m", "ignite_imgtools"]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    data, run, said, inside = folder / "data", folder / "run", folder / "output.txt", folder / "inside"
    inside.mkdir(parents=True, exist_ok=True)
    if not data.exists():
        subprocess.run([*program, "make-data", _DATA[0], str(data), *_DATA[1:]], env=environment, check=True)
    launch = ["--nproc-per-node", str(processes), "--num-workers", str(workers)]
    environment["PYTHONPATH"] += f"{os.pathsep}{_INSIDE}"
    environment |= {"SOAK_INSIDE": str(inside), "SOAK_INSIDE_EVERY": str(every / 2)}
    command = [*program, "train", *_RECIPE, "--data", str(data), "--output-dir", str(run), *launch, *extra]
    with said.open("w") as output, table.open("w", newline="") as rows:
        writer = csv.writer(rows)
        writer.writerow(Sample._fields)
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        begin = time.monotonic()
        try:
            done = _Epochs(run / "metrics.jsonl")
            while (now := time.monotonic() - begin) < seconds or done.count() < epochs:
                writer.writerows(sample_session(process.pid, round(now, 1), done.count(), inside))
                rows.flush()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(every)
                if process.poll() is not None:
                    raise RuntimeError(f"the run has ended by itself:\n{said.read_text()[-2000:]}")
            return done.count()
        finally:
            _end(process)


class _Epochs:
    """Counts the evaluations in a log that grows."""

    def __init__(self, path: Path):
        self._path = path
        self._place = 0
        self._count = 0

    def count(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._place)
                lines = file.read().split(b"\n")[:-1]
            self._place += sum(len(line) + 1 for line in lines)
            self._count += sum(b'"val/bbox/AP"' in line for line in lines)
        return self._count


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _describe(found: Iterable[Trend]) -> str:
    head = f"{'process':18} {'RSS MB':>8} {'MB/h':>8} {'+-':>6} {'PSS MB':>8} {'MB/h':>8} {'+-':>6} "
    head += f"{'in use':>8} {'MB/h':>8} {'+-':>6}   files          threads        tensors"
    lines = []
    for t in found:
        memory = [t.rss_mb, t.rss_slope, t.rss_error, t.pss_mb, t.pss_slope, t.pss_error]
        memory += [t.in_use_mb, t.in_use_slope, t.in_use_error]
        numbers = " ".join(f"{number:{width}.2f}" for number, width in zip(memory, [8, 8, 6] * 3, strict=True))
        counts = "{}, {} (<={})    {}, {} (<={})    <={}, <={}".format(*t.files, *t.threads, *t.tensors)
        lines.append(f"{t.role:18} {numbers}   {counts if t.pid else ''}".rstrip())
    return "\n".join([head, *lines])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two samples")
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"), help="where the samples go")
    parser.add_argument("--folder", type=Path, help="of the run; by default a temporary one")
    parser.add_argument("--report", type=Path, metavar="CSV", help="only report on these samples")
    parser.add_argument("--warm-up", type=float, metavar="SECONDS", help="by default a quarter of the time")
    options = parser.parse_args()
    table = options.report or options.csv
    if options.report is None:
        with contextlib.ExitStack() as stack:
            folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.mkdir(parents=True, exist_ok=True)
            run_soak(folder, table, 3600 * options.hours, every=options.every)
    samples = read_samples(table)
    last = samples[-1]
    warm_up = last.seconds / 4 if options.warm_up is None else options.warm_up
    found = trends(samples, warm_up)
    print(f"{last.seconds / 60:.0f} minutes, {last.epoch} epochs; after a warm-up of {warm_up / 60:.0f} minutes:")
    print(_describe(found))
    print("files and threads have not grown" if all(t.steady for t in found) else "FILES OR THREADS HAVE GROWN")
    return int(not all(t.steady for t in found))


if __name__ == "__main__":
    raise SystemExit(main())
