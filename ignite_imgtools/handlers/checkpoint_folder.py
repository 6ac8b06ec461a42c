"""Which files a checkpoint folder holds, and how they take each other's place.

``last.pt`` is the newest checkpoint, ``previous-<iteration>.pt`` those before it, ``best.pt`` that of the best score:
the same file as another one where it can be (a hard link). At every instant, and so after a kill at any instant,
there are as many good files as are kept, once there were: the last one gets its second name before a new one takes
its place, and the oldest goes when the new one is on disk.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ignite_imgtools.handlers.checkpoint_file import CheckpointError, load_checkpoint, num_bytes, room, save_checkpoint
from ignite_imgtools.handlers.durable import TEMPORARY_PREFIX, link_or_copy, make_folder_durably, sync_folder

__all__ = ["CheckpointFolder", "newest_valid_checkpoint", "sweep_temporary_files"]

_PREVIOUS = re.compile(r"previous-(\d+)\.pt")
_FOREIGN = re.compile(r"foreign-(\d+)-")
_logger = logging.getLogger(__name__)


class CheckpointFolder:
    """The checkpoints of one run, on the process that writes them.

    Args:
        path: made with the first checkpoint.
        keep_last: how many of the newest checkpoints are kept, ``last.pt`` included.
    """

    def __init__(self, path: Path, keep_last: int = 2):
        self.path = path
        self.keep_last = keep_last
        self._last_iteration: int | None = None

    @property
    def last(self) -> Path:
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        return self.path / "best.pt"

    def save_last(self, state: Mapping[str, Any]) -> Path:
        """Write ``state`` as ``last.pt``; the one before becomes a previous one.

        Raises:
            CheckpointError: it cannot be written; all files are as they were.
        """
        iteration = int(state["trainer"]["iteration"])
        try:
            make_folder_durably(self.path)
            if self.keep_last > 1 and self._last_iteration not in (None, iteration) and self.last.exists():
                previous = self.path / f"previous-{self._last_iteration:08d}.pt"
                link_or_copy(self.last, previous, sync=False)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot keep checkpoints here: {error.strerror or error}; "
                f"one needs {room(self.path.parent, num_bytes(state))}; make room or choose another output_dir"
            ) from error
        before = _inode(self.last)
        try:
            save_checkpoint(state, self.last)
        finally:
            # Also where only the folder could not be synchronised after the file had taken its place.
            if _inode(self.last) not in (None, before):
                self._last_iteration = iteration
        self._prune(iteration)
        return self.last

    def link_best(self, source: Path | None = None) -> None:
        """Make ``best.pt`` the same file as ``source``, by default ``last.pt``.

        Raises:
            CheckpointError: it cannot be written.
        """
        source = self.last if source is None else source
        try:
            make_folder_durably(self.path)
            link_or_copy(source, self.best)
        except OSError as error:
            needed = source.stat().st_size if source.exists() else 0
            raise CheckpointError(
                f"{self.best}: cannot be written: {error.strerror or error}; it needs "
                f"{room(self.path, needed)}; make room or choose another output_dir"
            ) from error

    def trust_last(self, iteration: int) -> None:
        """Say that ``last.pt`` has been verified and is of ``iteration``: it may become a previous one."""
        self._last_iteration = iteration

    def _prune(self, iteration: int) -> None:
        # Those of a later iteration belong to a future that a resume from an older checkpoint has left: they go first.
        by_age = sorted(previous_checkpoints(self.path), key=lambda item: (item[0] < iteration, item[0]))
        for _, path in by_age[: max(0, len(by_age) - (self.keep_last - 1))]:
            with contextlib.suppress(OSError):
                path.unlink()


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def previous_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """``(iteration, path)`` of each previous checkpoint by its name, in no order."""
    matches = ((_PREVIOUS.fullmatch(path.name), path) for path in folder.glob("previous-*.pt"))
    return [(int(match[1]), path) for match, path in matches if match]


class NewestCheckpoint(NamedTuple):
    """A checkpoint that verifies, and what was passed over for it."""

    path: Path
    state: dict[str, Any]
    foreign: list[Path]
    """Files under names of checkpoints that are whole, but not checkpoints that this version reads."""


def newest_checkpoint(folder: Path) -> NewestCheckpoint | None:
    """The newest checkpoint that verifies, with its content; each file that is passed over is logged.

    Raises:
        CheckpointError: a file is whole but no checkpoint of this version, and there is no good one: starting anew
            would overwrite it. Or a file cannot be opened, which may be over soon.
    """
    last = folder / "last.pt"
    foreign: dict[Path, CheckpointError] = {}
    if (state := _load_if_good(last, foreign)) is not None:
        return NewestCheckpoint(last, state, [])
    found = []
    for path in [*(path for _, path in previous_checkpoints(folder)), folder / "best.pt"]:
        if (state := _load_if_good(path, foreign)) is not None:
            found.append((int(state["trainer"]["iteration"]), path, state))
    if found:
        _, path, state = max(found, key=lambda item: item[0])
        return NewestCheckpoint(path, state, list(foreign))
    for error in foreign.values():
        raise error
    return None


def newest_valid_checkpoint(folder: str | Path) -> Path | None:
    """The path of the newest checkpoint in ``folder`` that verifies, ``None`` where there is none.

    Raises:
        CheckpointError: there is none, but a whole file that is not a checkpoint this version reads.
    """
    newest = newest_checkpoint(Path(folder))
    return None if newest is None else newest.path


def keep_foreign_files(paths: list[Path]) -> list[Path]:
    """Rename files, so that no checkpoint takes their place: ``last.pt`` to ``foreign-1-last.pt``."""
    kept = []
    for path in paths:
        numbers = (_FOREIGN.match(other.name) for other in path.parent.glob("foreign-*"))
        number = 1 + max((int(match[1]) for match in numbers if match), default=0)
        kept.append(path.rename(path.with_name(f"foreign-{number}-{path.name}")))
        sync_folder(path.parent)
    return kept


def sweep_temporary_files(folder: str | Path) -> list[Path]:
    """Remove what interrupted writes have left in ``folder``, and return it; nobody else may be writing there."""
    swept = list(Path(folder).glob(f"{TEMPORARY_PREFIX}*"))
    for path in swept:
        with contextlib.suppress(OSError):
            path.unlink()
    return swept


def load_run(path: Path) -> dict[str, Any]:
    """The checkpoint of a run, with the trainer's position.

    Raises:
        CheckpointError: as :func:`load_checkpoint`; also where the file holds no such position.
    """
    state = load_checkpoint(path)
    if not (
        _is_position(state.get("trainer")) and all(_is_dict(state.get(key, {})) for key in ("resumables", "kinds"))
    ):
        raise CheckpointError(
            f"{path}: does not say where a run stands; to start from weights in it, give it as --weights", foreign=True
        )
    return state


def _is_position(value: Any) -> bool:
    if not (_is_dict(value) and _is_dict(value.get("user", {})) and type(value.get("iteration")) is int):
        return False
    length, began = value.get("epoch_length", 0), value.get("epoch_began_after")
    if began is not None and not (
        type(began) is int and type(value.get("epoch")) is int and 0 <= began <= value["iteration"]
    ):
        return False
    if not isinstance(value.get("epoch_is_open"), bool | None):
        return False
    return value["iteration"] >= 0 and (length is None or (type(length) is int and length > 0))


def _is_dict(value: Any) -> bool:
    return isinstance(value, Mapping)


def _load_if_good(path: Path, foreign: dict[Path, CheckpointError]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return load_run(path)
    except CheckpointError as error:
        if not (error.damaged or error.foreign):
            raise
        if error.foreign:
            foreign[path] = error
        _logger.warning("%s", error)
        return None
