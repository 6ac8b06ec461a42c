"""A recipe of segmentation as a user runs it: train, evaluate, predict, with its files; the same numbers anywhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from ignite_imgtools import data, engines, handlers, metrics
from ignite_imgtools.cli import main
from ignite_imgtools.recipes import unet
from ignite_imgtools.recipes.records import RecipeRecord
from tests.recipes.dense_runs import FLAGS, call, create_data
from tests.recipes.faster_rcnn_runs import metrics_lines


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_data("unet", tmp_path_factory.mktemp("unet"), num_train=32, num_val=9)


def _arguments(dataset: Path, folder: Path) -> list[str]:
    more = "--epochs 3 --log-every 4 --val-losses --class-weights 1 2".split()
    return ["train", "unet", "--data", str(dataset), "--output-dir", str(folder), *more, *FLAGS["unet"]]


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    call(1, *_arguments(dataset, folder))
    log = (folder / "log.txt").read_text()
    assert "Epoch: [1]  [4/8]" in log
    assert "val/mean_IoU: " in log
    return folder


def test_the_run_folder_is_complete(trained: Path) -> None:
    for name in (
        "config.json log.txt metrics.jsonl checkpoints/last.pt checkpoints/best.pt eval/metrics.json "
        "eval/per_class.csv plots/loss_and_lr.png plots/metric.png plots/predictions.png plots/confusion_matrix.png "
        "plots/class_iou.png"
    ).split():
        assert (trained / name).stat().st_size > 0, name
    for plot in (trained / "plots").iterdir():
        with Image.open(plot) as picture:
            picture.verify()
    lines = metrics_lines(trained)
    evaluations = [line for line in lines if "val/mean_IoU" in line]
    assert [line["epoch"] for line in evaluations] == [1, 2, 3]
    assert {"val/loss", "val/loss_dice", "val/dice", "val/IoU/vessel", "val/pixel_accuracy"} <= evaluations[0].keys()
    assert {"train/loss", "train/loss_ce", "train/loss_dice", "lr"} <= lines[0].keys()
    assert lines[-2]["train/loss"] < lines[0]["train/loss"]
    written = json.loads((trained / "eval" / "metrics.json").read_text())
    assert written["dice"] == evaluations[-1]["val/dice"]
    with (trained / "eval" / "per_class.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["background", "vessel"]


def test_tensorboard_has_numbers_and_pictures(trained: Path) -> None:
    events = EventAccumulator(str(trained / "tensorboard")).Reload()
    assert {"train/loss", "train/loss_dice", "train/lr/group_0", "train/time", "train/data_time", "val/dice"} <= set(
        events.Tags()["scalars"]
    )
    assert {"val/predictions", "val/confusion_matrix", "val/class_iou"} <= set(events.Tags()["images"])


def test_the_best_checkpoint_is_that_of_the_best_dice(trained: Path) -> None:
    evaluations = [line for line in metrics_lines(trained) if "val/dice" in line]
    best = max(evaluations, key=lambda line: line["val/dice"])
    saved = handlers.load_checkpoint(trained / "checkpoints" / "best.pt")
    assert saved["trainer"]["iteration"] == best["iteration"]


def test_a_finished_run_is_left_as_it_is(trained: Path, dataset: Path) -> None:
    before = (trained / "metrics.jsonl").read_bytes()
    call(1, *_arguments(dataset, trained))
    assert (trained / "metrics.jsonl").read_bytes() == before


_EVALUATION = "--eval-window 40 --eval-flip --batch-size".split()


@pytest.fixture(scope="module")
def reference(trained: Path) -> str:
    """Evaluated on one process with batches of 8, in windows and mirrored."""
    folder = trained.parent / "reference"
    checkpoint = ["--checkpoint", str(trained / "checkpoints" / "best.pt")]
    call(1, "evaluate", "unet", *checkpoint, "--output-dir", str(folder), *_EVALUATION, "8")
    return (folder / "eval" / "metrics.json").read_text()


@pytest.mark.parametrize(("processes", "batch_size"), [(2, 3), (3, 8)])
def test_an_evaluation_is_the_same_on_any_number_of_processes(
    processes: int, batch_size: int, trained: Path, reference: str, tmp_path: Path
) -> None:
    args = ["--checkpoint", str(trained / "checkpoints" / "best.pt"), "--output-dir", str(tmp_path / "run")]
    call(processes, "evaluate", "unet", *args, *_EVALUATION, str(batch_size))
    assert (tmp_path / "run" / "eval" / "metrics.json").read_text() == reference
    pictures = [folder / "plots" / "predictions.png" for folder in (tmp_path / "run", trained.parent / "reference")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_an_evaluation_is_the_same_in_any_order(batch_size: int, trained: Path, reference: str) -> None:
    checkpoint = trained / "checkpoints" / "best.pt"
    config = RecipeRecord.from_checkpoint(checkpoint, "unet", unet.Config).config
    _, val_set = data.open_segmentation_data(config.data, val_transforms=data.transforms.segmentation_eval())
    model = unet.create_model(config, 2)
    handlers.load_model(checkpoint, model)
    attached = {"all": metrics.SegmentationMetric(2), "dice": metrics.DiceMetric(2)}
    evaluator = engines.create_segmentation_evaluator(
        model, attached, window=40, flip=True, mean=config.mean, std=config.std
    )
    order = torch.randperm(len(val_set), generator=torch.Generator().manual_seed(batch_size)).tolist()
    evaluator.run(DataLoader(val_set, batch_size, sampler=order, collate_fn=data.collate_dense_lists))
    expected = json.loads(reference)
    for name in ("pixel_accuracy", "mean_IoU", "dice_foreground", "dice"):
        assert evaluator.state.metrics[name] == pytest.approx(expected[name], abs=1e-3), name


def test_the_resized_measure_is_another_number(trained: Path, reference: str, tmp_path: Path) -> None:
    args = ["--checkpoint", str(trained / "checkpoints" / "best.pt"), "--output-dir", str(tmp_path / "run")]
    call(1, "evaluate", "unet", *args, "--eval-size", "32", "--resized-measure")
    resized = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert resized["mean_IoU"] != json.loads(reference)["mean_IoU"]


def test_predictions_are_masks_and_overlays_in_the_images_size(trained: Path, dataset: Path, tmp_path: Path) -> None:
    folder = dataset / "DRIVE" / "test" / "images"
    images = sorted(folder.iterdir())
    args = ["--checkpoint", str(trained / "checkpoints" / "best.pt"), "--output-dir", str(tmp_path / "out")]
    call(1, "predict", "unet", str(folder), str(images[0]), *args)
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["file"] for entry in entries] == list(map(str, [*images, images[0]]))
    names = [*(f"{image.stem}.png" for image in images), f"{images[0].stem}-2.png"]
    assert [entry["mask"] for entry in entries] == [f"masks/{name}" for name in names]
    metric = metrics.SegmentationMetric(2)
    _, val_set = data.open_segmentation_data(dataset, val_transforms=data.transforms.segmentation_eval())
    for index, (entry, image) in enumerate(zip(entries, images, strict=False)):
        with (
            Image.open(tmp_path / "out" / entry["mask"]) as mask,
            Image.open(tmp_path / "out" / entry["overlay"]) as overlay,
            Image.open(image) as picture,
        ):
            assert mask.mode == "P"
            assert mask.size == picture.size == (entry["width"], entry["height"])
            assert overlay.width == mask.width
            assert overlay.height > mask.height  # the legend
            labels = np.array(mask)
        assert entry["classes"].get("vessel", 0) == pytest.approx((labels == 1).mean())
        metric.update(([torch.from_numpy(labels).long()], [val_set[index][1]]))
    # The masks are what was evaluated.
    best = max((line for line in metrics_lines(trained) if "val/dice" in line), key=lambda line: line["val/dice"])
    assert metric.compute()["mean_IoU"] == pytest.approx(best["val/mean_IoU"], abs=1e-3)


@pytest.mark.parametrize("flags", [["--seed", "7"], ["--eval-flip"]])
def test_another_configuration_does_not_get_the_folder(
    flags: list[str], trained: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*_arguments(dataset, trained), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert flags[0].strip("-") in error.replace("_", "-")
