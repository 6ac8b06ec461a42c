"""The recipe of landmarks runs from training to prediction, and goes on exactly where it was stopped."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ignite_imgtools import handlers
from ignite_imgtools.cli import main
from ignite_imgtools.data.make_data import make_data
from ignite_imgtools.recipes import deeppose
from tests.data.landmark_folders import write_csv
from tests.recipes.dense_runs import call
from tests.recipes.faster_rcnn_runs import metrics_lines

FLAGS = (
    "--model shufflenet_v2_x0_5 --image-size 40 --lr 2e-3 --batch-size 6 --ema-decay 0.9 --warmup 2 --log-every 1 "
    "--normaliser inter_pupil --device cpu"
).split()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("landmarks")
    return make_data("wflw", folder / "data", num_train=15, num_val=7, image_size=64)


@pytest.fixture(scope="module")
def stopped(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of two epochs, and one that was stopped within the first and then went on."""
    folder = tmp_path_factory.mktemp("stopped")
    arguments = ["train", "deeppose", "--data", str(dataset), *FLAGS, "--epochs", "2", "--eval-every", "2"]
    call(1, *arguments, "--output-dir", str(folder / "straight"))
    # Stopped by a limit: an evaluation that the other run does not have, so the logs differ and the weights must not.
    call(1, *arguments, "--output-dir", str(folder / "run"), "--max-iterations", "2")
    call(1, *arguments, "--output-dir", str(folder / "run"))
    return folder / "straight", folder / "run"


def test_it_goes_on_exactly_where_it_was_stopped(stopped: tuple[Path, Path]) -> None:
    states = [torch.load(folder / "checkpoints" / "last.pt", weights_only=True) for folder in stopped]
    assert all(torch.equal(states[0]["model"][name], states[1]["model"][name]) for name in states[0]["model"])
    averages = [state["resumables"]["update"]["ema"]["module"] for state in states]
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])
    lines = [{line["iteration"]: line for line in metrics_lines(folder) if "train/loss" in line} for folder in stopped]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 6
    evaluations = [[line for line in metrics_lines(folder) if "train/loss" not in line] for folder in stopped]
    assert evaluations[0][-1] == evaluations[1][-1]


def test_it_leaves_a_run_folder_and_pictures(stopped: tuple[Path, Path], dataset: Path) -> None:
    straight, _ = stopped
    names = "config.json log.txt checkpoints/best.pt eval/metrics.json eval/landmarks.json plots/loss_and_lr.png "
    names += "plots/metric.png plots/predictions.png plots/worst.png plots/cumulative_error.png"
    for name in names.split():
        assert (straight / name).stat().st_size > 0, name
    assert list((straight / "tensorboard").glob("events.out.tfevents.*"))
    (evaluation,) = [line for line in metrics_lines(straight) if "val/NME" in line]
    assert {"val/failure_rate", "val/AUC"} <= evaluation.keys()
    faces = json.loads((straight / "eval" / "landmarks.json").read_text())
    assert faces["normaliser"] == "inter_pupil"
    assert faces["NME"] == evaluation["val/NME"] == pytest.approx(np.mean([row["NME"] for row in faces["faces"]]))
    assert {row["file"] for row in faces["faces"]} == {f"val/{number:06d}.jpg" for number in range(1, 8)}
    saved = handlers.load_checkpoint(straight / "checkpoints" / "best.pt")
    assert saved["resumables"]["recipe"]["details"] == {"num_points": 98}
    saved = saved["checkpoints"]
    assert (saved["metric"], saved["mode"], saved["score"]) == ("NME", "min", evaluation["val/NME"])


def test_it_predicts_whole_images(stopped: tuple[Path, Path], tmp_path: Path) -> None:
    image = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 51, 4), dtype=np.uint8), "CMYK").save(image)
    checkpoint = ["--checkpoint", str(stopped[0] / "checkpoints" / "last.pt"), "--output-dir", str(tmp_path / "out")]
    call(1, "predict", "deeppose", str(image), *checkpoint)
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (entry["file"], entry["width"], entry["height"]) == (str(image), 51, 37)
    (face,) = entry["faces"]
    assert face["box"] == [0, 0, 51, 37]
    assert np.array(face["points"]).shape == (98, 2)
    with (tmp_path / "out" / "points.csv").open() as file:
        header, row = csv.reader(file)
    assert header[:3] == ["image_name", "part_0_x", "part_0_y"]
    assert [float(value) for value in row[1:]] == np.ravel(face["points"]).tolist()
    with Image.open(tmp_path / "out" / "photo.png") as picture:
        assert picture.size == (51, 37)


def test_it_predicts_faces_in_boxes(
    stopped: tuple[Path, Path], dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = stopped[0] / "checkpoints" / "last.pt"
    lines = next(dataset.rglob("*_test.txt")).read_text().splitlines()
    boxes = ["image,x1,y1,x2,y2"] + [",".join([line.split()[-1], *line.split()[196:200]]) for line in lines]
    boxes.append(boxes[-1].rsplit(",", 4)[0] + ",1,2,30,40")  # a second one in the last image
    (tmp_path / "boxes.csv").write_text("\n".join(boxes))
    arguments = ["predict", "deeppose", str(dataset / "WFLW_images" / "val"), "--checkpoint", str(checkpoint)]
    arguments += ["--output-dir", str(tmp_path / "out"), "--boxes", str(tmp_path / "boxes.csv")]
    call(1, *arguments)
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [len(entry["faces"]) for entry in entries] == [1] * 6 + [2]
    # What is written is what the evaluation has measured.
    faces = json.loads((stopped[0] / "eval" / "landmarks.json").read_text())["faces"]
    measured = {row["file"]: row["NME"] for row in faces}
    for entry, line in zip(entries, lines, strict=True):
        truth = np.array(line.split()[:196], dtype=np.float64).reshape(98, 2)
        distances = np.linalg.norm(np.array(entry["faces"][0]["points"]) - truth, axis=1)
        error = distances.mean() / np.linalg.norm(truth[96] - truth[97])
        assert error == pytest.approx(measured[f"val/{Path(entry['file']).name}"], rel=1e-4)
    (tmp_path / "boxes.csv").write_text("a.jpg,1,2,3\n")
    assert main(arguments) == 2
    assert "boxes.csv: line 1: box: expected four finite numbers, got [1.0, 2.0, 3.0]" in capfd.readouterr().err


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_evaluates_as_the_training_did(
    processes: int, stopped: tuple[Path, Path], tmp_path: Path
) -> None:
    args = ["--checkpoint", str(stopped[0] / "checkpoints" / "last.pt"), "--output-dir", str(tmp_path / "run")]
    call(processes, "evaluate", "deeppose", *args, "--batch-size", "4", "--val-losses")
    expected, evaluated = (
        json.loads((folder / "eval" / "metrics.json").read_text()) for folder in (stopped[0], tmp_path / "run")
    )
    assert evaluated.pop("loss") == evaluated.pop("loss_wing") > 0
    assert evaluated == {name: value for name, value in expected.items() if name not in ("epoch", "iteration")}
    assert (tmp_path / "run" / "eval" / "landmarks.json").read_text() == (
        stopped[0] / "eval" / "landmarks.json"
    ).read_text()


def test_another_number_of_points_is_refused(
    stopped: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "faces.csv", ["a.png", "b.png"])
    checkpoint = stopped[0] / "checkpoints" / "last.pt"
    args = ["evaluate", "deeppose", "--checkpoint", str(checkpoint), "--data", str(tmp_path)]
    assert main([*args, "--output-dir", str(tmp_path / "run")]) == 2
    assert f"{checkpoint}: knows 98 points of a face, the data set has 68" in capfd.readouterr().err


def test_other_points_than_of_faces_are_trained_too(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_csv(tmp_path / "data" / "points.csv", [f"{number}.png" for number in range(6)], count=4)
    run = tmp_path / "run"
    arguments = ["--data", str(tmp_path / "data"), "--output-dir", str(run), "--epochs", "1", "--loss", "smooth_l1"]
    flags = [flag for flag in FLAGS if flag not in ("--normaliser", "inter_pupil")]
    assert main(["train", "deeppose", *flags, *arguments]) == 0
    assert json.loads((run / "eval" / "landmarks.json").read_text())["normaliser"] == "box"


def test_what_the_tutorials_train_is_the_default_with_data(tmp_path: Path) -> None:
    config = deeppose.Config(data=tmp_path, device="cpu").filled("deeppose")
    expected = {"model": "resnet50", "lr": 5e-4, "epochs": 210, "batch_size": 32, "image_size": 256, "loss": "wing"}
    expected |= {"lr_steps": (170, 200), "wing_width": 10, "wing_curvature": 2, "weight_decay": 0, "weights": "none"}
    assert {name: getattr(config, name) for name in expected} == expected
    assert deeppose.Config(data=tmp_path, device="cpu", epochs=21).filled("deeppose").lr_steps == (17, 20)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--eval-flip", "False"], "False"),  # not taken for a true value
        (["--image-size", "0"], "--image-size must be at least 1, got 0"),
        (["--hflip", "2"], "--hflip must be a probability from 0 to 1, got 2"),
        (["--warmup", "-1"], "--warmup must be 0 or more, got -1"),
        (["--weight-decay", "-1"], "--weight-decay must be 0 or more, got -1"),
        (["--failure", "0"], "--failure must be above 0, got 0"),
        (["--std", "1", "0", "1"], "--std must be positive numbers, got 1.0 0.0 1.0"),
        (["--norm", "sync"], "--norm sync works between GPUs only"),
        (["--eval-every", "0"], "--eval-every must be at least 1, got 0"),
        (["--loss", "wings"], "wings"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "deeppose", "--device", "cpu", *args]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ignite-imgtools: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "resnet35"], "model must be a classifier of torchvision, such as resnet101"),
        (["--wing-curvature", "0"], "width and curvature must be above 0, got 10.0 and 0.0"),
        (["--scale", "1"], "scale must be at least 0 and below 1"),
        (["--shift", "1"], "shift must be at least 0 and below 1"),
        (["--padding", "0"], "size and padding must be positive"),
        (["--lr-steps", "3", "1"], "milestones must rise"),
        (["--data-format", "coco"], "--data-format must be one of wflw, pts, points_csv, got 'coco'"),
        (["--hflip", "0.5"], "--hflip: it is not known which of 4 points change places; give 0"),
        (
            ["--eval-flip", "--normaliser", "box"],
            "--eval-flip: it is not known which of 4 points change places; leave it out",
        ),
        ([], "--normaliser inter_pupil: it is not known where the eyes of 4 points are"),
    ],
)
def test_what_only_the_components_can_tell_is_one_line_too(
    flags: list[str], message: str, dataset: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if "4 points" in message:
        dataset = tmp_path / "data"
        dataset.mkdir()
        write_csv(dataset / "points.csv", [f"{number}.png" for number in range(6)], count=4)
    args = ["train", "deeppose", "--data", str(dataset), "--output-dir", str(tmp_path / "run"), *FLAGS, *flags]
    assert main(args) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert message in err
