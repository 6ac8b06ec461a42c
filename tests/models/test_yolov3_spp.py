"""YOLOv3-SPP against sums, files and boxes worked out by hand."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from ignite_imgtools.losses import YoloLoss
from ignite_imgtools.models import COCO_ANCHORS, yolov3_spp
from ignite_imgtools.models.darknet import STRIDES, Yolov3SppNetwork
from ignite_imgtools.models.darknet_weights import read_darknet_weights
from ignite_imgtools.models.yolo_boxes import decode_boxes, detect, split_outputs

TINY = {"width": 0.25, "depth": 0.1}


def _published_convolutions(outputs: int) -> list[tuple[int, int, int, bool]]:
    """(inputs, outputs, kernel, normalised) of the 76 convolutions, written down from the published description."""
    layers = [(3, 32, 3, True)]
    channels = 32
    for blocks in (1, 2, 8, 8, 4):
        layers.append((channels, 2 * channels, 3, True))
        channels *= 2
        for _ in range(blocks):
            layers += [(channels, channels // 2, 1, True), (channels // 2, channels, 3, True)]
    layers += [(1024, 512, 1, True), (512, 1024, 3, True), (1024, 512, 1, True)]
    layers += [(2048, 512, 1, True)]  # 512 channels and their maxima over three windows
    layers += [(512, 1024, 3, True), (1024, 512, 1, True), (512, 1024, 3, True), (1024, outputs, 1, False)]
    for before, backbone, width in ((512, 512, 256), (256, 256, 128)):
        layers += [(before, width, 1, True), (width + backbone, width, 1, True)]
        layers += [(width, 2 * width, 3, True), (2 * width, width, 1, True)] * 2
        layers += [(width, 2 * width, 3, True), (2 * width, outputs, 1, False)]
    return layers


def test_parameters_are_those_of_the_published_network() -> None:
    parameters = numbers_in_file = 0
    layers = _published_convolutions(3 * 85)
    for inputs, outputs, kernel, normalised in layers:
        parameters += inputs * outputs * kernel**2 + outputs * (2 if normalised else 1)
        numbers_in_file += inputs * outputs * kernel**2 + outputs * (4 if normalised else 1)
    assert len(layers) == 76
    with torch.device("meta"):
        network = Yolov3SppNetwork(3 * 85)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters == 62_998_749
    # yolov3-spp.weights, as published for the 80 classes of COCO: a header of 20 bytes and these numbers.
    assert 20 + 4 * numbers_in_file == 252_209_544
    shapes = [
        (module.in_channels, module.out_channels, module.kernel_size[0], module.bias is None)
        for module in network.modules()
        if isinstance(module, torch.nn.Conv2d)
    ]
    assert shapes == layers


@pytest.mark.parametrize("shape", [(64, 96), (32, 32), (160, 128)])
def test_maps_of_the_network(shape: tuple[int, int]) -> None:
    network = Yolov3SppNetwork(21, **TINY).eval()
    maps = network(torch.rand(2, 3, *shape))
    assert STRIDES == (32, 16, 8)
    assert [tuple(part.shape) for part in maps] == [(2, 21, shape[0] // s, shape[1] // s) for s in STRIDES]


def test_boxes_are_decoded_as_the_formula_says() -> None:
    raw = torch.randn(2, 3, 4, 5, 9, generator=torch.Generator().manual_seed(0))
    anchors = torch.tensor([[10.0, 20], [30, 15], [50, 60]])
    boxes = decode_boxes(raw, anchors, 16)
    for image, anchor, row, column in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 2, 3)]:
        x, y, width, height = raw[image, anchor, row, column, :4].tolist()
        centre = (column + 1 / (1 + math.exp(-x))) * 16, (row + 1 / (1 + math.exp(-y))) * 16
        half = anchors[anchor, 0].item() * math.exp(width) / 2, anchors[anchor, 1].item() * math.exp(height) / 2
        expected = [centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]]
        assert boxes[image, anchor, row, column].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_a_map_is_split_by_anchor_first() -> None:
    features = torch.arange(2 * 14 * 3 * 4, dtype=torch.float32).view(2, 14, 3, 4)
    (split,) = split_outputs([features], 2)
    assert split.shape == (2, 2, 3, 4, 7)
    assert split[1, 1, 2, 3, 4] == features[1, 7 + 4, 2, 3]


def test_detections_by_hand() -> None:
    def logit(probability: float) -> float:
        return math.log(probability / (1 - probability))

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60], [5, 5, 5, 9]])
    rows = [(0.9, 0.5, 0.8), (0.8, 0.1, 0.9), (0.9, 0.9, 0.1), (0.05, 0.1, 0.1), (0.9, 0.9, 0.9)]
    raw = torch.tensor([[0.0] * 4 + [logit(p) for p in row] for row in rows])
    options = {"nms_iou": 0.6, "max_candidates": 10, "max_detections": 10}
    found = detect(boxes, raw, score_threshold=0.01, **options)
    # The second overlaps the first, of its class, by 0.82; the third is of the other class; the last has no area.
    assert found["labels"].tolist() == [1, 2]
    assert found["labels"].dtype == torch.int64
    assert found["scores"].tolist() == pytest.approx([0.81, 0.72])
    assert found["boxes"].tolist() == [boxes[2].tolist(), boxes[0].tolist()]
    assert len(detect(boxes, raw, score_threshold=0.001, **options)["scores"]) == 3
    assert len(detect(boxes, raw, score_threshold=0.001, **(options | {"max_detections": 1}))["scores"]) == 1
    assert len(detect(boxes, raw, score_threshold=0.001, **(options | {"max_candidates": 2}))["scores"]) == 2


def _batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(3)
    images = [torch.rand(3, height, width, generator=generator) for height, width in ((50, 90), (70, 40), (33, 64))]
    boxes = torch.tensor([[5.0, 5, 30, 25], [10, 8, 35, 30]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 3])} for _ in images[:2]]
    return images, [*targets, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]


def test_torchvisions_call() -> None:
    torch.manual_seed(0)
    model = yolov3_spp(4, size=96, **TINY, loss_fn=YoloLoss(), score_threshold=0.0)
    assert model.num_classes == 4
    images, targets = _batch()
    before = [image.clone() for image in images]
    losses = model(images, targets)
    assert sorted(losses) == ["loss_box", "loss_class", "loss_objectness"]
    assert all(loss.ndim == 0 and loss.requires_grad and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    with pytest.raises(ValueError, match="needs targets in training mode"):
        model(images)
    detections = model.eval()(images, targets)
    assert len(detections) == 3
    for detection, image in zip(detections, images, strict=True):
        assert detection["boxes"].shape == (len(detection["scores"]), 4)
        assert 0 < len(detection["scores"]) <= 100
        assert (detection["boxes"].dtype, detection["labels"].dtype) == (torch.float32, torch.int64)
        assert (detection["labels"] >= 1).all()
        assert (detection["labels"] <= 3).all()
        assert (detection["scores"].diff() <= 0).all()
        limits = torch.tensor([image.shape[2], image.shape[1]] * 2)
        assert (detection["boxes"] >= 0).all()
        assert (detection["boxes"] <= limits).all()
        assert (detection["boxes"] != detection["boxes"].round()).any()  # not rounded
    assert all(torch.equal(image, copy) for image, copy in zip(images, before, strict=True))
    assert model([]) == []
    with pytest.raises(ValueError, match="needs a loss_fn to be trained"):
        yolov3_spp(4, size=96, **TINY)(images, targets)


def test_a_batch_of_one_small_image() -> None:
    """Two cells at least are left of it, without which it could not be normalised."""
    model = yolov3_spp(4, size=64, **TINY, loss_fn=YoloLoss())
    images, targets = _batch()
    for image in (images[0], torch.rand(3, 10, 200), torch.rand(3, 200, 10)):
        assert all(loss.isfinite() for loss in model([image], targets[2:]).values())


def test_the_size_in_training() -> None:
    torch.manual_seed(0)
    model = yolov3_spp(4, size=96, **TINY, loss_fn=YoloLoss())
    seen = []
    model.network.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[2:])))
    images, targets = _batch()
    model(images[:1], targets[:1])
    model.train_size = 128
    model(images[:1], targets[:1])
    # The losses of an evaluation: only the outermost module is set to training.
    model.eval()
    model.training = True
    model(images[:1], targets[:1])
    model.training = False
    model(images[:1])
    assert seen == [(64, 96), (96, 128), (64, 96), (64, 96)]


def test_anchors_belong_to_strides_by_their_size() -> None:
    model = yolov3_spp(3, size=64, **TINY)
    assert model.anchors[0].tolist() == [list(anchor) for anchor in COCO_ANCHORS[6:]]
    assert model.anchors[2].tolist() == [list(anchor) for anchor in COCO_ANCHORS[:3]]
    model.set_anchors([(9 - i, 9 - i) for i in range(9)])
    assert model.anchors[:, :, 0].tolist() == [[7, 8, 9], [4, 5, 6], [1, 2, 3]]
    other = yolov3_spp(3, size=64, **TINY)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.anchors, model.anchors)
    with pytest.raises(ValueError, match=r"anchors must be 9 pairs of width and height, got \[3, 2\]"):
        model.set_anchors([(1, 1)] * 3)


def test_frozen_stages() -> None:
    def trained(layers: int) -> set[str]:
        network = Yolov3SppNetwork(21, **TINY)
        network.freeze_backbone(layers)
        return {name for name, p in network.named_parameters() if p.requires_grad}

    names = trained(2)
    assert any(name.startswith("backbone.stages.3") for name in names)
    assert not any(name.startswith(("backbone.stages.2", "backbone.stem")) for name in names)
    assert any(name.startswith("backbone.stem") for name in trained(5))
    assert not any(name.startswith("backbone") for name in trained(0))


def _darknet_file(path: Path, network: Yolov3SppNetwork, minor: int = 2, convolutions: int = 999) -> np.ndarray:
    """A file of random numbers for ``network`` in Darknet's order, written here from its description."""
    rng = np.random.default_rng(0)
    parts = []
    for module in [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)][:convolutions]:
        outputs = module.out_channels
        count = module.weight.numel() + (4 * outputs if module.bias is None else outputs)
        parts.append(rng.random(count, np.float32) + 0.1)
    numbers = np.concatenate(parts)
    header = struct.pack("<3i", 0, minor, 5) + (struct.pack("<q", 99) if minor >= 2 else struct.pack("<i", 99))
    path.write_bytes(header + numbers.tobytes())
    return numbers


@pytest.mark.parametrize("minor", [1, 2])
def test_weights_of_darknet(tmp_path: Path, minor: int) -> None:
    network = Yolov3SppNetwork(21, **TINY)
    numbers = _darknet_file(tmp_path / "a.weights", network, minor)
    state = read_darknet_weights(tmp_path / "a.weights", network)
    missing = set(network.state_dict()) - set(state)
    assert all(name.endswith("num_batches_tracked") for name in missing)
    # The first convolution: offsets, scales, means, variances, kernels.
    for place, name in enumerate(("norm.bias", "norm.weight", "norm.running_mean", "norm.running_var")):
        assert state[f"backbone.stem.{name}"].tolist() == numbers[8 * place : 8 * place + 8].tolist()
    np.testing.assert_array_equal(state["backbone.stem.conv.weight"].numpy().ravel(), numbers[32 : 32 + 8 * 27])
    # The last: offsets, then kernels, which end the file.
    np.testing.assert_array_equal(state["heads.2.predict.weight"].numpy().ravel(), numbers[-21 * 64 :])
    np.testing.assert_array_equal(state["heads.2.predict.bias"].numpy(), numbers[-21 * 65 : -21 * 64])

    model = yolov3_spp(3, size=64, **TINY, weights=tmp_path / "a.weights")
    assert all(torch.equal(model.network.state_dict()[name], value) for name, value in state.items())


def test_weights_of_another_number_of_classes_and_of_the_backbone(tmp_path: Path) -> None:
    _darknet_file(tmp_path / "a.weights", Yolov3SppNetwork(3 * 85, **TINY))
    network = Yolov3SppNetwork(21, **TINY)
    state = read_darknet_weights(tmp_path / "a.weights", network)
    assert state["heads.0.predict.bias"].shape == (255,)
    model = yolov3_spp(3, size=64, **TINY, weights=tmp_path / "a.weights")
    assert torch.equal(model.network.heads[2].last.conv.weight, state["heads.2.last.conv.weight"])
    assert model.network.heads[2].predict.bias.shape == (21,)

    backbone = sum(isinstance(module, torch.nn.Conv2d) for module in network.backbone.modules())
    _darknet_file(tmp_path / "darknet53.conv.74", network, convolutions=backbone)
    state = read_darknet_weights(tmp_path / "darknet53.conv.74", network)
    assert all(name.startswith("backbone") for name in state)
    assert len(state) == 5 * backbone
    yolov3_spp(3, size=64, **TINY, weights=tmp_path / "darknet53.conv.74")


def test_the_whole_backbone_has_52_convolutions() -> None:
    with torch.device("meta"):
        network = Yolov3SppNetwork(21)
    # Layers 0 to 74 of Darknet's description are these and 23 additions.
    assert sum(isinstance(module, torch.nn.Conv2d) for module in network.backbone.modules()) == 52


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-4], "expected [0-9]+ float32 numbers .* got [0-9]+; the file is cut, or of another network"),
        (lambda b: b[:-3], r"expected float32 numbers after the header, got [0-9]+ bytes; the file is cut"),
        (lambda b: b + b"\0" * 4, "the file is cut, or of another network"),
        (lambda b: b[:10], "expected a header of Darknet, got 10 bytes"),
        (lambda b: b"PK\x03\x04" + b[4:], r"expected a header of Darknet, got version [0-9]+\.2"),
        (lambda b: b[:20] + struct.pack("<f", math.nan) + b[24:], r"number 0, of backbone\.stem\.norm\.bias, is nan"),
        (lambda b: b[:-4] + struct.pack("<f", math.inf), r"of heads\.2\.predict\.weight, is inf; the file is damaged"),
    ],
)
def test_bad_weights_of_darknet(tmp_path: Path, change, message: str) -> None:
    network = Yolov3SppNetwork(21, **TINY)
    path = tmp_path / "bad.weights"
    _darknet_file(path, network)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"^weights {re.escape(str(path))}: .*{message}") as caught:
        yolov3_spp(3, size=64, **TINY, weights=path)
    assert "\n" not in str(caught.value)


def test_weights_of_a_state_dict(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = yolov3_spp(3, size=64, **TINY)
    torch.save({"model": model.state_dict()}, tmp_path / "a.pt")
    torch.save(model.network.state_dict(), tmp_path / "b.pt")
    for name in "ab":
        loaded = yolov3_spp(3, size=64, **TINY, weights=tmp_path / f"{name}.pt")
        assert torch.equal(loaded.network.heads[0].predict.weight, model.network.heads[0].predict.weight)


def test_autocast_does_not_round_boxes() -> None:
    torch.manual_seed(0)
    model = yolov3_spp(3, size=96, **TINY, score_threshold=0.0).eval()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        (found,) = model([torch.rand(3, 96, 96)])
    assert {found[key].dtype for key in ("boxes", "scores")} == {torch.float32}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes counts the background and must be at least 2, got 1"),
        ({"size": 63}, "size must be at least 64 pixels, got 63"),
        ({"norm": "layer"}, r"norm must be one of \['batch', 'sync'\], got 'layer'"),
        ({"weights": "default"}, "there are no default ones for YOLOv3-SPP"),
        ({"weights": "no/such.weights"}, r"weights no/such\.weights: no such file"),
        ({"trainable_layers": 3}, "would freeze random weights"),
        ({"trainable_layers": 6, "weights": "a"}, r"trainable_layers must be in 0\.\.5, got 6"),
        ({"anchors": ((1, 2), (3, 4))}, r"anchors must be 3, 6, 9, \.\.\. pairs of width and height, got \[2, 2\]"),
        ({"anchors": ((1, 2), (3, 4), (0, 1))}, "anchors must have a positive width and height"),
        ({"width": 0.0}, "width and depth must be above 0, got 0.0"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        yolov3_spp(**({"num_classes": 3, **TINY} | arguments))
