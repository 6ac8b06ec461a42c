"""A run that is killed in the middle of an epoch and started again is the run that was never killed, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipes.dense_runs import FLAGS, call, create_data
from tests.recipes.faster_rcnn_runs import assert_same_run, metrics_lines
from tests.recipes.killed_runs import kill_within, last_logged

_ARGS = (
    "--epochs 4 --eval-every 2 --accumulate 2 --ema-decay 0.9 --log-every 1 --checkpoint-every 1 --val-losses".split()
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_data("unet", tmp_path_factory.mktemp("resumed"), num_train=18, num_val=3)


def _arguments(dataset: Path, folder: Path, workers: int, processes: int) -> list[str]:
    launch = ["--num-workers", str(workers), "--nproc-per-node", str(processes)]
    return ["train", "unet", "--data", str(dataset), "--output-dir", str(folder), *launch, *_ARGS, *FLAGS["unet"]]


# Workers make no difference, so the run without interruption has none.
@pytest.mark.slow
@pytest.mark.parametrize(("workers", "processes"), [(0, 1), (2, 2)])
def test_killed_in_the_third_of_four_epochs(
    workers: int, processes: int, dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    straight, folder = tmp_path / "straight", tmp_path / "run"
    call(processes, *_arguments(dataset, straight, 0, processes))
    arguments = _arguments(dataset, folder, workers, processes)
    kill_within(arguments, folder / "metrics.jsonl", epoch=3)
    length = max(line["iteration"] for line in metrics_lines(straight)) // 4
    assert 2 * length < last_logged(folder) < 3 * length + 1

    call(processes, *arguments)
    assert "resumed from" in "".join(capfd.readouterr())
    assert_same_run(folder, straight)
    assert not list((folder / "checkpoints").glob(".*"))
