"""The command coco-eval: pycocotools' text, files, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ignite_imgtools.cli import main
from tests.metrics.coco.test_files import _RESULT, _TRUTH, of_pycocotools


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "gt.json").write_text(json.dumps(_TRUTH))
    (tmp_path / "dt.json").write_text(json.dumps([_RESULT, {**_RESULT, "category_id": 8}]))
    return ["--ground-truth", str(tmp_path / "gt.json"), "--results", str(tmp_path / "dt.json")]


@pytest.mark.data
@pytest.mark.parametrize(
    ("truth", "results", "iou_type"),
    [
        (
            "val2014_100/instances_val2014_100.json",
            "val2014_100/instances_val2014_fakebbox100_results.json",
            "bbox",
        ),
        ("keypoints_4img/example_coco_val.json", "keypoints_4img/example_coco_preds.json", "keypoints"),
    ],
)
def test_it_prints_what_pycocotools_prints(
    real_data: Path, truth: str, results: str, iou_type: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = real_data / "coco_eval"
    _, text = of_pycocotools(folder / truth, folder / results, iou_type)
    args = ["--ground-truth", str(folder / truth), "--results", str(folder / results), "--iou-type", iou_type]
    assert main(["coco-eval", *args]) == 0
    out, err = capsys.readouterr()
    assert out == text
    assert err == ""


def test_options(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plots = tmp_path / "new" / "plots"
    options = ["--max-dets", "1", "7", "--images", "seen", "--per-class", "--plots", str(plots)]
    assert main(["coco-eval", *files, *options]) == 0
    out, err = capsys.readouterr()
    assert "area=   all | maxDets=  7 ] = 1.000" in out
    assert out.splitlines()[-2:] == [
        "class  truths     AP   AP50   AP75    APs  APm  APl    AR7",
        "cat         1  100.0  100.0  100.0  100.0    -    -  100.0",
    ]
    assert err == (
        "ignite-imgtools: 1 of 2 results take no part: the ground truth does not list their category_id, such as 8\n"
    )
    names = (
        "class_precision.png",
        "confusion_matrix.png",
        "errors.json",
        "errors.png",
        "per_class.csv",
        "pr_curve.png",
    )
    assert sorted(file.name for file in plots.iterdir()) == list(names)
    assert json.loads((plots / "errors.json").read_text())["ap"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--ground-truth"),
        (["--max-dets", "0"], "--max-dets must be positive integers, got 0"),
        (["--iou-type", "boxes"], "--iou-type"),
        (["--iou-type", "segm"], "gt.json: image 1 has no height and width"),
        (["--results", "none.json"], "none.json: there is no such file"),
        (["--plots", "/dev/null/plots"], "--plots: "),
    ],
)
def test_bad_arguments_and_files_are_one_line_and_status_2(
    files: list[str], args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gt.json").write_text(json.dumps({**_TRUTH, "images": [{"id": 1}]}))
    (tmp_path / "dt.json").write_text(json.dumps([_RESULT]))
    assert main(["coco-eval", *(files if args else []), *args]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ignite-imgtools: ")
    assert err.count("\n") == 1
    assert message in err


def test_help_and_completion_know_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["coco-eval", "--help"])
    assert not stop.value.code
    assert "--ground-truth FILE" in capsys.readouterr().out
    assert main(["completion", "bash"]) == 0
    assert "--score-threshold" in capsys.readouterr().out
