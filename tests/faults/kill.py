"""Kill training with -9 at random instants, resume it, and compare with the run that nobody killed.

The parent imports torch once, never computes a gradient, and forks each run, so that a trial takes a fraction of a
second. A checkpoint is written after every step, with a ballast that makes the write take a good part of the time.
Every second kill waits, after its random delay, for a write to begin, and comes at a random moment of it. A chain is
one training: killed, started again with ``resume="auto"``, until it reaches its end. Then the bits of weights,
optimizer, schedule, average and meters, ``metrics.jsonl`` and the order of samples must be those of the straight run.

    python -m tests.faults.kill --kills 30              # the short form, in CI
    python -m tests.faults.kill --kills 200 --workers 0 2 --background 0 1    # the long form

prints one JSON object for each setting: kills, those that hit a write, chains, chains that ended equal, starts from
zero after there was a checkpoint, the most temporary files found after a kill, those found after a start, seconds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from ignite_imgtools.distributed import keyed_seed
from ignite_imgtools.formats import register_resumable
from ignite_imgtools.handlers import CheckpointError, Checkpoints, MetricLogger, load_checkpoint, open_run_folder
from tests.handlers.toy_training import create_toy, digest

EPOCHS = 6


class Ballast:
    """Makes a checkpoint large enough for its write to be hit."""

    def __init__(self, megabytes: float):
        self._values = torch.zeros(int(megabytes * 250_000))

    def state_dict(self) -> dict[str, Any]:
        return {"values": self._values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._values.copy_(state["values"])


def train(
    folder: Path,
    *,
    num_workers: int = 0,
    background: bool = False,
    megabytes: float = 0.0,
    keep_last: int = 2,
    told: int | None = None,
) -> None:
    """One run, from where the one before was killed to its end, which leaves ``digest`` in the folder.

    Args:
        told: a descriptor that gets the iteration of each checkpoint that is on disk.
    """
    open_run_folder(folder, {"lr": 0.1})
    toy = create_toy(num_workers=num_workers)
    logger = MetricLogger(folder, console=False).attach(toy.trainer, every=2)
    register_resumable(toy.trainer, "ballast", Ballast(megabytes))
    checkpoints = toy.attach(folder, every=1, best="score", background=background, keep_last=keep_last)
    if told is not None:
        _tell(checkpoints, told)
    order = (folder / "order.txt").open("a")

    def started() -> None:
        swept = sum(1 for _ in (folder / "checkpoints").glob(".tmp-*")) if (folder / "checkpoints").exists() else 0
        with (folder / "starts.txt").open("a") as starts:
            starts.write(f"{toy.trainer.state.iteration} {int(checkpoints.resumed_from is not None)} {swept}\n")

    def note() -> None:
        order.write(f"{toy.trainer.state.iteration} {toy.seen[-1]}\n")
        order.flush()

    toy.trainer.add_event_handler(Events.STARTED, started)
    toy.trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    toy.run(EPOCHS)
    meters = digest(logger._meters.state_dict())
    best = load_checkpoint(folder / "checkpoints" / "best.pt")["trainer"]["iteration"]
    (folder / "digest").write_text(f"{toy.digest()} {meters} {best}")


def _tell(checkpoints: Checkpoints, descriptor: int) -> None:
    save = checkpoints._files.save_last

    def save_and_tell(state: Mapping[str, Any]) -> Path:
        path = save(state)
        os.write(descriptor, f"{state['trainer']['iteration']}\n".encode())
        return path

    checkpoints._files.save_last = save_and_tell  # type: ignore[method-assign]


def fork_training(folder: Path, options: dict[str, Any]) -> int:
    """Start :func:`train` in a forked process, and return its id; what it says is in ``stderr.txt`` of the folder."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        sys.stderr = (folder / "stderr.txt").open("a")
        logging.basicConfig(stream=sys.stderr, force=True)
        train(folder, **options)
        code = 0
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def outcome(folder: Path) -> tuple[str, str, dict[int, str]]:
    """``(digest, metrics.jsonl, samples by iteration)`` of a run that has reached its end."""
    # Of a step that was done again, what counts is that it was the same samples each time.
    order: dict[int, str] = {}
    for line in (folder / "order.txt").read_text().splitlines():
        iteration, _, samples = line.partition(" ")
        if order.setdefault(int(iteration), samples) != samples:
            order[int(iteration)] = "differs"
    return (folder / "digest").read_text(), (folder / "metrics.jsonl").read_text(), order


def good_files(folder: Path) -> int:
    """How many checkpoints verify; 0 if one does not."""
    good = 0
    for path in (folder / "checkpoints").glob("[!.]*.pt"):
        try:
            load_checkpoint(path)
            good += 1
        except CheckpointError:
            return 0
    return good


def _wait_for_a_write(folder: Path, draw: random.Random) -> None:
    deadline = time.monotonic() + 1.0  # it may be at its end
    while time.monotonic() < deadline and not (folder / ".tmp-last.pt").exists():
        time.sleep(0.0005)
    time.sleep(draw.uniform(0, 0.01))


def run_trials(kills: int, *, seed: int = 0, **options: Any) -> dict[str, Any]:
    """Kill ``kills`` times and report."""
    draw = random.Random(keyed_seed(seed, kills))
    counts = {"kills": 0, "during a write": 0, "chains": 0, "equal": 0, "from zero": 0, "left over": 0, "not swept": 0}
    counts["without a good file"] = 0
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        straight = Path(name) / "straight"
        straight.mkdir()
        start = time.monotonic()
        assert os.waitpid(fork_training(straight, options), 0)[1] == 0, (straight / "stderr.txt").read_text()
        duration = time.monotonic() - start
        expected = outcome(straight)
        while counts["kills"] < kills:
            folder = Path(name) / f"chain-{counts['chains']}"
            folder.mkdir()
            while not (folder / "digest").exists():
                child = fork_training(folder, options)
                deadline = time.monotonic() + draw.uniform(0.1, 0.5) * duration
                ended = 0
                while not ended and (counts["kills"] >= kills or time.monotonic() < deadline):
                    ended, status = os.waitpid(child, os.WNOHANG)
                    time.sleep(0.0005)
                if ended:
                    assert status == 0, (folder / "stderr.txt").read_text()
                    break
                if counts["kills"] % 2 == 0:
                    _wait_for_a_write(folder / "checkpoints", draw)
                os.kill(child, signal.SIGKILL)
                _, status = os.waitpid(child, 0)
                counts["kills"] += os.WIFSIGNALED(status)
                checkpoints = folder / "checkpoints"
                temporary = len(list(checkpoints.glob(".tmp-*"))) if checkpoints.exists() else 0
                counts["during a write"] += temporary > 0
                counts["left over"] = max(counts["left over"], temporary)
                if (checkpoints / "last.pt").exists() and good_files(folder) < 1:
                    counts["without a good file"] += 1
            counts["chains"] += 1
            counts["equal"] += outcome(folder) == expected
            starts = [line.split() for line in (folder / "starts.txt").read_text().splitlines()]
            resumed = [source == "1" for _, source, _ in starts]
            first = resumed.index(True) if True in resumed else len(resumed)
            counts["from zero"] += sum(not source for source in resumed[first:])
            counts["not swept"] += sum(int(swept) for *_, swept in starts)
    return counts | {"seconds": round(time.monotonic() - begin, 1)} | options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="for each setting")
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    parser.add_argument("--background", type=int, nargs="+", default=[0])
    parser.add_argument("--megabytes", type=float, default=8.0, help="ballast in each checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for num_workers in arguments.workers:
        for background in arguments.background:
            options = {"num_workers": num_workers, "background": bool(background), "megabytes": arguments.megabytes}
            print(json.dumps(run_trials(arguments.kills, seed=arguments.seed, **options)), flush=True)


if __name__ == "__main__":
    main()
