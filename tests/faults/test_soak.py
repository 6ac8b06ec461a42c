"""The short form of the training of hours, and the measures it takes."""

from __future__ import annotations

import csv
import ctypes
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ignite_imgtools.data.make_data import make_data
from tests.faults.soak import Sample, read_samples, run_soak, sample_session, slope, trends

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.slow
def test_files_and_threads_of_a_training_do_not_grow(tmp_path: Path) -> None:
    make_data("coco", tmp_path / "data", num_train=16, num_val=4, image_size=64)
    epochs = run_soak(tmp_path, tmp_path / "samples.csv", 0, every=0.1, epochs=5, processes=1, workers=1)
    assert epochs >= 5
    samples = read_samples(tmp_path / "samples.csv")
    # In the first evaluation modules are loaded, and threads started.
    begin = next(sample.seconds for sample in samples if sample.epoch == 2)
    found = {trend.role: trend for trend in trends(samples, begin)}
    assert found.keys() == {"launcher", "worker 0", "worker 1", "all"}
    assert all(trend.steady for trend in found.values()), found
    assert 50 < found["launcher"].pss_mb <= found["launcher"].rss_mb
    # Workers are forks, and do not say.
    says = {role for role, trend in found.items() if trend.in_use_mb > 0}
    assert says == ({"launcher", "all"} if hasattr(ctypes.CDLL(None), "mallinfo2") else set())


def _samples(files: list[int], tensors: int = 0) -> list[Sample]:
    return [
        Sample(360.0 * place, place, "launcher", 7, 100.0, 50 + 0.5 * place, number, tensors * place, 3, 40 - place)
        for place, number in enumerate(files)
    ]


def test_what_grows_is_seen() -> None:
    found = trends(_samples([9, 5, 6, 5, 5, 9, 5, 5]), 360)
    assert [trend.role for trend in found] == ["launcher", "all"]
    assert found[0].pss_slope == pytest.approx(5.0)  # half a megabyte in a tenth of an hour
    assert found[0].rss_slope == 0
    assert found[0].in_use_slope == pytest.approx(-10.0)
    assert found[0].files == (5, 5, 9)
    assert all(trend.steady for trend in found)
    assert not trends(_samples([5, 5, 6, 5, 6, 6, 6, 7]), 0)[0].steady
    assert not trends(_samples([5] * 8, tensors=30), 0)[0].steady


def test_a_half_written_line_is_passed_over_and_a_process_may_begin_to_tell_later(tmp_path: Path) -> None:
    table = tmp_path / "soak.csv"
    samples = [sample._replace(in_use_mb=math.nan) if i == 0 else sample for i, sample in enumerate(_samples([5] * 6))]
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Sample._fields)
        writer.writerows(samples)
        file.write("2160.0,6,launcher,7,100.0,53.0,5,0,3,n")
    assert [sample.seconds for sample in read_samples(table)] == [sample.seconds for sample in samples]
    found = trends(read_samples(table), 0)
    assert found[0].in_use_slope == pytest.approx(-10.0)
    assert found[1].in_use_mb == 0  # of those that have told all along


def test_a_slope_has_an_error() -> None:
    assert slope([1.0, 3.0, 5.0], [0.0, 1.0, 2.0]) == (2.0, 0.0)
    found, error = slope([0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 2.0, 3.0])
    assert found == pytest.approx(0.2)
    assert error == pytest.approx((0.8 / 2 / 5) ** 0.5)


def test_processes_of_a_session_are_measured(tmp_path: Path) -> None:
    script = "import os, time; files = [open('held') for _ in range(5)]; os.fork(); block = b'x' * (20 << 20)"
    script += "; time.sleep(60)"
    (tmp_path / "held").touch()
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while True:
            samples = sample_session(process.pid, 0.0, 0)
            if [sample.role for sample in samples] == ["launcher", "worker 0"] and samples[0].pss_mb > 20:
                break
            assert time.monotonic() < deadline, samples
            time.sleep(0.05)
        assert {sample.threads for sample in samples} == {1}
        assert samples[0].files == samples[1].files == 8
        assert 20 < samples[0].pss_mb < samples[0].rss_mb < 60
    finally:
        os.killpg(process.pid, 9)
        process.wait()
