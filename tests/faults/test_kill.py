"""The short form of the trials with kill -9."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_run_that_is_killed_at_random_instants_ends_as_the_one_that_is_not() -> None:
    # In a process of its own: the parent of the trials must never have computed a gradient.
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.kill", "--kills", "15", "--background", "0", "1"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) == 2
    for report in reports:
        assert report["kills"] == 15
        assert report["equal"] == report["chains"] > 0
        assert report["from zero"] == report["not swept"] == report["without a good file"] == 0
        assert report["left over"] <= 1
    assert sum(report["during a write"] for report in reports) >= 5
