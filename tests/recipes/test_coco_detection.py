"""The flags of ``coco_detection``: which detector, on which backbone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from ignite_imgtools import data
from ignite_imgtools.recipes import coco_detection
from ignite_imgtools.recipes.config import ConfigError


def _filled(**options: Any) -> Any:
    return coco_detection.Config(device="cpu", **options).filled("coco_detection")


@pytest.mark.parametrize(
    ("options", "kind", "anchors"),
    [
        ({}, "FasterRCNN", 6),
        ({"fpn": False, "anchor_sizes": (16, 32)}, "FasterRCNN", 6),
        ({"model": "retinanet"}, "_RetinaNet", 9),
        ({"model": "fcos"}, "_FCOS", 1),
        ({"model": "ssdlite"}, "SSD", None),
    ],
)
def test_models(options: dict[str, Any], kind: str, anchors: int | None) -> None:
    config = _filled(**options)
    model: Any = coco_detection.create_model(config, 4)
    assert type(model).__name__ == kind
    if anchors is not None:
        generator = model.rpn.anchor_generator if kind == "FasterRCNN" else model.anchor_generator
        assert set(generator.num_anchors_per_location()) == {anchors}


@pytest.mark.parametrize(("weights", "norm"), [("none", "group"), ("default", "none")])
def test_heads_of_a_run_are_known_after_it(weights: str, norm: str) -> None:
    record = dataclasses.replace(_filled(model="retinanet", weights=weights), weights="none")  # as of a checkpoint
    assert record.head_norm == norm
    model = coco_detection.create_model(record, 4)
    assert any(isinstance(module, nn.GroupNorm) for module in model.modules()) == (norm == "group")


def test_with_data_the_defaults_are_those_of_the_tutorials(tmp_path: Path) -> None:
    config = _filled(data=tmp_path)
    assert (config.backbone, config.fpn, config.min_size, config.epochs, config.lr_steps) == (
        "resnet50",
        False,
        800,
        26,
        (16, 22),
    )
    model: Any = coco_detection.create_model(config, 3)
    assert model.backbone.out_channels == 1024
    assert model.rpn.anchor_generator.num_anchors_per_location() == [15]


def test_keypoints_of_persons(tmp_path: Path, real_data: Path) -> None:
    config = _filled(data=real_data / "coco_mini", model="keypoint_rcnn", backbone="resnet18", fpn=True, max_size=96)
    model: Any = coco_detection.create_model(config, 2)
    assert model.roi_heads.keypoint_predictor.out_channels == 17
    train_set, val_set = data.open_detection_data(real_data / "coco_mini", keypoints=True)
    assert data.class_names(val_set) == ["__background__", "person"]
    assert any(train_set[index][1]["keypoints"].shape[1:] == (17, 3) for index in range(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ssd300", "backbone": "resnet18"}, "--backbone is not for --model ssd300"),
        ({"model": "ssdlite", "min_size": 300}, "--min-size is not for --model ssdlite"),
        ({"model": "fcos", "fpn": False}, "--fpn False is for faster_rcnn and keypoint_rcnn, got --model fcos"),
        ({"model": "keypoint_rcnn"}, "--model keypoint_rcnn needs --data with COCO's persons"),
    ],
)
def test_flags_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _filled(**options)


def test_anchors_that_do_not_fit_the_levels() -> None:
    with pytest.raises(ValueError, match="--anchor-sizes must be 5 numbers or a multiple of that, got 7"):
        coco_detection.create_model(_filled(anchor_sizes=(1, 2, 3, 4, 5, 6, 7)), 3)
