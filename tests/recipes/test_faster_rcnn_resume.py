"""A run that is killed in the middle of an epoch and started again is the run that was never killed, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from ignite_imgtools.data.make_data import make_data
from tests.recipes.faster_rcnn_runs import SMALL, assert_same_run, metrics_lines, run
from tests.recipes.killed_runs import kill_within, last_logged

_ARGS = "--epochs 6 --accumulate 2 --ema-decay 0.9 --log-every 1 --checkpoint-every 1".split()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data("coco", tmp_path_factory.mktemp("data") / "coco", num_train=18, num_val=3, image_size=64)


def _arguments(dataset: Path, folder: Path, workers: int, processes: int) -> list[str]:
    launch = ["--num-workers", str(workers), "--nproc-per-node", str(processes)]
    return ["train", "faster_rcnn", "--data", str(dataset), "--output-dir", str(folder), *launch, *_ARGS, *SMALL]


@pytest.fixture(scope="module")
def straight(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs without interruption, by number of processes. Workers make no difference, so they are not asked for."""
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp("straight") / "run"
        run(*_arguments(dataset, folders[processes], 0, processes))
    return folders


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_in_the_third_of_six_epochs(
    workers: int, processes: int, dataset: Path, straight: dict[int, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = _arguments(dataset, folder, workers, processes)
    kill_within(arguments, folder / "metrics.jsonl", epoch=3)
    killed_at = last_logged(folder)
    length = max(line["iteration"] for line in metrics_lines(straight[processes])) // 6
    assert 2 * length < killed_at < 3 * length + 1

    printed = run(*arguments)
    assert "resumed" in printed.lower()
    assert_same_run(folder, straight[processes])
    assert not list((folder / "checkpoints").glob(".*"))
