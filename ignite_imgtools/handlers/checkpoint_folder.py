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
from typing import Any

from ignite_imgtools.handlers.checkpoint_file import CheckpointError, load_checkpoint, save_checkpoint
from ignite_imgtools.handlers.durable import TEMPORARY_PREFIX, link_or_copy

__all__ = ["CheckpointFolder", "newest_valid_checkpoint", "sweep_temporary_files"]

_PREVIOUS = re.compile(r"previous-(\d+)\.pt")
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
            self.path.mkdir(parents=True, exist_ok=True)
            if self.keep_last > 1 and self._last_iteration not in (None, iteration) and self.last.exists():
                previous = self.path / f"previous-{self._last_iteration:08d}.pt"
                link_or_copy(self.last, previous, sync=False)
        except OSError as error:
            message = f"{self.path}: cannot keep checkpoints here: {error.strerror or error}"
            raise CheckpointError(f"{message}; choose another output_dir") from error
        save_checkpoint(state, self.last)
        self._last_iteration = iteration
        self._prune(iteration)
        return self.last

    def link_best(self, source: Path | None = None) -> None:
        """Make ``best.pt`` the same file as ``source``, by default ``last.pt``.

        Raises:
            CheckpointError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            link_or_copy(self.last if source is None else source, self.best)
        except OSError as error:
            message = f"{self.best}: cannot be written: {error.strerror or error}"
            raise CheckpointError(f"{message}; make room or choose another output_dir") from error

    def trust_last(self, iteration: int) -> None:
        """Say that ``last.pt`` has been verified and is of ``iteration``: it may become a previous one."""
        self._last_iteration = iteration

    def _prune(self, iteration: int) -> None:
        # Those of a later iteration belong to a future that a resume from an older checkpoint has left: they go first.
        by_age = sorted(previous_checkpoints(self.path), key=lambda item: (item[0] < iteration, item[0]))
        for _, path in by_age[: max(0, len(by_age) - (self.keep_last - 1))]:
            with contextlib.suppress(OSError):
                path.unlink()


def previous_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """``(iteration, path)`` of each previous checkpoint by its name, in no order."""
    matches = ((_PREVIOUS.fullmatch(path.name), path) for path in folder.glob("previous-*.pt"))
    return [(int(match[1]), path) for match, path in matches if match]


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that verifies, with its content; each damaged one is logged.

    Raises:
        CheckpointError: a file is whole but no checkpoint of this version: starting anew would overwrite it.
    """
    last = folder / "last.pt"
    if (state := _load_unless_damaged(last)) is not None:
        return last, state
    found = []
    for path in [*(path for _, path in previous_checkpoints(folder)), folder / "best.pt"]:
        if (state := _load_unless_damaged(path)) is not None:
            found.append((int(state["trainer"]["iteration"]), path, state))
    if not found:
        return None
    _, path, state = max(found, key=lambda item: item[0])
    return path, state


def newest_valid_checkpoint(folder: str | Path) -> Path | None:
    """The path of the newest checkpoint in ``folder`` that verifies, ``None`` where there is none.

    Raises:
        CheckpointError: a file is whole, but not a checkpoint that this version reads.
    """
    newest = newest_checkpoint(Path(folder))
    return None if newest is None else newest[0]


def sweep_temporary_files(folder: str | Path) -> list[Path]:
    """Remove what interrupted writes have left in ``folder``, and return it; nobody else may be writing there."""
    swept = list(Path(folder).glob(f"{TEMPORARY_PREFIX}*"))
    for path in swept:
        with contextlib.suppress(OSError):
            path.unlink()
    return swept


def _load_unless_damaged(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return load_checkpoint(path)
    except CheckpointError as error:
        if not error.damaged:
            raise
        _logger.warning("%s", error)
        return None
