"""The short form of the trials with power cuts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl")
from tests.faults.power import judge_trace

_ROOT = Path(__file__).resolve().parents[2]
_RIGHT = [
    '1 mkdir("/a/run", 0777) = 0',
    "1 fsync(3</a>) = 0",
    '1 openat(AT_FDCWD, "/a/run/.tmp-last.pt", O_WRONLY|O_CREAT|O_EXCL) = 3</a/run/.tmp-last.pt>',
    '2 write(3</a/run/.tmp-last.pt>, "PK"..., 99) = 99',
    "2 fsync(3</a/run/.tmp-last.pt> <unfinished ...>",
    '1 mkdir("/a/run", 0777 <unfinished ...>',
    "1 <... mkdir resumed>) = -1 EEXIST (File exists)",
    "2 <... fsync resumed>) = 0",
    '2 rename("/a/run/.tmp-last.pt", "/a/run/last.pt") = 0',
    "2 fsync(3</a/run>) = 0",
    '2 unlink("/a/run/previous-00000001.pt") = 0',
]


def test_an_order_that_survives_is_told_from_others() -> None:
    assert judge_trace(_RIGHT, "/a/run") == (1, [])
    for missing, told in (
        ("fsync(3</a>)", "before the name of /a/run was synchronised"),
        ("<... fsync", "renamed before its content was synchronised"),
        ("fsync(3</a/run>)", "previous-00000001.pt.* removed before the new one was on disk"),
    ):
        trace = judge_trace([line for line in _RIGHT if missing not in line], "/a/run")
        assert trace.saves == 1
        assert any(re.search(told, line) for line in trace.broken), trace
    assert "removed" in judge_trace([*_RIGHT, '2 unlink("/a/run/last.pt") = 0'], "/a/run").broken[0]


@pytest.mark.slow
def test_what_was_told_to_be_saved_survives_a_power_cut() -> None:
    # In a process of its own: the parent of the trials must never have computed a gradient.
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.power", "--cuts", "3", "--settings", "1"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = [line for line in done.stdout.splitlines() if "skipped: " in line]
    if skipped:
        pytest.skip("; ".join(skipped))
    # The trace, three cuts, the runs that went on after them, and the control.
    assert int(done.stdout.splitlines()[-1].split(" of ")[0]) >= 6
