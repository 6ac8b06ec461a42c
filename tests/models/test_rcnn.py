from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from ignite_imgtools.models import faster_rcnn, resnet_fpn

SMALL = {"backbone": "resnet18", "min_size": 64, "max_size": 96, "fpn_channels": 16, "representation": 16}


def _batch():
    images = [torch.rand(3, 64, 80), torch.rand(3, 72, 60)]
    boxes = torch.tensor([[5.0, 5, 40, 45], [20, 10, 55, 50]])
    return images, [{"boxes": boxes, "labels": torch.tensor([1, 2]), "image_id": i} for i in range(2)]


def test_defaults_are_torchvisions():
    expected = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5)
    model = faster_rcnn(5)
    assert (model.transform.min_size, model.transform.max_size) == ((800,), 1333)
    for detector in (expected, model):
        detector.transform.min_size, detector.transform.max_size = (96,), 128
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert shapes == {name: value.shape for name, value in expected.state_dict().items()}
    model.load_state_dict(expected.state_dict())
    image = torch.rand(3, 90, 120)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()([image]), expected.eval()([image]), rtol=0, atol=0)
    assert {p.requires_grad for p in model.parameters()} == {True}


@pytest.mark.parametrize("trainable_layers", range(6))
def test_backbone_equals_torchvisions(trainable_layers):
    expected = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=trainable_layers
    )
    ours = resnet_fpn("resnet18", trainable_layers=trainable_layers, out_channels=256)
    described = [(name, tuple(p.shape), p.requires_grad) for name, p in ours.named_parameters()]
    assert described == [(name, tuple(p.shape), p.requires_grad) for name, p in expected.named_parameters()]


def test_trains_and_detects():
    torch.manual_seed(0)
    model = faster_rcnn(3, **SMALL, proposals=(50, 20), anchor_sizes=((8, 12), (16, 20), (24, 32), (40, 48), (56, 64)))
    losses = model(*_batch())
    sum(losses.values()).backward()
    assert sorted(losses) == ["loss_box_reg", "loss_classifier", "loss_objectness", "loss_rpn_box_reg"]
    detections = model.eval()(_batch()[0])
    assert [sorted(detection) for detection in detections] == [["boxes", "labels", "scores"]] * 2
    assert model.rpn.post_nms_top_n() == 20


def test_strides_do_not_depend_on_the_first_image():
    model = faster_rcnn(3, **SMALL)
    # 45 pixels are padded to 64: taken from this image, all strides would be half of what they are.
    model.eval()([torch.rand(3, 45, 45)])
    assert model.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


@pytest.mark.parametrize("norm", ["batch", "frozen", "sync"])
def test_norm(norm):
    kinds = {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d, "sync": nn.SyncBatchNorm}
    body = resnet_fpn("resnet18", norm=norm, out_channels=8).body
    assert type(body.bn1) is kinds[norm]


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_autocast_does_not_round_boxes(mode):
    torch.manual_seed(0)
    model = faster_rcnn(3, **SMALL, proposals=(50, 20), box_score_thresh=0.0)
    images, targets = _batch()
    model.train(mode == "training")
    seen = []
    model.roi_heads.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[1]))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images, targets)
    assert {boxes.dtype for boxes in seen} == {torch.float32}
    # Most coordinates would be multiples of 1/8 above 16, in 8 bits.
    large = torch.cat(seen).flatten()
    large = large[(large > 17) & (large < 59)] * 8
    assert (large != large.round()).float().mean() > 0.9
    if mode == "evaluation":
        assert output[0]["boxes"].dtype == output[0]["scores"].dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes counts the background and must be at least 2, got 1"),
        ({"num_classes": 3, "backbone": "vgg61"}, "backbone must be one of .*vgg16.*, got 'vgg61'"),
        ({"num_classes": 3, "norm": "layer"}, r"norm must be one of \['batch', 'frozen', 'sync'\], got 'layer'"),
        ({"num_classes": 3, "trainable_layers": 3}, "would freeze random weights"),
        ({"num_classes": 3, "weights": "w.pth", "trainable_layers": 6}, r"must be in 0\.\.5, got 6"),
        ({"num_classes": 3, "anchor_sizes": (32, 64)}, "one entry for each of 5 levels, got 2"),
        ({"num_classes": 3, "anchor_sizes": (8, 16, (24, 32), 48, 64)}, r"same number of anchors on each level, got"),
        ({"num_classes": 3, "weights": "no/such.pth"}, r"weights no/such\.pth: no such file"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        faster_rcnn(**arguments)
