"""The folder of a run: of one configuration, of one live run at a time, and nothing in it is lost."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ignite_imgtools.distributed import on_main_process
from ignite_imgtools.handlers.durable import durable_file, make_folder_durably, sync_folder
from ignite_imgtools.handlers.environment import run_environment
from ignite_imgtools.handlers.run_files import write_atomically

try:
    import fcntl
except ImportError:  # no POSIX: runs are not locked against each other
    fcntl = None  # type: ignore[assignment]

__all__ = ["NEUTRAL", "RunFolderError", "close_run_folder", "open_run_folder", "set_aside"]

NEUTRAL = (
    "checkpoint_every",
    "device",
    "epochs",
    "log_every",
    "max_iterations",
    "nproc_per_node",
    "num_workers",
    "on_write_error",
    "stuck_after",
    "output_dir",
    "profile",
    "resume",
)
"""Fields of a configuration in which two parts of one run may differ."""

# The settings go last: until all else has been moved, the folder is seen to hold a run.
_CONTENT = (
    "checkpoints",
    "environment.json",
    "eval",
    "log.txt",
    "metrics.jsonl",
    "plots",
    "profile",
    "report.html",
    "tensorboard",
    "config.json",
)
_PATIENCE = 3.0  # seconds for the processes of a run that has just been killed to end
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}

_logger = logging.getLogger(__name__)
_locks: dict[Path, int] = {}


class RunFolderError(ValueError):
    """A run folder cannot be used: one line with its path, why, and what to do."""


def open_run_folder(
    output_dir: str | Path, config: Mapping[str, Any], *, resume: str | Path = "auto", neutral: Iterable[str] = NEUTRAL
) -> Path:
    """Make ``output_dir`` the folder of this run, or refuse; call it on all processes.

    The main process makes the folder, locks it until it ends (or :func:`close_run_folder`), and writes ``config``
    to ``config.json``, and versions, machine and commit to ``environment.json``. A lock dies with its process, so the
    folder of a killed run is free.

    Args:
        config: what JSON can hold; other values are written as their ``str``.
        resume: ``"auto"`` goes on with a run of the same configuration that the folder holds. ``"never"`` moves its
            files into ``previous-<n>`` first. With the path of a checkpoint the configuration may differ.
        neutral: fields that may differ between two parts of one run.

    Raises:
        RunFolderError: on all processes: the folder holds a run of another configuration, a live run has it, or it
            cannot be written.
    """
    folder = Path(output_dir)
    try:
        on_main_process(lambda: _open(folder, json.loads(_to_json(config)), str(resume), set(neutral)))
    except RunFolderError:
        raise
    except ValueError as error:  # as which the main process's error arrives at the others
        raise RunFolderError(str(error)) from error
    return folder


def close_run_folder(output_dir: str | Path) -> None:
    """Let another run have the folder, before this process ends."""
    descriptor = _locks.pop(Path(output_dir).resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def set_aside(output_dir: Path, names: Iterable[str] | None = None) -> Path | None:
    """Move what there is of ``names``, by default all of a run, into the next free ``previous-<n>`` of the folder, and
    return that."""
    if names is None:
        names = [*sorted(path.name for path in output_dir.glob("eval-*") if path.is_dir()), *_CONTENT]
    found = [name for name in names if (output_dir / name).exists()]
    if not found:
        return None
    matches = (re.fullmatch(r"previous-(\d+)", path.name) for path in output_dir.glob("previous-*"))
    target = output_dir / f"previous-{1 + max((int(match[1]) for match in matches if match), default=0)}"
    target.mkdir()
    for name in found:
        (output_dir / name).rename(target / name)
    sync_folder(target)
    sync_folder(output_dir)
    return target


def _open(folder: Path, config: dict[str, Any], resume: str, neutral: set[str]) -> None:
    held = folder.resolve() in _locks
    try:
        make_folder_durably(folder)
        _lock(folder)
        if resume in ("auto", "never"):
            _refuse_another_run(folder, config, neutral)
        if resume == "never" and (previous := set_aside(folder)):
            _logger.warning("%s: the files of the run before are now in %s", folder, previous)
        with durable_file(folder / "config.json") as file:
            file.write(_to_json(config).encode())
        environment = run_environment(str(config.get("device", "auto")))
        write_atomically(folder / "environment.json", _to_json(environment).encode())
    except Exception as error:
        if not held:
            close_run_folder(folder)
        if isinstance(error, OSError):
            what = f"{error.filename or folder}: {error.strerror or error}"
            raise RunFolderError(
                f"{folder}: cannot be used as run folder ({what}); choose another output_dir"
            ) from error
        raise


def _refuse_another_run(folder: Path, config: Mapping[str, Any], neutral: set[str]) -> None:
    # A run that ended before its first number and checkpoint, by a flag that was refused, leaves nothing to be lost.
    if not (folder / "metrics.jsonl").exists() and not any((folder / "checkpoints").glob("*")):
        return
    way_out = "choose another output_dir, or go on from a checkpoint of it with resume=PATH"
    path = folder / "config.json"
    try:
        known = json.loads(path.read_text())
    except FileNotFoundError:
        raise RunFolderError(f"{folder}: holds a run without config.json, maybe of another kind; {way_out}") from None
    except ValueError as error:
        raise RunFolderError(f"{path}: is no JSON ({error}); {way_out}") from error
    if not isinstance(known, dict):
        raise RunFolderError(f"{path}: must hold an object, got {type(known).__name__}; {way_out}")
    found = [
        f"{key} {_shown(known, key)} there, {_shown(config, key)} here"
        for key in sorted((known.keys() | config.keys()) - neutral)
        if key not in known or key not in config or known[key] != config[key]
    ]
    if found:
        raise RunFolderError(f"{folder}: holds a run of another configuration: {'; '.join(found)}; {way_out}")


def _shown(config: Mapping[str, Any], key: str) -> str:
    text = json.dumps(config[key]) if key in config else "absent"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _lock(folder: Path) -> None:
    if fcntl is None or folder.resolve() in _locks:
        return
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            owner = _owner(descriptor)
            os.close(descriptor)
            raise RunFolderError(
                f"{folder}: in use by a live run, {owner}; choose another output_dir, or stop that run first"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
            _logger.warning("%s: this file system has no locks; take care that no other run writes here", folder)
            break
    _locks[folder.resolve()] = descriptor
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "start": now}).encode(), 0)


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {owner['pid']} on {owner['host']} since {owner['start']}"
    except (ValueError, KeyError, TypeError):
        return "of which no more is known"


def _to_json(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, default=str) + "\n"


def _let_go_after_fork() -> None:
    # A forked loader worker would keep the lock for as long as it outlives a killed run.
    for descriptor in _locks.values():
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_after_fork)
