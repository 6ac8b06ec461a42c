"""Flags that make a run faster change neither what a checkpoint holds nor what can be done with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ignite_imgtools.cli import main
from ignite_imgtools.data.make_data import make_data

FLAGS = (
    "--model shufflenet_v2_x0_5 --image-size 40 --optimizer adamw --lr 5e-3 --batch-size 6 --ema-decay 0.9 --warmup 2 "
    "--log-every 1 --device cpu --epochs 1"
).split()
FAST = ["--channels-last", "--compile", "--compile-backend", "eager"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without the flags, and one that begins with them, of which a copy is taken, and ends without."""
    folder = tmp_path_factory.mktemp("compile")
    data = make_data("class_folders", folder / "data", num_train=15, num_val=4, image_size=64)
    start = ["train", "classification", "--data", str(data), *FLAGS, "--output-dir"]
    assert main([*start, str(folder / "plain")]) == 0
    assert main([*start, str(folder / "run"), *FAST, "--max-iterations", "2"]) == 0
    shutil.copytree(folder / "run", folder / "fast")
    assert main([*start, str(folder / "run"), "--resume", str(folder / "run" / "checkpoints" / "last.pt")]) == 0
    return folder


def test_checkpoints_hold_the_same(runs: Path) -> None:
    plain, fast, run = (
        torch.load(runs / name / "checkpoints" / "last.pt", weights_only=True) for name in ("plain", "fast", "run")
    )
    assert [state["trainer"]["iteration"] for state in (plain, fast, run)] == [3, 2, 3]
    weights, fast_weights, run_weights = (
        [state["model"], state["resumables"]["update"]["ema"]["module"]] for state in (plain, fast, run)
    )
    for mine, theirs, others in zip(weights, fast_weights, run_weights, strict=True):
        assert list(mine) == list(theirs) == list(others)
        # The order of sums differs with the layout, and steps of Adam make more of that.
        assert all(torch.allclose(mine[name].float(), others[name].float(), atol=0.03) for name in mine)


def test_they_are_evaluated_and_used_as_others(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(runs / "fast" / "checkpoints" / "best.pt")
    assert main(["evaluate", "classification", "--checkpoint", checkpoint]) == 0
    image = next((runs / "data").rglob("*.jpg"))
    arguments = ["--checkpoint", checkpoint, str(image), "--output-dir", str(runs / "predictions")]
    assert main(["predict", "classification", *arguments]) == 0
    assert (runs / "predictions" / "predictions.json").is_file()


def test_what_cannot_be_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", "unet", "--output-dir", str(tmp_path), "--device", "cpu", "--compile"]
    assert main([*command, "--compile-backend", "fastest"]) == 2
    assert "--compile-backend must be one of aot_eager, " in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert main(command) == 2
    assert "--compile needs a C++ compiler" in capsys.readouterr().err
