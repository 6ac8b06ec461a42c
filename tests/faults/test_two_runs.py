"""The short form of the trials with two runs in one folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_two_runs_never_share_a_folder() -> None:
    # In a process of its own, which forks.
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.two_runs", "--quick"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == ["5 of 5", "11 of 11", "2 of 2"]
