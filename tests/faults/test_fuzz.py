"""The short form of feeding readers with damaged files."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.fuzz import Mutator, create_targets, run_target, small_images

_INPUTS = 150  # for each reader


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs the alarm signal")
def test_only_declared_errors_come_out_of_readers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with small_images():
        reports = [run_target(name, target, _INPUTS) for name, target in create_targets(tmp_path).items()]
    capfd.readouterr()  # of what libjpeg says
    assert [line for report in reports for line in report["broken"]] == []
    assert len(reports) >= 19
    # The inputs are neither all bad nor all good.
    assert 0.2 < sum(report["refused"] for report in reports) / sum(report["inputs"] for report in reports) < 0.9


def test_the_same_seed_makes_the_same_inputs() -> None:
    seeds = [b'{"a": [1, 2, {"b": 3.5}], "c": "x"}', b"[1, [2, 3]]"]
    one, same, other = (
        [mutator.change(seeds, is_json=True) for _ in range(50)] for mutator in (Mutator(1), Mutator(1), Mutator(2))
    )
    assert one == same != other
    assert len(set(one)) > 40
