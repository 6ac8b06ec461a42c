"""``import``: checkpoints of other programs become ones that the recipes evaluate."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ignite_imgtools import data, models
from ignite_imgtools.cli import main
from ignite_imgtools.data.make_data import make_data
from ignite_imgtools.handlers import load_checkpoint

_FLAGS = ("--model", "resnet18", "--image-size", "32")


class _Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["EVIL_MARK"],)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_data("class_folders", folder, num_train=10, num_val=5, image_size=64)
    return folder


@pytest.fixture(autouse=True)
def _quiet_again() -> Iterator[None]:
    """Recipes show their messages on what is the standard output then; later tests have another one."""
    logger, ignite = logging.getLogger("ignite_imgtools"), logging.getLogger("ignite")
    handlers, propagate, levels = list(logger.handlers), logger.propagate, (logger.level, ignite.level)
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(levels[0])
    ignite.setLevel(levels[1])


def _checkpoint(model: nn.Module, **others: Any) -> dict[str, Any]:
    """As the copied scripts and torchvision's references save one."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {
        "model": nn.DataParallel(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(),
        "epoch": 19,
        "args": argparse.Namespace(
            lr=0.02, data_path="/data", aspect_ratio_group_factor=3, amp=False, lr_steps=[7, 12]
        ),
        **others,
    }


def _import(*args: str | Path) -> int:
    return main(["import", "classification", *map(str, args), *_FLAGS])


def test_a_checkpoint_of_a_training_script_is_evaluated_and_predicts(
    shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model, average = models.classifier("resnet18", 5), AveragedModel(models.classifier("resnet18", 5))
    file = tmp_path / "model_19.pth"
    torch.save(_checkpoint(model, model_ema=average.state_dict(), scaler={"scale": 1024.0}), file)

    assert _import(file, "--data", shapes, "--output-dir", tmp_path / "run") == 0
    imported = tmp_path / "run" / "checkpoints" / "imported.pt"
    assert capfd.readouterr().out.splitlines()[-1] == (
        f"{imported}: 122 weights of {file}, 'model' after epoch 19; left behind: optimizer, lr_scheduler, args, "
        "model_ema, scaler, of which a training here could not go on exactly"
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]
    checkpoint = load_checkpoint(imported)
    torch.testing.assert_close(dict(checkpoint["model"]), dict(model.state_dict()), rtol=0, atol=0)
    assert checkpoint["resumables"]["recipe"]["config"]["weights"] == str(file)

    assert main(["evaluate", "classification", "--checkpoint", str(imported)]) == 0
    assert "top1" in capfd.readouterr().out
    picture = next(shapes.rglob("*.jpg"))
    options = ["--device", "cpu", "--output-dir", str(tmp_path / "predictions")]
    assert main(["predict", "classification", str(picture), "--checkpoint", str(imported), *options]) == 0
    assert (tmp_path / "predictions" / "predictions.json").is_file()

    # The moving average of torchvision's references has a wrapper and a counter.
    assert _import(file, "--key", "model_ema", "--data", shapes, "--output-dir", tmp_path / "run") == 0
    averaged = dict(average.module.state_dict())
    torch.testing.assert_close(dict(load_checkpoint(imported)["model"]), averaged, rtol=0, atol=0)


def test_what_is_not_all_of_the_model_is_refused_in_one_line(
    shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVIL_MARK", str(tmp_path / "evil"))
    file, model = tmp_path / "model.pth", models.classifier("resnet18", 7)
    incomplete = dict(models.classifier("resnet18", 5).state_dict())
    del incomplete["layer1.0.conv1.weight"]
    contents: dict[str, Any] = {
        "2 left as they were for another shape (fc.weight, fc.bias): these are not": _checkpoint(model),
        "1 not in the file (layer1.0.conv1.weight): these are not": incomplete,
        "not a file of weights that can be read safely": _checkpoint(model, args=_Evil()),
        "expected a state dict or a checkpoint with 'model', found ['epoch']": {"epoch": 3},
    }
    for message, content in contents.items():
        torch.save(content, file)
        assert _import(file, "--data", shapes, "--output-dir", tmp_path / "run") == 2
        line = capfd.readouterr().err.splitlines()[-1]
        assert message in line
        assert str(file) in line
    assert not (tmp_path / "evil").exists()
    torch.save(_checkpoint(model), file)
    for args, message in {
        (file, "--data", shapes, "--key", "ema"): "no weights under 'ema'; there may be some under: model, optimizer",
        (file, "--data", shapes, "--weights", "default"): "leave out --weights",
        (file,): "import needs --data",
        (tmp_path / "no.pth", "--data", shapes): "no.pth: no such file",
    }.items():
        assert _import(*args, "--output-dir", tmp_path / "run") == 2
        assert message in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_detector_of_torchvision(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_data("coco", tmp_path / "coco", num_train=4, num_val=2, image_size=64)
    flags = ["--backbone", "resnet18", "--norm", "batch", "--min-size", "64", "--max-size", "96"]
    num_classes = len(data.class_names(data.open_detection_data(tmp_path / "coco")[1]))
    torch.manual_seed(0)
    model = models.faster_rcnn(num_classes, backbone="resnet18", norm="batch")
    # Older names, as those of the copied models are.
    checkpoint = _checkpoint(model)
    checkpoint["model"] = {
        name.replace("rpn.head.conv.0.0.", "rpn.head.conv.").replace("inner_blocks.0.0.", "inner_blocks.0."): value
        for name, value in checkpoint["model"].items()
    }
    torch.save(checkpoint, tmp_path / "model.pth")
    folders = ["--data", str(tmp_path / "coco"), "--output-dir", str(tmp_path / "run")]
    args = [str(tmp_path / "model.pth"), *folders, *flags]
    assert main(["import", "faster_rcnn", *args]) == 0, capfd.readouterr().err
    imported = load_checkpoint(tmp_path / "run" / "checkpoints" / "imported.pt")
    torch.testing.assert_close(dict(imported["model"]), dict(model.state_dict()), rtol=0, atol=0)
    assert imported["resumables"]["recipe"]["class_names"][0] == "__background__"
    # It is no run to go on with, and says so.
    resume = ["--resume", str(tmp_path / "run" / "checkpoints" / "imported.pt")]
    assert main(["train", "faster_rcnn", *args[1:], "--epochs", "1", *resume]) == 2
    assert "give it as --weights" in capfd.readouterr().err
