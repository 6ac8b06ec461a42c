"""The recipe as a user runs it, on a network so small that the start of the process takes longer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from ignite_imgtools import data, engines, handlers, losses, metrics, models
from ignite_imgtools.cli import main
from ignite_imgtools.recipes import yolov3_spp
from tests.engines.reads import CountReads
from tests.recipes.faster_rcnn_runs import assert_same_run, metrics_lines, run

SMALL = (
    "--width 0.03 --depth 0.1 --max-size 64 --multi-scale 1.5 --optimizer adamw --lr 2e-3 --weight-decay 0.01 "
    "--warmup 5 --batch-size 4 --epochs 2 --log-every 1 --device cpu --min-score 0.001"
).split()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.make_data("yolo", tmp_path_factory.mktemp("data") / "yolo", num_train=22, num_val=7, image_size=64)


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    affine = "--degrees 10 --translate 0.1 --scale 0.3 --shear 2 --box-loss ciou --ema-decay 0.9 --val-losses".split()
    printed = run("train", "yolov3_spp", "--data", str(dataset), "--output-dir", str(folder), *affine, *SMALL)
    assert "anchors (kmeans): mean IoU 0." in printed
    return folder


def test_the_run_folder_is_complete(trained: Path, dataset: Path) -> None:
    for name in "config.json checkpoints/best.pt eval/per_class.csv eval/metrics.json plots/predictions.png".split():
        assert (trained / name).stat().st_size > 0, name
    lines = metrics_lines(trained)
    evaluations = [line for line in lines if "val/bbox/AP" in line]
    assert [line["epoch"] for line in evaluations] == [1, 2]
    assert {"val/loss", "val/loss_box", "val/loss_objectness", "val/loss_class"} <= evaluations[0].keys()
    assert {"train/loss_box", "train/loss_objectness", "train/loss_class"} <= lines[0].keys()
    state = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)["model"]
    train_set, _ = data.open_detection_data(dataset)
    expected = data.kmeans_anchors(data.object_sizes(train_set, 64))
    assert sorted(state["anchors"].view(-1, 2).tolist()) == sorted(torch.tensor(expected).float().tolist())


def test_an_evaluation_is_the_same_however_it_is_run(trained: Path, tmp_path: Path) -> None:
    checkpoint = str(trained / "checkpoints" / "best.pt")
    texts = []
    for batch_size, processes in ((4, 1), (3, 2)):
        folder = tmp_path / f"{batch_size}"
        args = ["evaluate", "yolov3_spp", "--checkpoint", checkpoint, "--output-dir", str(folder)]
        args += ["--batch-size", str(batch_size), "--nproc-per-node", str(processes)]
        if processes == 1:
            assert main(args) == 0
        else:
            run(*args)
        texts.append((folder / "eval" / "metrics.json").read_text())
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["bbox/AR100"] >= 0


def test_predictions(trained: Path, dataset: Path, tmp_path: Path) -> None:
    image = next((dataset / "images" / "val").iterdir())
    args = ["--checkpoint", str(trained / "checkpoints" / "last.pt"), "--output-dir", str(tmp_path)]
    assert main(["predict", "yolov3_spp", str(image), *args, "--score-threshold", "0.001", "--device", "cpu"]) == 0
    (entry,) = json.loads((tmp_path / "predictions.json").read_text())
    assert entry["file"] == str(image)
    for detection in entry["detections"]:
        x1, y1, x2, y2 = detection["box"]
        assert 0 <= x1 < x2 <= entry["width"]
        assert 0 <= y1 < y2 <= entry["height"]


class _Crash(Exception):
    pass


def _config(dataset: Path, folder: Path, workers: int) -> yolov3_spp.Config:
    return yolov3_spp.Config(
        data=dataset,
        output_dir=folder,
        width=0.03,
        depth=0.1,
        max_size=64,
        multi_scale=1.5,
        degrees=10,
        scale=0.3,
        optimizer="adamw",
        warmup=5,
        batch_size=4,
        epochs=2,
        log_every=1,
        checkpoint_every=1,
        accumulate=2,
        ema_decay=0.9,
        num_workers=workers,
        device="cpu",
    ).filled("yolov3_spp")


@pytest.fixture(scope="module")
def straight(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption. Workers make no difference, so they are not asked for."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    yolov3_spp._recipe._train(0, _config(dataset, folder, 0))
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_broke_off_goes_on_exactly(workers: int, dataset: Path, straight: Path, tmp_path: Path) -> None:
    """Mosaics, sizes of images, moving average and accumulated gradients included."""
    config = _config(dataset, tmp_path / "run", workers)

    def attach(config: object, trainer: Engine, model: nn.Module) -> None:
        yolov3_spp._attach_sizes(config, trainer, model)
        trainer.add_event_handler(Events.ITERATION_STARTED(once=10), break_off)

    def break_off(trainer: Engine) -> None:
        raise _Crash

    with pytest.raises(_Crash):
        dataclasses.replace(yolov3_spp._recipe, attach=attach)._train(0, config)
    assert 6 < metrics_lines(config.output_dir)[-1]["iteration"] < 12  # in the second of two epochs
    yolov3_spp._recipe._train(0, config)
    assert_same_run(config.output_dir, straight)


def test_four_images_are_learned_by_heart(tmp_path: Path) -> None:
    folder = data.make_data("yolo", tmp_path / "data", num_train=4, num_val=0, image_size=96)
    dataset = data.YoloDetection(folder, transforms=data.transforms.detection_eval())
    torch.manual_seed(0)
    anchors = data.kmeans_anchors(data.object_sizes(dataset, 96))
    model = models.yolov3_spp(6, size=96, width=0.125, depth=0.1, anchors=anchors, loss_fn=losses.YoloLoss())
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = handlers.warmup_cosine(optimizer, 100, warmup_steps=10, end_factor=0.05)
    trainer = engines.create_detection_trainer(model, engines.GradientUpdate(optimizer, scheduler=schedule))
    trainer.run(data.create_loader(dataset, 4, shuffle=True), max_epochs=100)
    evaluator = engines.create_detection_evaluator(model, {"coco": metrics.CocoMetric(data.coco_index(dataset))})
    evaluator.run(data.create_loader(dataset, 4))
    assert evaluator.state.metrics["bbox/AP50"] > 0.9


def test_a_training_step_reads_nothing_from_the_device(dataset: Path) -> None:
    train_set = data.MosaicDataset(data.YoloDetection(dataset), 64)
    model = models.yolov3_spp(6, size=64, width=0.03, depth=0.1, loss_fn=losses.YoloLoss())
    update = engines.GradientUpdate(torch.optim.SGD(model.parameters(), 0.01), clip_norm=10.0)
    trainer = engines.create_detection_trainer(model, update)
    engines.attach_multi_scale(trainer, model, (64, 96))
    batches = list(data.create_loader(train_set, 4, shuffle=True))
    with CountReads() as counter:
        trainer.run(batches, max_epochs=1)
    assert not counter.reads


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-size", "100"], "--max-size must be a multiple of 32 from 64 on, got 100"),
        (["--multi-scale", "0.5"], "--multi-scale must be from 1 to 4, got 0.5"),
        (["--degrees", "-3"], "degrees must be at least 0 and below 180.1, got -3"),
        (["--hsv", "0.9", "0", "0"], "hue must be from 0 to 0.5, got 0.9"),
        (["--weights", "default"], "there are no default ones for YOLOv3-SPP"),
        (["--box-gain", "-1"], "--box-gain must be 0 or a positive number"),
    ],
)
def test_bad_flags(
    flags: list[str], message: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--data", str(dataset), "--output-dir", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["train", "yolov3_spp", *folder, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
