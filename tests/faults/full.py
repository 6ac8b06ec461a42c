"""Fill the disk, take the right to write, and break the logs, while a training writes.

1. Room for a part of a checkpoint: on a small disk in memory that another file fills (as root), and by a limit on the
   size of files (``RLIMIT_FSIZE``, without root). The size left goes from nothing to almost enough; 1, 2 and 3
   checkpoints are kept, in the foreground and in the background, and the run is asked to stop or to go on.
2. ``ENOSPC`` at each k-th of the system's calls that a checkpoint needs.
3. A folder that cannot be written: read-only from the beginning, or from the middle of a run.
4. Logs that fail: in the place of ``log.txt``, ``metrics.jsonl``, ``tensorboard/``, ``plots/`` and ``eval/`` there is
   something else, the disk is read-only or full, or the run folder is removed.

What must be: an error of one line with path, space needed and free; the checkpoints before whole, with nothing half
written beside them; a run that was asked to go on does, and writes checkpoints again when there is room; logs never
stop a run, and warn once each.

    python -m tests.faults.full            # the long form; what needs root says that it is skipped
    python -m tests.faults.full --quick    # the short form, in CI

prints ``N of N`` for each.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import itertools
import os
import re
import resource
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from ignite_imgtools.formats import register_resumable
from ignite_imgtools.handlers import (
    CheckpointError,
    MetricLogger,
    RunFolderError,
    attach_curves,
    attach_evaluation_files,
    attach_tensorboard,
    close_run_folder,
    evaluate_on_epoch,
    load_checkpoint,
    open_run_folder,
)
from ignite_imgtools.handlers.checkpoint_folder import CheckpointFolder
from tests.faults.disks import IN_MEMORY, tmpfs
from tests.faults.kill import Ballast
from tests.faults.torn import Messages, Tried, print_parts
from tests.handlers.toy_training import Toy, create_toy

__all__ = ["try_calls", "try_full_disk", "try_logs", "try_unwritable"]

_MEGABYTES = 1.0  # of a checkpoint
_FAILS_AT, _ROOM_AGAIN_AT, _LAST = 7, 9, 15  # iterations
_LINE = (
    r"(last\.pt: cannot write this checkpoint|checkpoints: cannot keep checkpoints here|best\.pt: cannot be written)"
    r": [A-Z][^;]+; (it|one) needs \d+\.\d MB, \d+\.\d MB are free there; "
)


# 1. A full disk


@contextlib.contextmanager
def _hog(folder: Path, left: int) -> Iterator[None]:
    """Leave ``left`` bytes of the disk of ``folder``."""
    path = folder / "hog"
    with path.open("wb") as file:
        size = max(0, shutil.disk_usage(folder).free - left)
        while size > 0:
            file.write(bytes(min(size, 1 << 16)))
            size -= 1 << 16
    try:
        yield
    finally:
        path.unlink()


@contextlib.contextmanager
def _limit(left: int) -> Iterator[None]:
    """No file of this process may become larger than ``left`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _run(
    folder: Path, full: Callable[[], contextlib.AbstractContextManager[None]], *, go_on: bool, **options: Any
) -> tuple[Toy, CheckpointError | None]:
    """Train with a checkpoint at each step; two of them meet the fault."""
    toy = create_toy()
    register_resumable(toy.trainer, "ballast", Ballast(_MEGABYTES))
    checkpoints = toy.attach(folder, every=1, on_write_error="continue" if go_on else "stop", **options)
    with contextlib.ExitStack() as stack:

        def begin() -> None:
            if toy.trainer.state.iteration == _FAILS_AT:
                checkpoints.wait()
                stack.enter_context(full())
            elif toy.trainer.state.iteration == _ROOM_AGAIN_AT:
                checkpoints.wait()
                stack.close()

        toy.trainer.add_event_handler(Events.ITERATION_STARTED, begin)
        try:
            toy.run(3)
        except CheckpointError as error:
            return toy, error
    return toy, None


def _faults(folder: Path, error: CheckpointError | None, messages: list[str], go_on: bool, keep_last: int) -> list[str]:
    found = []
    told = [line for line in messages if "cannot" in line] if go_on else [str(error)]
    if (error is None) != go_on:
        found.append(f"ended with {error}")
    if not told or not all(re.search(_LINE, line) and "\n" not in line for line in told):
        found.append(f"told: {told}")
    iterations = {}
    for path in (folder / "checkpoints").iterdir():
        try:
            iterations[path.name] = load_checkpoint(path)["trainer"]["iteration"]
        except CheckpointError as refused:
            found.append(str(refused))
    newest = _LAST if go_on else _FAILS_AT - 1
    if iterations.get("last.pt") != newest:
        found.append(f"the last one is of iteration {iterations.get('last.pt')}, not {newest}")
    # One that was to make room, and is not removed until the next is on disk, may be there too.
    if not keep_last <= len(set(iterations.values())) <= keep_last + 1:
        found.append(f"{iterations} are kept")
    return found


def try_full_disk(kind: str, sizes: int = 6) -> Tried:
    """Leave room for ``sizes`` different parts of a checkpoint, on a ``"disk"`` or by a ``"limit"``."""
    tried = Tried()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name, Messages() as messages:
        for keep_last, go_on, number in itertools.product((1, 2, 3), (False, True), range(sizes)):
            # In both ways of writing, and at other sizes.
            background = bool(number % 2)
            left = int(_MEGABYTES * 1e6 * (number + (0.3 if go_on else 0.0)) / sizes)
            folder = Path(name) / f"{kind}-{tried.cases}"
            messages.clear()
            with contextlib.ExitStack() as stack:
                if kind == "disk":
                    stack.enter_context(tmpfs(folder, 16 << 20))
                full = partial(_hog, folder, left) if kind == "disk" else partial(_limit, left)
                _, error = _run(folder, full, go_on=go_on, keep_last=keep_last, background=background)
                found = _faults(folder, error, messages, go_on, keep_last)
            tried.add(f"{kind}, {left} bytes left, {keep_last=}, {go_on=}, {background=}", found)
    return tried


# 2. A call of the system that fails


class _Failing:
    """Lets ``good`` calls that need room through; all later ones fail with ``number``."""

    def __init__(self, good: int, number: int = errno.ENOSPC):
        self.good = good
        self.calls = 0
        self._number = number
        self._originals = (os.fsync, os.link, Path.replace, Path.open)

    def _count(self, path: Any) -> None:
        self.calls += 1
        if self.calls > self.good:
            raise OSError(self._number, os.strerror(self._number), str(path))

    def __enter__(self) -> _Failing:
        fsync, link, replace, open_path = self._originals

        def failing(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                self._count(args[0])
                return function(*args, **options)

            return call

        def failing_open(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            if "r" in mode:
                return open_path(path, mode, *args, **options)
            self._count(path)
            return _FailingFile(open_path(path, mode, *args, **options), self._count)

        patches: Any = (failing(fsync), failing(link), failing(replace), failing_open)
        os.fsync, os.link, Path.replace, Path.open = patches  # type: ignore[method-assign]
        return self

    def __exit__(self, *args: Any) -> None:
        os.fsync, os.link, Path.replace, Path.open = self._originals  # type: ignore[method-assign]


class _FailingFile:
    def __init__(self, file: Any, count: Callable[[Any], None]):
        self._file = file
        self._count = count

    def write(self, data: Any) -> int:
        self._count(self._file.name)
        return int(self._file.write(data))

    def __enter__(self) -> _FailingFile:
        return self

    def __exit__(self, *args: Any) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _state(iteration: int) -> dict[str, Any]:
    weights = {f"layer{i}": torch.full((20_000,), float(iteration)) for i in range(2)}
    return {"model": weights, "trainer": {"iteration": iteration, "epoch_length": 5}}


def try_calls(step: int = 1) -> Tried:
    """Let every ``step``-th call that a checkpoint needs fail, and all after it, and then write it again."""
    tried = Tried()
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        for keep_last in (1, 2, 3):
            error: CheckpointError | None = CheckpointError("none yet")
            good = 0
            while error is not None:
                folder = Path(name) / f"{keep_last}-{good}"
                files = CheckpointFolder(folder / "checkpoints", keep_last)
                for iteration in range(5 - keep_last, 5):
                    files.save_last(_state(iteration))
                number = numbers[tried.cases % len(numbers)]
                error = None
                with _Failing(good, number):
                    try:
                        files.save_last(_state(5))
                        files.link_best()
                    except CheckpointError as raised:
                        error = raised
                if error is not None:
                    found = _after_a_failed_call(files, error, keep_last)
                    tried.add(f"{keep_last=}, {os.strerror(number)}, call {good + 1}", found)
                    good += step
                shutil.rmtree(folder)
    return tried


def _after_a_failed_call(files: CheckpointFolder, error: CheckpointError, keep_last: int) -> list[str]:
    found = [] if re.search(_LINE, str(error)) and "\n" not in str(error) else [f"told: {error}"]
    found += _kept(files, {4, 5}, keep_last)
    files.save_last(_state(5))
    files.link_best()
    return found + [f"afterwards: {line}" for line in _kept(files, {5}, keep_last)]


def _kept(files: CheckpointFolder, newest: set[int], keep_last: int) -> list[str]:
    iterations = {}
    for path in files.path.iterdir():
        try:
            iterations[path.name] = load_checkpoint(path)["trainer"]["iteration"]
        except CheckpointError as refused:
            return [str(refused)]
    right = iterations.get("last.pt") in newest and len(set(iterations.values())) >= keep_last
    return [] if right else [f"{iterations} are kept"]


# 3. A folder that cannot be written


@contextlib.contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """Nobody may write in ``folder``, which for root needs a disk of its own."""
    if os.geteuid() == 0:
        _remount(folder, "ro")
    else:
        folder.chmod(0o555)
    try:
        yield
    finally:
        if os.geteuid() == 0:
            _remount(folder, "rw")
        else:
            folder.chmod(0o755)


def _remount(folder: Path, how: str) -> None:
    while not os.path.ismount(folder):
        folder = folder.parent
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True, capture_output=True)


@contextlib.contextmanager
def _disk(folder: Path, size: int = 32 << 20) -> Iterator[None]:
    if os.geteuid() == 0:
        with tmpfs(folder, size):
            yield
    else:
        folder.mkdir(parents=True)
        yield


def try_unwritable() -> Tried:
    """Take the right to write, before a run and in the middle of it."""
    tried = Tried()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name, Messages() as messages:
        folder = Path(name) / "disk"
        with _disk(folder), _read_only(folder):
            for path in (folder, folder / "run", folder / "a" / "b"):
                tried.add(f"from the beginning, {path.name}", _refused_folder(path))
        for keep_last in (1, 2, 3):
            for go_on in (False, True):
                folder = Path(name) / f"{keep_last}-{go_on}"
                messages.clear()
                with _disk(folder):
                    _, error = _run(
                        folder,
                        lambda folder=folder: _read_only(folder / "checkpoints"),
                        go_on=go_on,
                        keep_last=keep_last,
                    )
                    found = _faults(folder, error, messages, go_on, keep_last)
                tried.add(f"in the middle, {keep_last=}, {go_on=}", found)
    return tried


def _refused_folder(path: Path) -> list[str]:
    try:
        open_run_folder(path, {"lr": 0.1})
        close_run_folder(path)
    except RunFolderError as error:
        line = rf"^{re.escape(str(path))}: cannot be used as run folder \(\S+: [A-Z].*\); choose another output_dir$"
        return [] if re.search(line, str(error)) else [f"told: {error}"]
    return [f"{path} was taken"]


# 4. Logs that fail

_LOGS = ("log.txt", "metrics.jsonl", "tensorboard", "plots", "eval")


def _train(folder: Path, checkpoints: Path, fault: Callable[[], Any], curves: bool) -> tuple[Toy, list[str]]:
    """Train with all logs in ``folder``; ``fault()`` is called in the seventh step. Also returns the warnings."""
    toy = create_toy(evaluate=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        MetricLogger(folder, console=False).attach(toy.trainer, every=1)
        evaluate_on_epoch(toy.trainer, toy.evaluator, [0, 1])
        toy.attach(checkpoints, every=1)
        attach_tensorboard(folder, toy.trainer, toy.optimizer, {"val": toy.evaluator})
        if curves:  # which take the most time by far
            attach_curves(folder, toy.trainer)
        attach_evaluation_files(folder, toy.trainer, toy.evaluator)
        toy.trainer.add_event_handler(Events.ITERATION_STARTED(once=_FAILS_AT), lambda: fault())
        toy.run(2)
    return toy, [str(warning.message) for warning in caught]


def _put_other(path: Path) -> None:
    """Something of another kind than what is written there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.mkdir()
    else:
        path.write_text("a file")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replace(path: Path) -> None:
    _remove(path)
    _put_other(path)


def try_logs() -> Tried:
    """Break what is written beside the checkpoints."""
    expected = create_toy().run(2).digest()
    tried = Tried()

    def judge(
        what: str, folder: Path, fault: Callable[[], None], told: int | None, checkpoints: Path | None = None
    ) -> None:
        checkpoints = folder if checkpoints is None else checkpoints
        found = []
        try:
            toy, said = _train(folder, checkpoints, fault, curves=told != 1 or "plots" in what)
        except Exception as error:
            tried.add(what, [f"ended with {error!r}"])
            return
        if toy.digest() != expected:
            found.append("another end")
        if load_checkpoint(checkpoints / "checkpoints" / "last.pt")["trainer"]["iteration"] != 10:
            found.append("no last checkpoint")
        unknown = [line for line in said if not re.search("^cannot write .*training goes on without it$", line)]
        if unknown or len(set(said)) != len(said) or (told is not None and len(said) != told):
            found.append(f"told: {said}")
        tried.add(what, found)

    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name, Messages():
        root = Path(name)
        judge("no fault", root / "none", lambda: None, 0)
        for log in _LOGS:
            folder = root / log
            _put_other(folder / log)
            judge(f"another kind of file at {log}", folder, lambda: None, 1)
            folder = root / f"{log}-later"
            judge(f"the same in the middle, {log}", folder, lambda folder=folder, log=log: _replace(folder / log), 1)
            folder = root / f"{log}-removed"
            judge(f"{log} removed", folder, lambda folder=folder, log=log: _remove(folder / log), None)
        judge("the run folder removed", root / "run", lambda: shutil.rmtree(root / "run"), None)
        for what, fault in (("read-only", _read_only), ("full", lambda folder: _hog(folder, 0))):
            for later in (False, True):
                folder = root / f"{what}-{later}"
                with contextlib.ExitStack() as stack:
                    stack.enter_context(_disk(folder, 4 << 20))
                    begin = lambda stack=stack, fault=fault, folder=folder: stack.enter_context(fault(folder))  # noqa: E731
                    if not later:
                        begin()
                    judge(
                        f"{what} {'in the middle' if later else 'from the beginning'}",
                        folder,
                        begin if later else lambda: None,
                        # What is left of the blocks that they have may do for lines.
                        None if (what, later) == ("full", True) else 4,
                        root / f"{what}-{later}-checkpoints",
                    )
    return tried


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes of what is left of the disk")
    quick = parser.parse_args().quick
    parts: dict[str, Callable[[], Tried]] = {
        "no room for a checkpoint on a small disk": lambda: try_full_disk("disk", 2 if quick else 6),
        "no room for a checkpoint by a limit": lambda: try_full_disk("limit", 2 if quick else 6),
        "a call of the system fails": lambda: try_calls(3 if quick else 1),
        "a folder that cannot be written": try_unwritable,
        "logs that fail": try_logs,
    }
    return print_parts(parts)


if __name__ == "__main__":
    raise SystemExit(main())
