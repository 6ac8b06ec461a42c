"""Cut the power while checkpoints are written, and trace the order of the system calls that survives it.

The cut: a training on a loop-mounted ext4, which says through a pipe which checkpoints it holds for saved; at a random
instant the file system is shut down without a flush (``EXT4_IOC_SHUTDOWN``), the process is killed, and the disk
mounted again. The newest checkpoint there must be the last one that was told, or a newer one; there must be as many
good ones as are kept; and the run that goes on must end with the same weights, meters and ``metrics.jsonl`` as one
whose power was never cut. The control is the same training without ``fsync``, which loses what it told.

The trace (no root needed): write, fsync, rename, fsync of the folder, and only then the removal of the oldest file.

    python -m tests.faults.power --cuts 40      # the long form; as root on a machine with loop devices
    python -m tests.faults.power --cuts 0       # the trace alone
    python -m tests.faults.power --cuts 3 --settings 1    # the short form, in CI

prints a line for each setting and ``N of N``.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ignite_imgtools.handlers import load_checkpoint, newest_valid_checkpoint
from tests.faults.disks import CannotMount, Ext4Image
from tests.faults.kill import fork_training, good_files, outcome, train

__all__ = ["Cuts", "cut_power", "judge_trace", "trace_training"]

_ROOT = Path(__file__).resolve().parents[2]
_CALLS = "openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat"
SETTINGS = [(background, keep_last) for background in (False, True) for keep_last in (1, 2)]


class Cuts(NamedTuple):
    """What was found after cuts of the power."""

    cuts: int
    told: int
    """Checkpoints that were told to be on disk."""
    survived: int
    """Cuts after which every checkpoint that was told was there, or a newer one, and as many as are kept."""
    runs: int
    equal: int
    """Runs that ended as the one whose power was never cut."""


def cut_power(cuts: int, *, fsync: bool = True, seed: int = 0, **options: Any) -> Cuts:
    """Cut the power ``cuts`` times.

    Args:
        fsync: ``False`` for the control: the training calls a function that does nothing in its place.

    Raises:
        CannotMount: the machine has no such disk for us.
    """
    draw = random.Random(seed)
    done = told = survived = runs = equal = 0
    with tempfile.TemporaryDirectory() as name:
        straight = Path(name) / "straight"
        straight.mkdir()
        begin = time.monotonic()
        assert os.waitpid(fork_training(straight, options), 0)[1] == 0, (straight / "stderr.txt").read_text()
        duration = time.monotonic() - begin
        expected = outcome(straight)
        while done < cuts:
            disk = Ext4Image(Path(name))
            try:
                folder = disk.path / "run"
                folder.mkdir()
                saved: list[int] = []
                while not (folder / "digest").exists():
                    child, reader = _start(folder, fsync, options)
                    delay = None if done == cuts else draw.uniform(0.2, 0.7) * duration
                    if not _wait_for_first(reader, saved, delay):
                        _drain(reader, saved)
                        assert os.waitpid(child, 0)[1] == 0, (folder / "stderr.txt").read_text()
                        break
                    disk.cut()
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    _drain(reader, saved)
                    disk.unmount()
                    disk.mount()
                    done += 1
                    survived += _all_there(folder, saved, options["keep_last"])
                    if not fsync:
                        break
                told += len(saved)
                if fsync:
                    runs += 1
                    equal += _same_end(folder, expected)
                disk.unmount()
            finally:
                disk.close()
                shutil.rmtree(disk.path, ignore_errors=True)
    return Cuts(done, told, survived, runs, equal)


def _start(folder: Path, fsync: bool, options: dict[str, Any]) -> tuple[int, int]:
    reader, writer = os.pipe()
    original = os.fsync
    if not fsync:
        os.fsync = lambda descriptor: None  # type: ignore[assignment]
    child = fork_training(folder, {**options, "told": writer})
    os.fsync = original
    os.close(writer)
    return child, reader


def _wait_for_first(reader: int, saved: list[int], delay: float | None) -> bool:
    """Wait for the first checkpoint and then ``delay`` seconds; whether the training still runs then."""
    deadline = None
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            return True
        if not _read(reader, saved):
            return False
        if deadline is None and delay is not None:
            deadline = time.monotonic() + delay


def _read(reader: int, saved: list[int]) -> bool:
    text = os.read(reader, 1 << 16).decode()
    saved += [int(line) for line in text.split()]
    return bool(text)


def _drain(reader: int, saved: list[int]) -> None:
    while _read(reader, saved):
        pass
    os.close(reader)


def _all_there(folder: Path, saved: list[int], keep_last: int) -> bool:
    newest = newest_valid_checkpoint(folder / "checkpoints")
    if newest is None:
        return False
    # The best one is another name of one of those that are kept.
    kept = {path.stat().st_ino for path in (folder / "checkpoints").glob("[!.]*.pt") if path.name != "best.pt"}
    enough = good_files(folder) > 0 and len(kept) >= min(keep_last, len(set(saved)))
    return enough and load_checkpoint(newest)["trainer"]["iteration"] >= saved[-1]


def _same_end(folder: Path, expected: tuple[str, str, dict[int, str]]) -> bool:
    digest, metrics, order = outcome(folder)
    # The list of samples is ours and not synchronised: what is left of it must be right.
    return (digest, metrics) == expected[:2] and all(expected[2][step] == samples for step, samples in order.items())


class Trace(NamedTuple):
    """What the trace of a training shows."""

    saves: int
    broken: list[str]
    """In one line each, what came in a wrong order."""


def judge_trace(lines: Iterable[str], folder: str) -> Trace:
    """Look through the output of ``strace -f -y`` for the order of what happens to ``last.pt`` in ``folder``."""
    saves, broken = 0, []
    unsynchronised = {"file": False, "folder": False, "log": False}
    made: set[str] = set()
    exists = False
    for kind, call in _events(lines):
        if f"{folder}/.tmp-last.pt>" in call and kind == "write":
            unsynchronised["file"] = True
        elif kind == "fsync":
            if f"{folder}/.tmp-last.pt>" in call:
                unsynchronised["file"] = False
            elif f"<{folder}>" in call:
                unsynchronised["folder"] = False
            made = {path for path in made if f"<{path.rpartition('/')[0]}>" not in call}
        elif kind == "rename" and f'"{folder}/.tmp-last.pt"' in call:
            saves, exists = saves + 1, True
            if unsynchronised["file"]:
                broken.append(f"save {saves}: renamed before its content was synchronised")
            if unsynchronised["folder"]:
                broken.append(f"save {saves}: before the folder was synchronised after the one before")
            broken += [f"save {saves}: before the name of {path} was synchronised" for path in sorted(made)]
            unsynchronised["folder"] = True
        elif kind == "unlink" and re.search(rf'"{re.escape(folder)}/(last|best|previous-\d+)\.pt"', call):
            if unsynchronised["folder"] or "last.pt" in call:
                broken.append(f"save {saves}: {call.split(', ')[-1]} removed before the new one was on disk")
        elif kind == "mkdir":
            made |= set(re.findall(r'"([^"]+)"', call))
    if unsynchronised["folder"] and exists:
        broken.append("the folder was not synchronised after the last save")
    return Trace(saves, broken)


def _events(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    """``(kind, call)`` of calls that did not fail: an fsync and a mkdir where it has ended, others where they begin."""
    begun: dict[str, str] = {}
    for line in lines:
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            call = call.removesuffix("<unfinished ...>")
            if call.startswith(("fsync", "fdatasync", "mkdir")):
                begun[pid] = call
                continue
        elif call.startswith("<..."):
            if pid not in begun:
                continue
            call = begun.pop(pid) + call
        if " = -1 " in call:
            continue
        name = re.match(r"\w+", call)
        kind = re.sub(r"at2?$|64$", "", name.group()) if name else ""
        kinds = {"pwrite": "write", "fdatasync": "fsync"}
        yield kinds.get(kind, kind), call


def trace_training(*, background: bool, keep_last: int) -> Trace:
    """Trace a training with a checkpoint after each step.

    Raises:
        CannotMount: there is no strace, or it may not trace.
    """
    if shutil.which("strace") is None:
        raise CannotMount("strace is not installed")
    with tempfile.TemporaryDirectory() as name:
        trace, folder = Path(name).resolve() / "trace", Path(name).resolve() / "runs" / "a"
        options = ["--train", str(folder), "--background", str(int(background)), "--keep-last", str(keep_last)]
        command = ["strace", "-f", "-y", "-s", "8", "-e", f"trace={_CALLS}", "-o", str(trace)]
        done = subprocess.run(
            [*command, sys.executable, "-m", "tests.faults.power", *options],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode != 0 and re.search("ptrace|PTRACE", done.stderr):
            raise CannotMount(f"strace may not trace: {done.stderr.strip().splitlines()[0]}")
        assert done.returncode == 0, done.stderr
        with trace.open() as lines:
            return judge_trace(lines, str(folder / "checkpoints"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=40, help="for each setting")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), help="how many of the settings, the last first")
    parser.add_argument("--megabytes", type=float, default=2.0, help="ballast in each checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--background", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--keep-last", type=int, default=2, help=argparse.SUPPRESS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train is not None:
        train(arguments.train, background=bool(arguments.background), keep_last=arguments.keep_last)
        return 0
    tried = right = 0
    settings = SETTINGS[-arguments.settings :]
    for background, keep_last in settings:
        where = f"{'background' if background else 'foreground'}, keep_last={keep_last}"
        try:
            trace = trace_training(background=background, keep_last=keep_last)
        except CannotMount as error:
            print(f"trace, {where}: skipped: {error}", flush=True)
        else:
            print(f"trace, {where}: {trace.saves} saves, out of order: {'; '.join(trace.broken) or 'none'}", flush=True)
            tried, right = tried + 1, right + (trace.saves > 0 and not trace.broken)
    for (background, keep_last), fsync in [(setting, True) for setting in settings] + [(SETTINGS[1], False)]:
        if arguments.cuts == 0:
            break
        where = f"{'background' if background else 'foreground'}, keep_last={keep_last}"
        where += "" if fsync else ", without fsync (the control, which must lose some)"
        options = {"background": background, "keep_last": keep_last, "megabytes": arguments.megabytes}
        begin = time.monotonic()
        try:
            cuts = cut_power(arguments.cuts, fsync=fsync, seed=arguments.seed, **options)
        except CannotMount as error:
            print(f"power cuts, {where}: skipped: {error}", flush=True)
            continue
        print(
            f"power cuts, {where}: {cuts.survived} of {cuts.cuts} kept all that was told ({cuts.told} checkpoints); "
            f"{cuts.equal} of {cuts.runs} runs end equal; {time.monotonic() - begin:.0f} s",
            flush=True,
        )
        if fsync:
            tried, right = tried + cuts.cuts + cuts.runs, right + cuts.survived + cuts.equal
        else:
            tried, right = tried + 1, right + (cuts.survived < cuts.cuts)
    print(f"{right} of {tried}")
    return int(right != tried)


if __name__ == "__main__":
    raise SystemExit(main())
