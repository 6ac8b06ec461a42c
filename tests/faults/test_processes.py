"""The short form of the trials with one process that fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.faults.processes import run_fault


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("launcher", "fault"),
    [
        ("launch", "raise"),
        ("launch", "kill"),
        ("launch", "stuck"),
        ("launch", "worker killed"),
        pytest.param("parallel", "swallowed", marks=pytest.mark.fixed_port),
        pytest.param("parallel", "unequal", marks=pytest.mark.fixed_port),
        ("torchrun", "exit 0"),
    ],
)
def test_all_processes_end_and_the_first_failure_is_told(launcher: str, fault: str, tmp_path: Path) -> None:
    outcome = run_fault(launcher, fault, tmp_path)
    # How fast is for the long form to say: a busy machine takes seconds to end a process.
    assert outcome.status != 0
    assert outcome.seconds < 60
    assert outcome.as_told, outcome.output
