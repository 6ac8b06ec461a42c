"""What is written for other programs gives the same numbers there; what cannot be written is one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ignite_imgtools import models
from ignite_imgtools.recipes.config import ConfigError
from ignite_imgtools.recipes.export_files import Format, largest_difference, write_export
from ignite_imgtools.recipes.exportable import Exportable, exportable_crops, exportable_detector


def _unet() -> Exportable:
    torch.manual_seed(0)
    return exportable_crops(models.unet(3, base_channels=4), (32, 48), "logits", (0.5,) * 3, (0.25,) * 3)


def _small() -> Exportable:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Upsample(scale_factor=2.0))
    return exportable_crops(layers, (32, 48), "logits", (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("kind", "create"), [("torchscript", _unet), ("torchscript", _small), ("export", _small), ("onnx", _small)]
)
def test_a_model_gives_the_same_in_every_format(kind: Format, create: Callable[[], Exportable], tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    assert write_export(create(), kind, tmp_path / "model") < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_images_are_normalised_by_what_is_written() -> None:
    torch.manual_seed(0)
    model = models.unet(3, base_channels=4).eval()
    images = torch.rand(1, 3, 32, 48)
    expected = model((images - 0.5) / 0.25)["out"]
    assert torch.equal(_unet().module(images), expected)


def test_a_detector_as_torchscript_finds_the_same_in_images_of_any_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.retinanet(3, backbone="resnet18", fpn_channels=32, score_thresh=0.0, min_size=48, max_size=64)
    exported = exportable_detector(model, (48, 64))
    assert write_export(exported, "torchscript", tmp_path / "model.pt") < 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have torch.export, which cannot do this
        loaded = torch.jit.load(str(tmp_path / "model.pt"))
        boxes, labels, scores = loaded(torch.rand(3, 50, 40))
    assert len(boxes) == len(labels) == len(scores) > 0
    assert int(labels.min()) > 0  # never the background
    with pytest.raises(ConfigError, match=r"torch\.export cannot follow a detector"):
        write_export(exported, "export", tmp_path / "model.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_candidates_of_yolo_are_the_boxes_before_the_suppression() -> None:
    torch.manual_seed(0)
    model = models.yolov3_spp(3, size=64, width=0.25, depth=0.34, score_threshold=0.0, nms_iou=1.0).eval()
    image = torch.rand(3, 64, 64)
    (found,) = model([image])
    exported = exportable_detector(model, (64, 64))
    boxes, scores = exported.module(image[None])
    best = scores[0].max(dim=1).values
    assert boxes.shape == (1, 3 * (4 + 16 + 64), 4)
    torch.testing.assert_close(found["scores"][0], best.max())
    torch.testing.assert_close(found["boxes"][0], boxes[0, best.argmax()].clamp(0, 64))


def test_other_numbers_are_not_kept(tmp_path: Path) -> None:
    class Drifting(nn.Module):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            if torch.jit.is_tracing():
                return images
            return images + 1

    model = Exportable(Drifting(), torch.rand(2, 3), "images", ("out",), {0: "batch"})
    with pytest.raises(ConfigError, match="differs from the model by"):
        write_export(model, "torchscript", tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_other_detections_are_said_to_be_such(tmp_path: Path) -> None:
    class Undecided(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])[0 if torch.jit.is_tracing() else 1][None]
            return boxes, torch.ones(1, dtype=torch.int64), torch.full((1,), 0.5)

    model = Exportable(
        Undecided(), torch.rand(3, 8, 9), "image", ("boxes", "labels", "scores"), {1: "height"}, detections=True
    )
    with pytest.raises(ConfigError, match="finds other objects than the model; nothing is kept"):
        write_export(model, "torchscript", tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_what_torch_cannot_write_is_one_line(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if float(images.sum()) > 0 else -images

    model = Exportable(Branching(), torch.rand(2, 3), "images", ("out",), {0: "batch"})
    with pytest.raises(ConfigError, match="torch cannot write this model") as info:
        write_export(model, "export", tmp_path / "model.pt2")
    assert "\n" not in str(info.value)
    assert str(info.value).endswith("; take another format")


def test_detections_may_change_their_places_but_not_their_number() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    labels, scores = torch.tensor([1, 2]), torch.tensor([0.5, 0.5])
    turned = tuple(tensor.flip(0) for tensor in (boxes, labels, scores))
    assert largest_difference((boxes, labels, scores), turned, detections=True) == 0
    assert largest_difference((boxes, labels, scores), turned) == pytest.approx(0.75)
    moved = (boxes + 0.04, labels, scores)
    assert largest_difference((boxes, labels, scores), moved, detections=True) == pytest.approx(0.001, rel=1e-3)
    for other in ((boxes[:1], labels[:1], scores[:1]), (boxes, labels.flip(0), scores), (boxes + 5, labels, scores)):
        assert largest_difference((boxes, labels, scores), other, detections=True) == float("inf")
    nothing = (boxes[:0], labels[:0], scores[:0])
    assert largest_difference(nothing, nothing, detections=True) == 0
