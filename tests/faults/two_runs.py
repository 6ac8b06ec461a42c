"""Let two runs have the same folder: the second must refuse and name the owner, and a dead run's lock must be free.

1. Several processes open one folder at the same instant: one of them has it, all others name its process and host.
2. The owner is killed with -9, with a forked loader worker that outlives it: the folder is free. A lock file that a
   dead run has left, of whatever content, is no obstacle. An owner that is stopped (SIGSTOP) is alive.
3. The same through the command line: ``train classification --output-dir``, with one process and with two.

    python -m tests.faults.two_runs            # the long form
    python -m tests.faults.two_runs --quick    # the short form, in CI

prints ``N of N`` for each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ignite_imgtools.data.make_data import make_data
from ignite_imgtools.handlers import RunFolderError, open_run_folder, run_folder
from tests.faults.disks import IN_MEMORY
from tests.faults.torn import Tried, print_parts

__all__ = ["try_command_line", "try_dead_owners", "try_races"]

_ROOT = Path(__file__).resolve().parents[2]
_REFUSED = (
    r"in use by a live run, process {pid} on {host} since \d{{4}}-.*; "
    r"choose another (?:output_dir|--output-dir), or stop that run"
)


class _Opener:
    """A forked process that opens the folder, says how that went, and stays."""

    def __init__(self, folder: Path, *, at: float = 0.0, patience: float = 0.3, with_worker: bool = False):
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            run_folder._PATIENCE = patience
            try:
                time.sleep(max(0.0, at - time.monotonic()))
                open_run_folder(folder, {"lr": 0.1})
                said = "open"
                if with_worker and os.fork() == 0:
                    time.sleep(5)
                    os._exit(0)
            except RunFolderError as error:
                said = str(error)
            except BaseException as error:
                said = repr(error)
            os.write(writer, said.encode())
            os.close(writer)
            time.sleep(60)
            os._exit(0)
        os.close(writer)
        self._reader = reader
        self._said: str | None = None

    @property
    def said(self) -> str:
        """``"open"``, or why it was refused."""
        if self._said is None:
            self._said = os.read(self._reader, 1 << 16).decode()
            os.close(self._reader)
        return self._said

    def end(self) -> None:
        """Kill it with -9, once."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@contextlib.contextmanager
def _openers(folder: Path, number: int = 1, **options: float) -> Iterator[list[_Opener]]:
    openers = [_Opener(folder, **options) for _ in range(number)]  # type: ignore[arg-type]
    try:
        yield openers
    finally:
        for opener in openers:
            opener.end()


def _refusal_faults(said: str, folder: Path, pid: int) -> list[str]:
    pattern = f"^{re.escape(str(folder))}: " + _REFUSED.format(pid=pid, host=re.escape(socket.gethostname()))
    return [] if re.search(pattern, said) and "\n" not in said else [f"said: {said}"]


def try_races(races: int = 40, processes: int = 4) -> Tried:
    """Open a folder from ``processes`` processes at once."""
    tried = Tried()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        for race in range(races):
            folder = Path(name) / f"run-{race}"
            with _openers(folder, processes, at=time.monotonic() + 0.1) as openers:
                owners = [opener for opener in openers if opener.said == "open"]
                found = [] if len(owners) == 1 else [f"{len(owners)} have it"]
                for opener in openers:
                    if owners and opener is not owners[0]:
                        found += _refusal_faults(opener.said, folder, owners[0].pid)
            tried.add(f"race {race}", found)
    return tried


def try_dead_owners(kills: int = 20) -> Tried:
    """Kill owners, leave lock files, stop an owner."""
    tried = Tried()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        for kill in range(kills):
            folder = Path(name) / f"killed-{kill}"
            # The next one waits for the folder already, or comes later; half of the owners leave a worker behind.
            with _openers(folder, with_worker=kill % 2) as (owner,):
                first = owner.said
                with _openers(folder, patience=5.0) as (next_owner,):
                    time.sleep(draw.uniform(0, 0.2))
                    owner.end()
                    said = next_owner.said
                    told = json.loads((folder / ".lock").read_text())["pid"] == next_owner.pid
            right = (first, said, told) == ("open", "open", True)
            tried.add(f"killed owner {kill}", [] if right else [f"{first}, {said}, {told=}"])
        alive = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "start": "2020-01-01T00:00:00+00:00"})
        for number, content in enumerate(
            ("", "{", "[]", "\0" * 100, alive, alive.replace(socket.gethostname(), "other"))
        ):
            folder = Path(name) / f"left-{number}"
            folder.mkdir()
            (folder / ".lock").write_text(content)
            with _openers(folder) as (opener,):
                tried.add(f"lock file {content[:20]!r}", [] if opener.said == "open" else [opener.said])
        folder = Path(name) / "stopped"
        with _openers(folder) as (owner,):
            found = [] if owner.said == "open" else [owner.said]
            os.kill(owner.pid, signal.SIGSTOP)
            with _openers(folder) as (other,):
                found += _refusal_faults(other.said, folder, owner.pid)
        tried.add("stopped owner", found)
    return tried


def _train(
    data: Path, folder: Path, processes: int, epochs: int, output: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    flags = "--model shufflenet_v2_x0_5 --image-size 32 --batch-size 4 --log-every 1 --eval-every 1000 --device cpu"
    command = [sys.executable, "-m", "ignite_imgtools", "train", "classification", "--data", str(data), *flags.split()]
    command += ["--output-dir", str(folder), "--epochs", str(epochs), "--checkpoint-every", "1"]
    command += ["--nproc-per-node", str(processes)] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(command, cwd=_ROOT, env=environment, text=True, stdout=output, stderr=subprocess.PIPE)


def try_command_line(counts: tuple[int, ...] = (1, 2)) -> Tried:
    """Start a training in the folder of one that runs, and again when that one has been killed."""
    tried = Tried()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        data = make_data("class_folders", Path(name) / "data", num_train=12, num_val=5, image_size=64)
        for processes in counts:
            folder = Path(name) / f"run-{processes}"
            with _train(data, folder, processes, 100_000) as first:
                try:
                    _wait_for(folder / "checkpoints" / "last.pt", first)
                    owner = json.loads((folder / ".lock").read_text())["pid"]
                    second = _train(data, folder, processes, 100_000)
                    _, said = second.communicate(timeout=300)
                    line = [line for line in said.splitlines() if line.strip()][-1]
                    found = [] if second.returncode == 2 else [f"status {second.returncode}"]
                    found += _refusal_faults(line[line.find(str(folder)) :], folder, owner)
                    found += [] if first.poll() is None else ["the first one has ended"]
                    tried.add(f"{processes=}, the second one refuses", found)
                finally:
                    first.kill()
            reached = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-2])["epoch"]
            third = _train(data, folder, processes, reached + 1, subprocess.PIPE)
            said, errors = third.communicate(timeout=300)
            found = (
                []
                if third.returncode == 0 and "resumed from" in said + errors
                else [f"{third.returncode}: {errors[-500:]}"]
            )
            tried.add(f"{processes=}, the lock of the killed one is taken over", found)
    return tried


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer races and kills, one process")
    quick = parser.parse_args().quick
    parts: dict[str, Callable[[], Tried]] = {
        "several open a folder at once, one has it": lambda: try_races(5 if quick else 40),
        "the folder of a dead run is free, that of a stopped one is not": lambda: try_dead_owners(4 if quick else 20),
        "two trainings from the command line": lambda: try_command_line((1,) if quick else (1, 2)),
    }
    return print_parts(parts)


if __name__ == "__main__":
    raise SystemExit(main())
