"""The recipe of classification runs from training to prediction, and goes on exactly where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ignite_imgtools import handlers
from ignite_imgtools.cli import main
from ignite_imgtools.data.make_data import make_data
from ignite_imgtools.recipes import classification
from tests.recipes.dense_runs import call
from tests.recipes.faster_rcnn_runs import metrics_lines

FLAGS = (
    "--model shufflenet_v2_x0_5 --image-size 40 --crop-scale 0.5 1 --optimizer adamw --lr 5e-3 --batch-size 6 "
    "--mixup 0.2 --cutmix 1 --label-smoothing 0.1 --ema-decay 0.9 --warmup 2 --log-every 1 --device cpu"
).split()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classification")
    return make_data("class_folders", folder / "data", num_train=15, num_val=7, image_size=64)


@pytest.fixture(scope="module")
def stopped(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of two epochs, and one that was stopped within the first and then went on."""
    folder = tmp_path_factory.mktemp("stopped")
    arguments = ["train", "classification", "--data", str(dataset), *FLAGS, "--epochs", "2", "--eval-every", "2"]
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


def test_it_leaves_a_run_folder_and_pictures(stopped: tuple[Path, Path]) -> None:
    straight, _ = stopped
    names = "config.json log.txt checkpoints/best.pt eval/metrics.json eval/per_class.csv plots/loss_and_lr.png "
    names += "plots/metric.png plots/predictions.png plots/misclassified.png plots/confusion_matrix.png "
    names += "plots/class_recall.png"
    for name in names.split():
        assert (straight / name).stat().st_size > 0, name
    assert list((straight / "tensorboard").glob("events.out.tfevents.*"))
    (evaluation,) = [line for line in metrics_lines(straight) if "val/top1" in line]
    assert {"val/top5", "val/mean_recall", "val/precision/star", "val/recall/cross"} <= evaluation.keys()
    saved = handlers.load_checkpoint(straight / "checkpoints" / "best.pt")["checkpoints"]
    assert (saved["metric"], saved["score"]) == ("top1", evaluation["val/top1"])


def test_it_predicts(stopped: tuple[Path, Path], tmp_path: Path) -> None:
    image = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (37, 51, 4), dtype=np.uint8)
    Image.fromarray(pixels, "CMYK").save(image)
    checkpoint = ["--checkpoint", str(stopped[0] / "checkpoints" / "last.pt"), "--output-dir", str(tmp_path / "out")]
    call(1, "predict", "classification", str(image), *checkpoint)
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (entry["file"], entry["width"], entry["height"]) == (str(image), 51, 37)
    assert {found["name"] for found in entry["classes"]} == {"cross", "ellipse", "rectangle", "star", "triangle"}
    scores = [found["score"] for found in entry["classes"]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes_evaluates_as_the_training_did(
    processes: int, stopped: tuple[Path, Path], tmp_path: Path
) -> None:
    args = ["--checkpoint", str(stopped[0] / "checkpoints" / "last.pt"), "--output-dir", str(tmp_path / "run")]
    call(processes, "evaluate", "classification", *args, "--batch-size", "4", "--val-losses")
    expected, evaluated = (
        json.loads((folder / "eval" / "metrics.json").read_text()) for folder in (stopped[0], tmp_path / "run")
    )
    assert evaluated.pop("loss") == evaluated.pop("loss_ce") > 0
    assert evaluated == {name: value for name, value in expected.items() if name not in ("epoch", "iteration")}


def test_other_classes_than_the_models_are_refused(
    stopped: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("star", "cat"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / name / f"{number}.png")
    checkpoint = stopped[0] / "checkpoints" / "last.pt"
    args = ["evaluate", "classification", "--checkpoint", str(checkpoint), "--data", str(tmp_path / "data")]
    assert main([*args, "--output-dir", str(tmp_path / "run")]) == 2
    message = (
        f"{checkpoint}: knows 5 classes (cross, ellipse, rectangle, star, triangle), the data set has 2 (cat, star)"
    )
    assert message in capfd.readouterr().err


def test_the_head_alone_is_trained() -> None:
    config = classification.Config(device="cpu", freeze=True, model="shufflenet_v2_x0_5").filled("classification")
    model = classification.create_model(config, 5)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == ["fc.weight", "fc.bias"]


def test_what_the_tutorials_train_is_the_default_with_data(tmp_path: Path) -> None:
    config = classification.Config(data=tmp_path, device="cpu").filled("classification")
    expected = {"model": "resnet34", "lr": 1e-3, "weight_decay": 5e-3, "final_lr": 0.1, "epochs": 30, "batch_size": 16}
    expected |= {"image_size": 224, "resize": 256, "optimizer": "sgd", "label_smoothing": 0.0, "weights": "none"}
    assert {name: getattr(config, name) for name in expected} == expected
    assert classification.Config(data=tmp_path, device="cpu", image_size=112).filled("classification").resize == 128


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--freeze", "False"], "False"),  # not taken for a true value
        (["--image-size", "0"], "--image-size must be at least 1, got 0"),
        (["--final-lr", "2"], "--final-lr must be in 0..1, got 2"),
        (["--warmup", "-1"], "--warmup must be 0 or more, got -1"),
        (["--std", "1", "0", "1"], "--std must be positive numbers, got 1.0 0.0 1.0"),
        (["--norm", "sync"], "--norm sync works between GPUs only"),
        (["--eval-every", "0"], "--eval-every must be at least 1, got 0"),
        (
            ["--freeze", "--resume", "never"],
            "--freeze trains the head alone, on weights that are random: give --weights",
        ),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "classification", "--device", "cpu", *args]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ignite-imgtools: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "resnet35"], "model must be a classifier of torchvision, such as resnet101"),
        (["--mixup", "-1"], "mixup must be 0 or more, got -1"),
        (["--label-smoothing", "1"], "--label-smoothing must be 0 or more and below 1, got 1"),
        (["--resize", "16"], "resize must be at least size, 40, so that the square lies in the image, got 16"),
        (["--crop-scale", "0.5", "0.1"], "scale must be two numbers above 0, the smaller one first"),
        (["--data-format", "coco"], "--data-format must be one of class_folders, got 'coco'"),
    ],
)
def test_what_only_the_components_can_tell_is_one_line_too(
    flags: list[str], message: str, dataset: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    args = ["train", "classification", "--data", str(dataset), "--output-dir", str(tmp_path / "run"), *FLAGS, *flags]
    assert main(args) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert message in err


def test_a_last_batch_of_one_image_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dataset = make_data("class_folders", tmp_path / "data", num_train=5, num_val=4, image_size=64)
    small = "--model mobilenet_v3_small --image-size 32 --batch-size 4 --epochs 1 --device cpu".split()
    arguments = ["train", "classification", "--data", str(dataset), "--output-dir", str(tmp_path / "run"), *small]
    assert main(arguments) == 2
    assert "has a single image on a process" in capfd.readouterr().err
    assert main([*arguments, "--drop-last"]) == 0
