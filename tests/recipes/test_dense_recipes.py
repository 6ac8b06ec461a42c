"""Every dense recipe runs from training to prediction, goes on exactly where it was stopped, and says what is wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ignite_imgtools import handlers, losses
from ignite_imgtools.cli import main
from ignite_imgtools.recipes import RECIPES, fcn, load_recipe, unet
from tests.recipes.dense_runs import FLAGS, call, create_data
from tests.recipes.faster_rcnn_runs import metrics_lines

DENSE = [name for name in RECIPES if name in FLAGS]


@pytest.fixture(scope="module", params=DENSE)
def stopped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path, Path]:
    """A recipe, its data, a run of two epochs, and one that was stopped within the first and then went on."""
    recipe = request.param
    folder = tmp_path_factory.mktemp(recipe)
    dataset = create_data(recipe, folder, num_train=8, num_val=2)
    arguments = ["train", recipe, "--data", str(dataset), *FLAGS[recipe]]
    # Stopped by a limit: an evaluation that the other run does not have, so the logs differ and the weights must not.
    common = ["--epochs", "2", "--eval-every", "2", "--log-every", "1"]
    call(1, *arguments, *common, "--output-dir", str(folder / "straight"))
    call(1, *arguments, *common, "--output-dir", str(folder / "run"), "--max-iterations", "1")
    call(1, *arguments, *common, "--output-dir", str(folder / "run"))
    return recipe, dataset, folder / "straight", folder / "run"


def test_a_recipe_goes_on_exactly_where_it_was_stopped(stopped: tuple[str, Path, Path, Path]) -> None:
    _, _, straight, run = stopped
    states = [torch.load(folder / "checkpoints" / "last.pt", weights_only=True) for folder in (straight, run)]
    assert all(torch.equal(states[0]["model"][name], states[1]["model"][name]) for name in states[0]["model"])
    lines = [
        {line["iteration"]: line for line in metrics_lines(folder) if "train/loss" in line} for folder in stopped[2:]
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 4
    evaluations = [[line for line in metrics_lines(folder) if "train/loss" not in line] for folder in stopped[2:]]
    assert evaluations[0][-1] == evaluations[1][-1]


def test_a_recipe_leaves_a_run_folder_and_pictures(stopped: tuple[str, Path, Path, Path]) -> None:
    recipe, _, straight, _ = stopped
    names = "config.json log.txt checkpoints/best.pt eval/metrics.json plots/loss_and_lr.png plots/metric.png "
    names += "plots/predictions.png "
    names += "plots/pr_curve.png" if recipe == "u2net" else "plots/confusion_matrix.png plots/class_iou.png"
    for name in names.split():
        assert (straight / name).stat().st_size > 0, name
    assert list((straight / "tensorboard").glob("events.out.tfevents.*"))
    metric = {"unet": "val/dice", "u2net": "val/max_F"}.get(recipe, "val/mean_IoU")
    (evaluation,) = [line for line in metrics_lines(straight) if metric in line]
    saved = handlers.load_checkpoint(straight / "checkpoints" / "best.pt")["checkpoints"]
    assert (saved["metric"], saved["score"]) == (metric.removeprefix("val/"), evaluation[metric])


def test_a_recipe_predicts(stopped: tuple[str, Path, Path, Path], tmp_path: Path) -> None:
    recipe, _, straight, _ = stopped
    image = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 51, 3), dtype=np.uint8)).save(image)
    checkpoint = ["--checkpoint", str(straight / "checkpoints" / "last.pt"), "--output-dir", str(tmp_path / "out")]
    call(1, "predict", recipe, str(image), *checkpoint)
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (entry["file"], entry["width"], entry["height"]) == (str(image), 51, 37)
    kinds = {"map": "L", "cutout": "RGBA"} if recipe == "u2net" else {"mask": "P"}
    for kind, mode in kinds.items():
        with Image.open(tmp_path / "out" / entry[kind]) as picture:
            assert (picture.mode, picture.size) == (mode, (51, 37)), kind


def test_two_processes_evaluate_as_the_training_did(stopped: tuple[str, Path, Path, Path], tmp_path: Path) -> None:
    recipe, _, straight, _ = stopped
    args = ["--checkpoint", str(straight / "checkpoints" / "last.pt"), "--output-dir", str(tmp_path / "run")]
    call(2, "evaluate", recipe, *args, "--batch-size", "3")
    expected, evaluated = (
        json.loads((folder / "eval" / "metrics.json").read_text()) for folder in (straight, tmp_path / "run")
    )
    assert evaluated == {name: value for name, value in expected.items() if name not in ("epoch", "iteration")}


def test_the_auxiliary_head_learns_ten_times_as_fast() -> None:
    config = fcn.Config(device="cpu").filled("fcn")
    model = fcn.create_model(config, 3)
    recipe = fcn._recipe
    optimizer = recipe._create_optimizer(config, model)
    assert [group["lr"] for group in optimizer.param_groups] == [config.lr, 10 * config.lr]
    held = {id(parameter) for parameter in optimizer.param_groups[1]["params"]}
    assert held == {id(parameter) for parameter in model.aux_classifier.parameters()}
    without = dataclasses.replace(config, aux=False, norm_decay=False, optimizer="sgd")
    groups = recipe._create_optimizer(without, fcn.create_model(without, 3)).param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [
        (config.lr, config.weight_decay),
        (config.lr, 0),
    ]


def test_vessels_have_twice_the_weight_of_the_rest() -> None:
    config = unet.Config(device="cpu").filled("unet")
    loss = unet._recipe._create_loss(config, 2)
    assert isinstance(loss, losses.SegmentationLoss)
    assert loss.class_weights.tolist() == [1, 2]
    assert loss.dice
    assert unet._recipe._create_loss(config, 3).class_weights is None
    other = dataclasses.replace(config, class_weights=(1.0, 5.0))
    assert unet._recipe._create_loss(other, 2).class_weights.tolist() == [1, 5]


def test_an_encoder_has_channels_of_its_own() -> None:
    config = unet.Config(device="cpu", encoder="mobilenet_v3_large").filled("unet")
    assert config.base_channels is None
    assert config.filled("unet") == config  # as an evaluation has it


@pytest.mark.parametrize("recipe", DENSE)
def test_what_the_tutorials_train_is_the_default_with_data(recipe: str, tmp_path: Path) -> None:
    config = load_recipe(recipe).Config(data=tmp_path, device="cpu")
    filled = config.filled(recipe)
    expected = {
        "unet": {"lr": 0.01, "epochs": 200, "batch_size": 4, "crop_size": 480, "dice": True, "vflip": 0.5},
        "u2net": {"lr": 1e-3, "epochs": 360, "batch_size": 16, "crop_size": 288, "eval_every": 10, "norm_decay": False},
    }.get(recipe, {"lr": 1e-4, "epochs": 20, "batch_size": 4, "crop_size": 480, "eval_size": 520, "dice": False})
    assert {name: getattr(filled, name) for name in expected} == expected
    assert filled.weights == "none"  # no file has to be at hand
    assert None not in {getattr(filled, name) for name in ("optimizer", "mean", "eval_size") if hasattr(filled, name)}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fcn", "--aux", "False"], "False"),  # not taken for a true value
        (["unet", "--norm-decay", "false"], "false"),
        (["unet", "--crop-size", "0"], "--crop-size must be at least 1, got 0"),
        (["unet", "--eval-overlap", "1"], "--eval-overlap must be 0 or more and below 1, got 1"),
        (["unet", "--eval-size", "0", "--resized-measure"], "--resized-measure measures at --eval-size, which is 0"),
        (["lraspp", "--norm", "sync"], "--norm sync works between GPUs only"),
        (["lraspp", "--norm-momentum", "0"], "--norm-momentum must be above 0 and at most 1, got 0"),
        (["lraspp", "--std", "1", "0", "1"], "--std must be positive numbers, got 1.0 0.0 1.0"),
        (["unet", "--encoder", "vgg16", "--base-channels", "8"], "--base-channels is for U-Net's own encoder"),
        (["u2net", "--val-data", "nowhere"], "--val-data must be a folder; there is no folder nowhere"),
        (["u2net", "--eval-every", "0"], "--eval-every must be at least 1, got 0"),
        (["fcn", "--start_epoch", "3"], "--start_epoch"),
        (["fcn", "--eval-window", "-4"], "--eval-window must be at least 1, got -4"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", args[0], "--device", "cpu", *args[1:]]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ignite-imgtools: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        ("fcn", ["--backbone", "resnet18"], "backbone must be one of resnet50, resnet101, mobilenet_v3_large, got"),
        ("lraspp", ["--class-weights", "1", "2"], "--class-weights must be one for each of 6 classes, got 2"),
        ("unet", ["--base-size", "80", "40"], "--base-size must be two lengths from 1 on, the smaller one first"),
        ("unet", ["--hflip", "2"], "hflip must be a probability from 0 to 1, got 2"),
        ("u2net", ["--weights", "default"], "none can be downloaded for U2-Net"),
    ],
)
def test_what_only_the_components_can_tell_is_one_line_too(
    recipe: str, flags: list[str], message: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    dataset = create_data(recipe, tmp_path, num_train=2, num_val=1)
    args = ["train", recipe, "--data", str(dataset), "--output-dir", str(tmp_path / "run"), *FLAGS[recipe], *flags]
    assert main(args) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert message in err
