"""Runs that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from tests.recipes.faster_rcnn_runs import command

__all__ = ["kill_within", "last_logged"]


def kill_within(arguments: list[str], log: Path, epoch: int) -> None:
    """Start a run, and kill all its processes once it has logged the second iteration of ``epoch``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command(*arguments),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and process.poll() is None:
            # The last line may be half written.
            lines = log.read_text().split("\n")[:-1] if log.exists() else []
            if sum(json.loads(line)["epoch"] == epoch for line in lines) >= 2:
                break
            time.sleep(0.005)
        assert process.poll() is None, "the run ended before it was killed"
        os.killpg(process.pid, signal.SIGKILL)


def last_logged(folder: Path) -> int:
    """The last iteration that was logged whole before the kill."""
    lines = (folder / "metrics.jsonl").read_text().split("\n")[:-1]
    return max(json.loads(line)["iteration"] for line in lines)
