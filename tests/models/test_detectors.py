"""Detectors built over torchvision's parts, beside torchvision's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ignite_imgtools import models

SMALL: dict[str, Any] = {"backbone": "resnet18", "min_size": 64, "max_size": 96, "fpn_channels": 16}


def _targets(*, masks: bool = False, keypoints: bool = False) -> list[dict[str, torch.Tensor]]:
    target = {"boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0], [30.0, 10.0, 60.0, 44.0]]), "labels": torch.tensor([1, 2])}
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    if masks:
        target["masks"], empty["masks"] = torch.zeros(2, 64, 80, dtype=torch.uint8), torch.zeros(0, 64, 80)
        target["masks"][0, 6:50, 4:40] = 1
        target["masks"][1, 10:44, 30:60] = 1
    if keypoints:
        target["keypoints"] = torch.tensor([[[10.0, 10.0, 2.0]] * 5, [[40.0, 20.0, 1.0]] * 5])
        empty["keypoints"] = torch.zeros(0, 5, 3)
    return [target, empty]


def _images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, 64, 80, generator=generator), torch.rand(3, 80, 64, generator=generator)]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (models.retinanet, detection.retinanet_resnet50_fpn),
        (models.fcos, detection.fcos_resnet50_fpn),
        (models.mask_rcnn, detection.maskrcnn_resnet50_fpn),
        (models.keypoint_rcnn, detection.keypointrcnn_resnet50_fpn),
    ],
)
def test_weights_have_the_names_and_shapes_of_torchvisions(ours: Any, theirs: Any) -> None:
    with torch.device("meta"):
        expected = theirs(weights=None, weights_backbone=None, num_classes=7).state_dict()
    got = ours(7).state_dict()
    assert {name: value.shape for name, value in got.items()} == {n: v.shape for n, v in expected.items()}


@pytest.mark.parametrize(
    ("build", "options", "losses"),
    [
        (models.retinanet, {"anchor_sizes": (8, 16, 32, 64, 96)}, {"classification", "bbox_regression"}),
        (models.fcos, {"fpn_channels": 32}, {"classification", "bbox_regression", "bbox_ctrness"}),
        (
            models.mask_rcnn,
            {"representation": 32, "mask_layers": (16, 16)},
            {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"},
        ),
        (
            models.keypoint_rcnn,
            {"representation": 32, "keypoint_layers": (16,), "num_keypoints": 5},
            {"loss_classifier", "loss_box_reg", "loss_keypoint", "loss_objectness", "loss_rpn_box_reg"},
        ),
    ],
)
def test_they_honour_the_call_of_detectors(build: Any, options: dict[str, Any], losses: set[str]) -> None:
    torch.manual_seed(0)
    model = build(3, **(SMALL | options))
    targets = _targets(masks=build is models.mask_rcnn, keypoints=build is models.keypoint_rcnn)
    terms = model(_images(), targets)
    assert set(terms) == losses
    sum(terms.values()).backward()
    assert all(value.isfinite() for value in terms.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    model.eval()
    with torch.inference_mode():
        detections = model(_images())
    assert [set(found) for found in detections] == [{"boxes", "labels", "scores"} | set(detections[0])] * 2
    for found in detections:
        assert not (found["labels"] == 0).any()


@pytest.mark.parametrize("build", [models.retinanet, models.fcos])
def test_label_zero_is_never_found(build: Any) -> None:
    torch.manual_seed(0)
    model = build(3, **(SMALL | {"fpn_channels": 32})).eval()
    nn.init.zeros_(model.head.classification_head.cls_logits.bias)
    with torch.inference_mode():
        labels = torch.cat([found["labels"] for found in model(_images())])
    assert set(labels.tolist()) == {1, 2}


@pytest.mark.parametrize("build", [models.ssd300, models.ssdlite])
def test_ssd(build: Any) -> None:
    torch.manual_seed(0)
    model = build(3)
    assert set(model(_images(), _targets())) == {"classification", "bbox_regression"}
    model.eval()
    with torch.inference_mode():
        assert all(0 not in found["labels"] for found in model(_images()))


def test_masks_are_those_of_torchvision_above_a_half() -> None:
    torch.manual_seed(0)
    model = models.mask_rcnn(3, **SMALL, representation=32, mask_layers=(16,), box_score_thresh=0.0).eval()
    small: list[torch.Tensor] = []
    model.roi_heads.register_forward_hook(
        lambda module, inputs, outputs: small.extend(found["masks"] for found in outputs[0])
    )
    with torch.inference_mode():
        detections = model(_images())
    assert len(small[0]) > 16  # several parts
    for image, found, masks in zip(_images(), detections, small, strict=True):
        expected = paste_masks_in_image(masks, found["boxes"], image.shape[1:]) > 0.5
        assert found["masks"].dtype == torch.bool
        assert found["masks"].shape == (len(masks), 1, *image.shape[1:])
        assert torch.equal(found["masks"], expected)


@pytest.mark.parametrize(("height", "width"), [(97, 61), (40, 203), (128, 128)])
def test_masks_of_targets_are_resized_as_by_torchvision(height: int, width: int) -> None:
    torch.manual_seed(0)
    ours = models.mask_rcnn(3, **SMALL, representation=32, mask_layers=(16,)).transform
    theirs = GeneralizedRCNNTransform(ours.min_size, ours.max_size, ours.image_mean, ours.image_std)
    image = torch.rand(3, height, width)
    boxes, masks = torch.tensor([[3.0, 4, 30, 35]] * 5), torch.rand(5, height, width) > 0.5
    target = {"boxes": boxes, "masks": masks.to(torch.uint8)}
    (resized, (got,)), (expected_image, (expected,)) = (t([image], [dict(target)]) for t in (ours, theirs))
    assert torch.equal(resized.tensors, expected_image.tensors)
    assert torch.equal(got["boxes"], expected["boxes"])
    assert got["masks"].dtype == expected["masks"].dtype
    assert torch.equal(got["masks"], expected["masks"])
    assert set(target) == {"boxes", "masks"}  # what was given is as it was


def test_a_backbone_of_one_feature_map() -> None:
    torch.manual_seed(0)
    model = models.faster_rcnn(3, backbone="resnet18", fpn=False, min_size=64, max_size=96, representation=32)
    assert model.backbone.out_channels == 256  # of layer3, stride 16, as in the "C4" detectors
    assert model.rpn.anchor_generator.num_anchors_per_location() == [15]
    sum(model(_images(), _targets()).values()).backward()
    features = model.backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(value.shape) for value in features.values()] == [(1, 256, 4, 6)]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet50", {2: 64, 4: 256, 8: 512, 16: 1024, 32: 2048}),
        ("mobilenet_v3_large", {2: 16, 4: 24, 8: 40, 16: 112, 32: 960}),
        ("efficientnet_b0", {2: 16, 4: 24, 8: 40, 16: 112, 32: 1280}),
        ("vgg16", {2: 128, 4: 256, 8: 512, 16: 512, 32: 512}),
        ("convnext_tiny", {4: 96, 8: 192, 16: 384, 32: 768}),
    ],
)
def test_stages_end_where_the_papers_have_them(name: str, channels: dict[int, int]) -> None:
    assert {stride: width for stride, (_, width) in models.stage_nodes(name).items()} == channels


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "convnext_tiny"])
def test_any_convolutional_classifier_is_a_backbone(name: str) -> None:
    backbone = models.create_backbone(name, fpn_channels=8, trainable_layers=2)
    features = backbone(torch.zeros(1, 3, 64, 128))
    assert [tuple(value.shape[2:]) for value in features.values()] == [(16, 32), (8, 16), (4, 8), (2, 4), (1, 2)]
    classifier = getattr(__import__("torchvision").models, name)(weights=None).state_dict()
    body = backbone.get_submodule("body").state_dict()
    assert all(body[key].shape == classifier[key].shape for key in body)

    # With two of five stages trained, what comes before the end of stride 8 is not.
    order = [key for key, _ in backbone.get_submodule("body").named_parameters()]
    trained = [key for key, value in backbone.get_submodule("body").named_parameters() if value.requires_grad]
    assert trained
    assert trained == order[-len(trained) :]
    first = {"mobilenet_v3_large": "features.7.", "convnext_tiny": "features.4."}[name]
    assert trained[0].startswith(first)


@pytest.mark.parametrize("norm", ["frozen", "sync"])
def test_normalisation_of_any_backbone(norm: str) -> None:
    body = models.create_backbone("mobilenet_v3_large", fpn_channels=8, norm=norm).get_submodule("body")
    kinds = {type(module).__name__ for module in body.modules() if "BatchNorm" in type(module).__name__}
    assert kinds == {{"frozen": "FrozenBatchNorm2d", "sync": "SyncBatchNorm"}[norm]}


def test_what_is_no_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="backbone 'vit_b_16' cannot be cut into stages"):
        models.create_backbone("vit_b_16")
    with pytest.raises(ValueError, match="convnext_tiny has no feature map of stride 2, only of 4, 8, 16, 32"):
        models.create_backbone("convnext_tiny", strides=(2, 4))
    with pytest.raises(ValueError, match=r"backbone must be one of .*resnet50"):
        models.create_backbone("resnet51")
    with pytest.raises(ValueError, match="anchor_sizes must be 5 numbers"):
        models.retinanet(3, backbone="resnet18", anchor_sizes=(8, 16))


def test_heads_of_a_retinanet_are_normalised_where_asked() -> None:
    plain = models.retinanet(3, backbone="resnet18", fpn_channels=32)
    grouped = models.retinanet(3, backbone="resnet18", fpn_channels=32, head_norm="group")
    assert not any(isinstance(module, nn.GroupNorm) for module in plain.head.modules())
    assert sum(isinstance(module, nn.GroupNorm) for module in grouped.head.modules()) == 8  # four in each head
    with pytest.raises(ValueError, match="fpn_channels must be a multiple of 32 with head_norm='group', got 48"):
        models.retinanet(3, backbone="resnet18", fpn_channels=48, head_norm="group")
    with pytest.raises(ValueError, match="fpn_channels must be a multiple of 32 with FCOS, got 16"):
        models.fcos(3, backbone="resnet18", fpn_channels=16)
    with pytest.raises(ValueError, match="head_norm must be 'none' or 'group', got 'batch'"):
        models.retinanet(3, backbone="resnet18", head_norm="batch")
