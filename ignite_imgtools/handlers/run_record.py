"""What a run folder tells, read from its files alone: of a run that is over, was killed or still goes on."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from ignite_imgtools.handlers.history import History
from ignite_imgtools.handlers.run_files import read_metrics
from ignite_imgtools.handlers.run_folder import RunFolderError

__all__ = ["RunRecord", "read_run"]

_TIME = re.compile(r"^Epoch: \[\d+\]  Total time: (?:(\d+) days?, )?(\d+):(\d\d):(\d\d) ", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The content of a run folder; what a killed run did not come to write is empty.

    Attributes:
        folder: its path.
        config: of ``config.json``.
        environment: of ``environment.json``.
        history: what ``metrics.jsonl`` tells.
        metrics: of ``eval/metrics.json``, the newest evaluation.
        errors: of ``eval/errors.json``: for each type of overlap an :class:`.ErrorBreakdown` as a dict.
        per_class: the rows of ``eval/per_class.csv``, texts by column.
        seconds: of training, as far as whole epochs were logged; ``None`` where none was.
    """

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    history: History
    metrics: dict[str, Any]
    errors: dict[str, dict[str, Any]]
    per_class: list[dict[str, str]]
    seconds: float | None

    @property
    def epoch(self) -> int:
        """The last epoch that was logged; 0 before the first line."""
        return self.history.epoch

    @property
    def iteration(self) -> int:
        """The last iteration that was logged; 0 before the first line."""
        return self.history.iteration

    def picture(self, name: str) -> Path | None:
        """The file ``plots/<name>.png``, if it is there."""
        path = self.folder / "plots" / f"{name}.png"
        return path if path.is_file() else None


def read_run(folder: str | Path) -> RunRecord:
    """Read a run folder.

    Raises:
        RunFolderError: there is no such folder, or it holds no run.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: there is no such folder; give the --output-dir of a run, such as runs/NAME")
    if not (folder / "config.json").is_file() and not (folder / "metrics.jsonl").is_file():
        raise RunFolderError(f"{folder}: holds no run: expected config.json or metrics.jsonl; give the folder of a run")
    errors = {
        name: value
        for name, value in _read_object(folder / "eval" / "errors.json").items()
        if isinstance(value, dict) and isinstance(value.get("gain"), dict)
    }
    return RunRecord(
        folder,
        _read_object(folder / "config.json"),
        _read_object(folder / "environment.json"),
        _read_history(folder / "metrics.jsonl"),
        _read_object(folder / "eval" / "metrics.json"),
        errors,
        _read_rows(folder / "eval" / "per_class.csv"),
        _training_seconds(folder / "log.txt"),
    )


def _read_object(path: Path) -> dict[str, Any]:
    # A crash may have left anything in a file; what cannot be read is not there.
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_history(path: Path) -> History:
    try:
        return History(read_metrics(path))
    except OSError:
        return History()


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: value or "" for key, value in row.items() if key} for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):
        return []


def _training_seconds(path: Path) -> float | None:
    try:
        matches = _TIME.findall(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    times = [86400 * int(days or 0) + 3600 * int(h) + 60 * int(m) + int(s) for days, h, m, s in matches]
    return float(sum(times)) if times else None
