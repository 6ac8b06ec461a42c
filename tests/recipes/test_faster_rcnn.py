"""The recipe as a user runs it: train, evaluate, predict, with its files; the same numbers at any world size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ignite_imgtools import data, engines, handlers, metrics
from ignite_imgtools.data.make_data import make_data
from ignite_imgtools.recipes import faster_rcnn
from ignite_imgtools.recipes.records import RecipeRecord
from tests.recipes.faster_rcnn_runs import SMALL, metrics_lines, run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data("coco", tmp_path_factory.mktemp("data") / "coco", num_train=160, num_val=21, image_size=80)


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    args = ["--data", str(dataset), "--output-dir", str(folder), "--epochs", "2", "--log-every", "10", "--val-losses"]
    printed = run("train", "faster_rcnn", *args, *SMALL)
    assert "Epoch: [1]  [10/40]" in printed
    assert "val/bbox/AP50: " in printed
    return folder


def test_the_run_folder_is_complete(trained: Path) -> None:
    for name in (
        "config.json log.txt metrics.jsonl checkpoints/last.pt checkpoints/best.pt eval/metrics.json "
        "eval/coco_results_bbox.json eval/per_class.csv plots/loss_and_lr.png plots/metric.png plots/pr_curve.png "
        "plots/predictions.png plots/confusion_matrix.png"
    ).split():
        assert (trained / name).stat().st_size > 0, name
    assert list((trained / "tensorboard").glob("events.out.tfevents.*"))
    for plot in (trained / "plots").iterdir():
        with Image.open(plot) as picture:
            picture.verify()
    lines = metrics_lines(trained)
    evaluations = [line for line in lines if "val/bbox/AP" in line]
    assert [line["epoch"] for line in evaluations] == [1, 2]
    assert {"val/loss", "val/loss_classifier", "val/bbox/AR100", "val/bbox/AP/star"} <= evaluations[0].keys()
    assert {"train/loss", "train/loss_rpn_box_reg", "lr"} <= lines[0].keys()


def test_a_finished_run_is_left_as_it_is(trained: Path, dataset: Path) -> None:
    before = (trained / "metrics.jsonl").read_bytes()
    args = ["--data", str(dataset), "--output-dir", str(trained), "--epochs", "2", "--log-every", "10", "--val-losses"]
    run("train", "faster_rcnn", *args, *SMALL)
    assert (trained / "metrics.jsonl").read_bytes() == before


@pytest.fixture(scope="module")
def reference(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Evaluated on one process with batches of 8."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    checkpoint = str(trained / "checkpoints" / "best.pt")
    printed = run(
        "evaluate", "faster_rcnn", "--checkpoint", checkpoint, "--output-dir", str(folder), "--batch-size", "8"
    )
    assert "bbox/AP50" in printed
    assert json.loads((folder / "eval" / "metrics.json").read_text())["bbox/AR100"] > 0
    return (folder / "eval" / "metrics.json").read_text()


@pytest.mark.parametrize(("processes", "batch_size"), [(1, 1), (2, 3), (3, 8)])
def test_an_evaluation_is_the_same_on_any_number_of_processes(
    processes: int, batch_size: int, trained: Path, reference: str, tmp_path: Path
) -> None:
    args = ["--checkpoint", str(trained / "checkpoints" / "best.pt"), "--output-dir", str(tmp_path / "run")]
    args += ["--batch-size", str(batch_size), "--nproc-per-node", str(processes)]
    run("evaluate", "faster_rcnn", *args)
    assert (tmp_path / "run" / "eval" / "metrics.json").read_text() == reference


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_an_evaluation_is_the_same_in_any_order(batch_size: int, trained: Path, reference: str) -> None:
    checkpoint = trained / "checkpoints" / "best.pt"
    config = RecipeRecord.from_checkpoint(checkpoint, "faster_rcnn", faster_rcnn.Config).config
    _, val_set = data.open_detection_data(config.data, val_transforms=data.transforms.detection_eval())
    model = faster_rcnn.create_model(config, len(data.class_names(val_set)))
    handlers.load_model(checkpoint, model)
    evaluator = engines.create_detection_evaluator(model, {"coco": metrics.CocoMetric(data.coco_index(val_set))})
    order = torch.randperm(len(val_set), generator=torch.Generator().manual_seed(batch_size)).tolist()
    evaluator.run(DataLoader(val_set, batch_size, sampler=order, collate_fn=data.collate_detection))
    expected = json.loads(reference)
    assert len(val_set) == 21
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"):
        assert evaluator.state.metrics[f"bbox/{name}"] == expected[f"bbox/{name}"]


def test_predictions_are_drawn_and_written(trained: Path, dataset: Path, tmp_path: Path) -> None:
    images = sorted((dataset / "val").iterdir())[:2]
    args = ["--checkpoint", str(trained / "checkpoints" / "best.pt"), "--output-dir", str(tmp_path / "out")]
    run("predict", "faster_rcnn", *map(str, images), *args, "--score-threshold", "0.05")
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["file"] for entry in entries] == list(map(str, images))
    for entry, image in zip(entries, images, strict=True):
        with Image.open(image) as picture:
            assert (entry["width"], entry["height"]) == picture.size
        assert all(detection["score"] >= 0.05 for detection in entry["detections"])
        assert (tmp_path / "out" / f"{image.stem}.png").is_file()


def test_another_configuration_does_not_get_the_folder(
    trained: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ignite_imgtools.cli import main

    args = ["--data", str(dataset), "--output-dir", str(trained), "--epochs", "2", "--log-every", "10", "--seed", "7"]
    assert main(["train", "faster_rcnn", *args, *SMALL]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "seed" in error
