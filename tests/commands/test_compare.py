"""Several runs in one figure and one table; and the reports of several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ignite_imgtools.cli import main
from ignite_imgtools.handlers.run_comparison import comparison_figure
from ignite_imgtools.handlers.run_record import read_run


def _write_run(folder: Path, ap: list[float], **config: object) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"epochs": 5, "output_dir": str(folder), "lr": 0.1, **config}))
    lines = [{"epoch": i, "iteration": 10 * i, "train/loss": 1 / i, "val/bbox/AP": v} for i, v in enumerate(ap, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "log.txt").write_text("Epoch: [1]  Total time: 1 day, 0:01:40 (1.0 s / it)\n")
    return str(folder)


def test_the_table_has_best_last_and_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [_write_run(tmp_path / "a", [0.1, 0.5, 0.25]), _write_run(tmp_path / "b", [0.2, 0.3], lr=0.2, new=True)]
    figure = tmp_path / "figures" / "both.png"
    assert main(["compare", *runs, "--figure", str(figure)]) == 0
    out = capsys.readouterr().out
    rows = {" ".join(line.split()) for line in out.splitlines()}
    assert {"a b", "val/bbox/AP best 0.5000 0.3000", "val/bbox/AP last 0.2500 0.3000"} <= rows
    assert {"epochs 3 of 5 2 of 5", "iterations 30 20", "lr 0.1 0.2", "new absent True"} <= rows
    assert "training time 1 day, 0:01:40 1 day, 0:01:40" in rows
    assert "output_dir" not in out
    with Image.open(figure) as picture:
        assert picture.size[1] > 500  # the loss and the metric


def test_runs_without_a_common_metric_have_a_panel_of_the_main_one_of_each(tmp_path: Path) -> None:
    runs = [_write_run(tmp_path / name, [0.1, 0.5]) for name in "ab"]
    numbers = {"val/pixel_accuracy": 0.5, "val/mean_IoU": 0.25, "val/IoU/cat": 0.25}
    (tmp_path / "b" / "metrics.jsonl").write_text(json.dumps({"iteration": 3, "train/loss": 1.0, **numbers}) + "\n")
    figure = comparison_figure([read_run(run) for run in runs])
    assert figure is not None
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["loss", "val/bbox/AP", "val/mean_IoU"]


def test_runs_of_one_name_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [_write_run(tmp_path / part / "run", [0.1]) for part in ("x", "y")]
    assert main(["compare", *runs, "--figure", str(tmp_path / "f.png")]) == 0
    assert "x/run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["compare", "a"], "compare needs two or more run folders, got 1"),
        (["compare", "a", "nowhere"], "nowhere: there is no such folder"),
        (["report"], "report needs the folder of a run"),
        (["report", "."], "holds no run"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    args: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    _write_run(tmp_path / "a", [0.1])
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_reports_are_written_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [_write_run(tmp_path / name, [0.1]) for name in "ab"]
    assert main(["report", *runs]) == 0
    assert capsys.readouterr().out.count("report.html") == 2
    assert all((tmp_path / name / "report.html").is_file() for name in "ab")
