"""Where an evaluation writes: never over the numbers of a training by those of other data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ignite_imgtools.cli import main
from ignite_imgtools.data.make_data import make_data
from ignite_imgtools.recipes import load_recipe

_FLAGS = "--model shufflenet_v2_x0_5 --image-size 40 --batch-size 6 --max-iterations 1 --device cpu".split()
_SALIENCY = "--model lite --resize 40 --crop-size 32 --batch-size 4 --max-iterations 1 --device cpu".split()


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for name in ("eval", "plots") for path in (folder / name).iterdir()}


def _evaluate(recipe: str, run: Path, *args: str | Path) -> None:
    assert main(["evaluate", recipe, "--checkpoint", str(run / "checkpoints" / "last.pt"), *map(str, args)]) == 0


@pytest.mark.slow
def test_other_data_leave_the_numbers_of_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data("class_folders", tmp_path / "data", num_train=10, num_val=5, image_size=64)
    other = make_data("class_folders", tmp_path / "other", num_train=10, num_val=10, seed=1, image_size=64)
    run = tmp_path / "run"
    assert main(["train", "classification", "--data", str(data), "--output-dir", str(run), *_FLAGS]) == 0
    before = _contents(run)
    capfd.readouterr()

    _evaluate("classification", run, "--data", other)
    printed = capfd.readouterr().out
    assert f"{other}: not the data of the run, whose eval/ and plots/ stay as they are" in printed
    written = run / "eval-other"
    assert printed.splitlines()[-1] == f"numbers: {written / 'eval'}; pictures: {written / 'plots'}"
    assert (written / "eval" / "metrics.json").is_file()
    assert (written / "plots" / "confusion_matrix.png").is_file()
    assert _contents(run) == before

    # A folder that was asked for is taken, be it that of the run.
    _evaluate("classification", run, "--data", other, "--output-dir", tmp_path / "asked")
    assert _contents(run) == before
    _evaluate("classification", run, "--data", other, "--output-dir", run)
    assert (run / "eval" / "metrics.json").read_bytes() == (written / "eval" / "metrics.json").read_bytes()

    # A folder of the same name elsewhere has numbers of its own, a second evaluation of either replaces them.
    namesake = make_data("class_folders", tmp_path / "b" / "other", num_train=5, num_val=5, seed=2, image_size=64)
    for _ in range(2):
        _evaluate("classification", run, "--data", namesake)
        _evaluate("classification", run, "--data", other)
    whose = {path.name: Path((path / "data.txt").read_text()) for path in run.glob("eval-*")}
    assert whose == {"eval-other": other.resolve(), "eval-other-2": namesake.resolve()}
    assert (run / "eval-other-2" / "eval" / "metrics.json").is_file()
    shutil.rmtree(run / "eval-other-2")

    # Whose numbers they are is right too where they were asked for, by a path of any form.
    monkeypatch.chdir(run)
    _evaluate("classification", run, "--data", namesake, "--output-dir", "eval-other")
    assert Path((written / "data.txt").read_text()) == namesake.resolve()

    # The same folder by another path is no other data.
    shutil.rmtree(written)
    monkeypatch.chdir(data)
    capfd.readouterr()
    _evaluate("classification", run, "--data", ".")
    assert "not the data of the run" not in capfd.readouterr().out
    assert not list(run.glob("eval-*"))


@pytest.mark.slow
def test_the_first_process_alone_notes_whose_numbers_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """On another one the folder may not be there yet, or never, on a machine with a disk of its own."""
    data = make_data("class_folders", tmp_path / "data", num_train=10, num_val=5, image_size=64)
    run = tmp_path / "run"
    assert main(["train", "classification", "--data", str(data), "--output-dir", str(run), *_FLAGS]) == 0
    monkeypatch.setattr(load_recipe("classification"), "evaluate", lambda config, checkpoint: None)
    capfd.readouterr()
    for variable in ("RANK", "SLURM_PROCID"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "1")
            _evaluate("classification", run, "--data", tmp_path)
    assert capfd.readouterr().out == ""
    assert not list(run.glob("eval-*"))


@pytest.mark.slow
def test_data_for_validation_alone_are_other_data_too(tmp_path: Path) -> None:
    data = make_data("saliency", tmp_path / "data", num_train=8, num_val=2, image_size=64)
    other = make_data("saliency", tmp_path / "other", num_train=4, num_val=2, seed=1, image_size=64)
    run = tmp_path / "run"
    assert main(["train", "u2net", "--data", str(data), "--output-dir", str(run), *_SALIENCY]) == 0
    before = _contents(run)
    _evaluate("u2net", run, "--val-data", other)
    assert (run / "eval-other" / "eval" / "metrics.json").is_file()
    assert _contents(run) == before


@pytest.mark.slow
def test_the_built_in_data_stay_in_the_folder_of_the_run(tmp_path: Path) -> None:
    other = make_data("saliency", tmp_path / "other", num_train=4, num_val=2, seed=1, image_size=64)
    run = tmp_path / "run"
    assert main(["train", "u2net", "--output-dir", str(run), *_SALIENCY]) == 0
    _evaluate("u2net", run, "--val-data", other)
    assert sorted(path.name for path in (run / "eval-other").iterdir()) == ["data.txt", "eval", "plots"]
