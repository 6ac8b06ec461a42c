"""Send signals to a training at random instants, resume it, and compare with the run that got none.

A chain is one training: it gets a signal, is started again with ``resume="auto"``, gets another one, until it reaches
its end. Then the bits of weights, optimizer, schedule, average and meters, ``metrics.jsonl`` and the order of samples
must be those of the run without signals. What is promised of each signal:

``SIGTERM``, ``SIGINT``, once: the step is finished and a checkpoint of it taken, at most one step is to be done again
(where an evaluation is broken off), and all processes leave with status 143 or 130; twice: they leave at once with
these. ``SIGUSR1``: a checkpoint is taken and the run goes on; here it is killed then, for the checkpoint to be needed.

The signal goes to the one process there is (``single``); to the process that called ``launch``, to one of its two
processes, or to all at once, as a terminal does; likewise to ``torchrun``, whose processes do the same, but whose own
status is 1, and which a SIGUSR1 would end: it has to be sent to one of its processes. Under ``restarts`` one of the
processes is killed (``kill -9``), and ``torchrun --max-restarts`` has to resume the run by itself.

    python -m tests.faults.signals --instants 10 --launchers single       # the short form, in CI
    python -m tests.faults.signals --instants 20                          # the long form: some ten minutes
    python -m tests.faults.signals --instants 100 --launchers single --workers 2 --background

prints one JSON object for each launcher: the instants of each signal and how many of them went as promised, how many
were in an evaluation, the most steps that had to be done again, the most that were done before the checkpoint that
SIGUSR1 asked for, the longest time from the (second) signal until all had left, chains, and those that ended equal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist

from ignite_imgtools.distributed import keyed_seed
from ignite_imgtools.handlers import load_checkpoint
from tests.distributed.spawn import run_processes
from tests.faults.signalled_script import STEPS, train
from tests.handlers.forked import Forked

__all__ = ["KINDS", "LAUNCHERS", "Report", "run_trials"]

_ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = ("single", "launch", "torchrun", "restarts")
KINDS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGTERM twice", "SIGINT twice")
# More than the 0.3 s in which two signals are one request.
_BETWEEN_TWO = 0.6
_PATIENCE = 300.0


class Report(NamedTuple):
    """What the trials under one launcher have shown; all of ``sent`` are to be ``right``, all ``chains`` ``equal``."""

    launcher: str
    sent: dict[str, int]
    right: dict[str, int]
    in_evaluation: int
    steps_again: int
    steps_until_saved: int
    seconds_to_leave: float
    chains: int
    equal: int
    wrong: list[str]

    @property
    def good(self) -> bool:
        """Whether all is as promised."""
        return self.sent == self.right and self.equal == self.chains and not self.wrong


class _Part:
    """One start of the training, in a session of its own, and what it has said since."""

    def __init__(self, launcher: str, folder: Path, options: dict[str, Any]):
        self._launcher = launcher
        number = len(list(folder.glob("said-*")))
        self._path = folder / f"said-{number}.txt"
        self._path.touch()
        if launcher == "single":
            self._forked = Forked(_train, (str(folder), options), self._path)
            self.pid = self._forked.pid
        else:
            with self._path.open("w") as said:
                self._popen = subprocess.Popen(
                    _command(launcher, folder, options),
                    stdout=said,
                    stderr=said,
                    env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
                    cwd=folder,
                    start_new_session=True,
                )
            self.pid = self._popen.pid

    @property
    def said(self) -> str:
        return self._path.read_text()

    def status(self) -> int | None:
        """The exit status, or minus the number of the signal that ended it; ``None`` while it runs."""
        return self._forked.process.exitcode if self._launcher == "single" else self._popen.poll()

    def wait(self, timeout: float = _PATIENCE) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.status()) is None:
            assert time.monotonic() < deadline, f"not ended within {timeout} s:\n{self.said}"
            time.sleep(0.002)
        return status

    def wait_for(self, pattern: str, timeout: float = _PATIENCE) -> bool:
        """Whether it said what matches ``pattern`` before it ended."""
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.said, re.MULTILINE)) and self.status() is None:
            assert time.monotonic() < deadline, f"no {pattern!r} within {timeout} s:\n{self.said}"
            time.sleep(0.002)
        return bool(found or re.search(pattern, self.said, re.MULTILINE))

    def ranks(self) -> list[int]:
        """Process ids of the training processes; of the newest ones after a restart."""
        found = {int(rank): int(pid) for rank, pid in re.findall(r"^process (\d+) (\d+)$", self.said, re.MULTILINE)}
        return [pid for _, pid in sorted(found.items())]

    def steps(self, what: str = "end") -> int:
        """The newest iteration that has begun or ended."""
        found = re.findall(rf"^{what} (\d+)$", self.said, re.MULTILINE)
        return int(found[-1]) if found else 0

    def send(self, number: int, target: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            if target == "all":
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid if target == "launcher" else self.ranks()[int(target)], number)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._launcher == "single":
            self._forked.process.join(10)
            self._forked.process.close()
        else:
            self._popen.wait(10)


def _train(folder: str, options: dict[str, Any]) -> None:
    train(0, folder, **options)


def _command(launcher: str, folder: Path, options: dict[str, Any]) -> list[str]:
    script = [str(Path(__file__).with_name("signalled_script.py"))]
    if launcher == "launch":
        return [sys.executable, *script, "launch", str(folder), json.dumps(options)]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    start += ["--max-restarts", "100"] if launcher == "restarts" else []
    return [*start, *script, "torchrun", str(folder), json.dumps(options)]


@contextlib.contextmanager
def _started(launcher: str, folder: Path, options: dict[str, Any]) -> Iterator[_Part]:
    part = _Part(launcher, folder, options)
    try:
        yield part
    finally:
        part.close()


class _Outcome(NamedTuple):
    digest: str
    metrics: str
    orders: list[dict[int, str]]


def _outcome(folder: Path) -> _Outcome:
    orders = []
    for path in sorted(folder.glob("order-*.txt")):
        # Of a step that was done again, what counts is that it was the same samples each time.
        order: dict[int, str] = {}
        for line in path.read_text().splitlines():
            iteration, _, samples = line.partition(" ")
            if order.setdefault(int(iteration), samples) != samples:
                order[int(iteration)] = "differs"
        orders.append(order)
    return _Outcome((folder / "digest").read_text(), (folder / "metrics.jsonl").read_text(), orders)


class _Trials:
    """The trials under one launcher: chains of parts, each of which gets the next kind of signal."""

    def __init__(self, launcher: str, kinds: Sequence[str], options: dict[str, Any], duration: float, seed: int):
        self.launcher, self.kinds, self.options, self.duration = launcher, kinds, options, duration
        self.draw = random.Random(seed)
        self.sent = dict.fromkeys(kinds, 0)
        self.right = dict.fromkeys(kinds, 0)
        self.in_evaluation = self.steps_again = self.steps_until_saved = 0
        self.seconds = 0.0
        self.wrong: list[str] = []
        self.kind = kinds[0]

    @property
    def number(self) -> int:
        """Of the signal."""
        return int(getattr(signal, self.kind.split()[0]))

    def run_part(self, folder: Path, *, quiet: bool) -> None:
        """Start the training, and send it a signal unless it is to be ``quiet``."""
        # The kind that has been sent least; the instants may lie behind the end of a run.
        self.kind = min(self.kinds, key=lambda kind: self.sent[kind])
        options, twice = dict(self.options), "twice" in self.kind and not quiet
        if twice:
            first = _saved_iteration(folder) + 1
            options["stop_at"] = self.draw.randint(first, max(first, min(STEPS, first + 9)))
            options["stop_rank"] = 0 if self.launcher == "single" else self.draw.randrange(2)
        with _started(self.launcher, folder, options) as part:
            if quiet:
                assert part.wait() == 0, part.said
            elif twice:
                self._send_twice(part)
            elif self.kind == "SIGUSR1":
                self._ask_to_save(part, folder)
            elif self.launcher == "restarts":
                self._kill_ranks(part)
            else:
                self._send_once(part, folder)

    def _target(self) -> str:
        if self.launcher == "single":
            return self.draw.choice(["launcher", "all"]) if self.options.get("num_workers") else "launcher"
        if self.kind == "SIGUSR1":
            return self.draw.choice(["0", "1", *(["launcher"] if self.launcher == "launch" else [])])
        return self.draw.choice(["launcher", "all", "0", "1"])

    def _wait_for_instant(self, part: _Part) -> bool:
        """Whether the training still runs at an instant that is drawn."""
        if not part.wait_for("^begin "):
            return False
        time.sleep(self.draw.uniform(0, 0.45) * self.duration)
        return part.status() is None and "\nover" not in part.said

    def _send_once(self, part: _Part, folder: Path) -> None:
        if not self._wait_for_instant(part):
            return
        target, before = self._target(), part.said
        begin = time.monotonic()
        part.send(self.number, target)
        status = part.wait()
        seconds = time.monotonic() - begin
        if "\nover" in part.said:  # it came when all was done
            return
        again = part.steps() - _saved_iteration(folder)
        self.in_evaluation += bool(re.search(r"evaluate \d+\n\Z", before))
        self.steps_again, self.seconds = max(self.steps_again, again), max(self.seconds, seconds)
        right = again in (0, 1) and "stopped after iteration" in part.said and self._is_right(status, target)
        self._note(part, right, f"to {target}: {status}, again {again}")

    def _is_right(self, status: int, target: str) -> bool:
        if self.launcher == "torchrun":
            # An agent that was told to stop has a status of its own, whatever its processes left with.
            return status == 1 or (status == -self.number and target in ("launcher", "all"))
        return status == 128 + self.number

    def _send_twice(self, part: _Part) -> None:
        if not part.wait_for("^stop "):
            return
        target = self._target()
        time.sleep(self.draw.uniform(0, 0.2))
        part.send(self.number, target)
        part.wait_for("finishing the step; once more leaves at once")
        time.sleep(_BETWEEN_TWO)
        alive = part.status() is None
        begin = time.monotonic()
        part.send(self.number, target)
        status = part.wait()
        seconds = time.monotonic() - begin
        while _session(part.pid) and time.monotonic() - begin < 30:
            time.sleep(0.02)
        left, self.seconds = _session(part.pid), max(self.seconds, seconds)
        right = alive and not left and self._is_right(status, target)
        self._note(part, right, f"to {target}: {status}, alive {alive}, left over {left}")

    def _ask_to_save(self, part: _Part, folder: Path) -> None:
        if not self._wait_for_instant(part):
            return
        target, done, saved = self._target(), part.steps("begin") - 1, part.said.count("\nsaved ")
        begin = time.monotonic()
        part.send(self.number, target)
        # After the last evaluation nothing follows but the checkpoint of the end.
        while part.said.count("\nsaved ") == saved and "\nover" not in part.said and part.status() is None:
            assert time.monotonic() - begin < _PATIENCE, part.said
            time.sleep(0.001)
        answered, iteration = part.said.count("\nsaved ") > saved, part.steps("saved")
        on_disk = False
        while answered and not on_disk and time.monotonic() - begin < _PATIENCE:
            on_disk = _saved_iteration(folder) >= iteration
        goes_on = part.wait_for(f"^(begin {part.steps('end') + 1}|evaluate {part.steps('end')}|over .*)$")
        if "\nover" in part.said and not answered:
            return
        part.send(signal.SIGKILL, "all")
        part.wait()
        self.steps_until_saved = max(self.steps_until_saved, iteration - done)
        right = answered and on_disk and goes_on and done <= iteration
        self._note(part, right, f"to {target}: {done} done, {iteration} saved, on disk {on_disk}, goes on {goes_on}")

    def _kill_ranks(self, part: _Part) -> None:
        """Kill a process every now and then; the agent has to bring the run to its end."""
        killed = 0
        while part.status() is None:
            starts = len(re.findall(r"^process 0 ", part.said, re.MULTILINE))
            begun = re.findall(r"^(?:process 0|begin) .*$", part.said, re.MULTILINE)
            if starts <= killed or not begun or not begun[-1].startswith("begin"):
                time.sleep(0.005)
                continue
            time.sleep(self.draw.uniform(0, 0.45) * self.duration)
            if part.status() is None and "\nover" not in part.said:
                part.send(signal.SIGKILL, str(self.draw.randrange(2)))
                killed += 1
        right = part.status() == 0
        self.sent[self.kind] += killed
        self.right[self.kind] += killed if right else 0
        if not right:
            self.wrong.append(f"{part.status()}\n{part.said[-3000:]}")

    def _note(self, part: _Part, right: bool, what: str) -> None:
        self.sent[self.kind] += 1
        self.right[self.kind] += right
        if not right:
            self.wrong.append(f"{self.kind} {what}\n{part.said[-3000:]}")


def _saved_iteration(folder: Path) -> int:
    path = folder / "checkpoints" / "last.pt"
    return int(load_checkpoint(path)["trainer"]["iteration"]) if path.exists() else 0


def _session(leader: int) -> list[int]:
    """Live processes of the session that ``leader`` began."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.append(int(path.name))
    return found


def run_trials(launcher: str, kinds: Sequence[str], instants: int, *, seed: int = 0, **options: Any) -> Report:
    """Send ``kinds`` of signals in turn, ``instants`` of them in all.

    Args:
        options: of :func:`tests.faults.signalled_script.train`.
    """
    with tempfile.TemporaryDirectory() as name:
        expected, duration = _straight(launcher, Path(name) / "straight", options)
        trials = _Trials(launcher, kinds, options, duration, keyed_seed(seed, LAUNCHERS.index(launcher), instants))
        chains = equal = 0
        while sum(trials.sent.values()) < instants and chains < instants and len(trials.wrong) < 3:
            folder = Path(name) / f"chain-{chains}"
            folder.mkdir()
            while not (folder / "digest").exists() and len(trials.wrong) < 3:
                trials.run_part(folder, quiet=sum(trials.sent.values()) >= instants)
            chains += 1
            equal += (folder / "digest").exists() and _outcome(folder) == expected
    seconds = round(trials.seconds, 2)
    steps = (trials.in_evaluation, trials.steps_again, trials.steps_until_saved)
    return Report(launcher, trials.sent, trials.right, *steps, seconds, chains, equal, trials.wrong)


def _straight(launcher: str, folder: Path, options: dict[str, Any]) -> tuple[_Outcome, float]:
    """What a run without signals leaves, and how many seconds it takes.

    Its processes are forked, whatever starts those of the trials: that must make no difference.
    """
    folder.mkdir()
    seconds = run_processes(_train_quietly, 1 if launcher == "single" else 2, str(folder), options)
    return _outcome(folder), seconds[0]


def _train_quietly(folder: str, options: dict[str, Any]) -> float:
    os.dup2(os.open(Path(folder) / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    begin = time.monotonic()
    train(idist.get_rank(), folder, **options)
    return time.monotonic() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instants", type=int, default=20, help="signals in all, under each launcher")
    parser.add_argument("--launchers", nargs="+", choices=LAUNCHERS, default=list(LAUNCHERS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--background", action="store_true", help="write checkpoints in the background")
    parser.add_argument("--pause", type=float, default=0.01, help="seconds that each step takes longer")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    options = {"num_workers": arguments.workers, "background": arguments.background, "pause": arguments.pause}
    good = True
    for launcher in arguments.launchers:
        kinds = ["SIGKILL"] if launcher == "restarts" else arguments.kinds
        report = run_trials(launcher, kinds, arguments.instants, seed=arguments.seed, **options)
        print(json.dumps(report._asdict() | options), flush=True)
        good &= report.good
    return int(not good)


if __name__ == "__main__":
    raise SystemExit(main())
