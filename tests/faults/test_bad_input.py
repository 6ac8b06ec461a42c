"""Every case of bad input is found by check, refused or left out by training, or rightly accepted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.faults.bad_input import Judge, all_cases


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes and signals")
def test_every_case_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin, cases, judge = time.perf_counter(), all_cases(), Judge(tmp_path)
    wrong = {
        f"{case.data_format}: {case.name!r}": complaints for case in cases if (complaints := judge.complaints(case))
    }
    with capsys.disabled():
        seconds = time.perf_counter() - begin
        print(f"\nbad input: cases tried {len(cases)}, cases right {len(cases) - len(wrong)}, {seconds:.0f} s")
    assert not wrong, wrong
    assert len(cases) >= 400
    assert len({case.data_format for case in cases}) == 13
