"""The short form of the trials with signals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs fork, and looks for processes in /proc"),
]


def _report(*arguments: str) -> dict[str, Any]:
    # In a process of its own: the parent of the trials must never have computed a gradient.
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.signals", *arguments],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["wrong"] == []
    assert done.returncode == 0, report
    assert report["equal"] == report["chains"] > 0
    assert report["right"] == report["sent"]
    return report


def test_a_run_that_is_signalled_at_random_instants_ends_as_the_one_that_is_not() -> None:
    report = _report("--launchers", "single", "--instants", "10")
    assert sum(report["sent"].values()) == 10
    assert min(report["sent"].values()) >= 1
    assert report["steps_again"] <= 1


def test_torchrun_resumes_by_itself_after_a_process_was_killed() -> None:
    assert _report("--launchers", "restarts", "--instants", "1")["sent"]["SIGKILL"] >= 1
