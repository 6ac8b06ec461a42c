from __future__ import annotations

import copy

import pytest
import torch
from torchvision.models import mobilenet_v3_large, resnet50, segmentation
from torchvision.models.segmentation import (
    DeepLabV3_MobileNet_V3_Large_Weights,
    DeepLabV3_ResNet50_Weights,
    DeepLabV3_ResNet101_Weights,
    FCN_ResNet50_Weights,
    FCN_ResNet101_Weights,
    LRASPP_MobileNet_V3_Large_Weights,
)

from ignite_imgtools.models import deeplab_v3, fcn, lraspp
from tests.models.counts import parameter_count

PUBLISHED = [
    (fcn, "resnet50", FCN_ResNet50_Weights),
    (fcn, "resnet101", FCN_ResNet101_Weights),
    (deeplab_v3, "resnet50", DeepLabV3_ResNet50_Weights),
    (deeplab_v3, "resnet101", DeepLabV3_ResNet101_Weights),
    (deeplab_v3, "mobilenet_v3_large", DeepLabV3_MobileNet_V3_Large_Weights),
    (lraspp, "mobilenet_v3_large", LRASPP_MobileNet_V3_Large_Weights),
]


@pytest.mark.parametrize(("build", "backbone", "weights"), PUBLISHED)
def test_parameter_counts_are_torchvisions(build, backbone, weights):
    with torch.device("meta"):
        model = build(21, backbone)
    assert parameter_count(model) == weights.DEFAULT.meta["num_params"]


@pytest.mark.parametrize(
    ("build", "options", "keys"),
    [
        (fcn, {}, {"out", "aux"}),
        (fcn, {"aux": False}, {"out"}),
        (fcn, {"backbone": "mobilenet_v3_large"}, {"out", "aux"}),
        (deeplab_v3, {"backbone": "mobilenet_v3_large"}, {"out", "aux"}),
        (deeplab_v3, {"backbone": "mobilenet_v3_large", "aux": False}, {"out"}),
        (lraspp, {}, {"out"}),
    ],
)
def test_outputs_of_any_size(build, options, keys):
    model = build(4, **options).eval()
    with torch.inference_mode():
        for size in ((32, 40), (33, 17), (1, 1)):
            output = model(torch.rand(1, 3, *size))
            assert {key: tuple(value.shape) for key, value in output.items()} == dict.fromkeys(keys, (1, 4, *size))


def _random_state(model):
    torch.manual_seed(7)
    return {
        name: torch.rand_like(value) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize(
    ("build", "backbone", "heads"),
    [
        (
            fcn,
            "resnet50",
            {"classifier.4.weight", "classifier.4.bias", "aux_classifier.4.weight", "aux_classifier.4.bias"},
        ),
        (
            deeplab_v3,
            "mobilenet_v3_large",
            {"classifier.4.weight", "classifier.4.bias", "aux_classifier.4.weight", "aux_classifier.4.bias"},
        ),
        (
            lraspp,
            "mobilenet_v3_large",
            {f"classifier.{head}_classifier.{p}" for head in ("low", "high") for p in ("weight", "bias")},
        ),
    ],
)
def test_another_number_of_classes_keeps_all_but_the_last_layers(build, backbone, heads, tmp_path):
    state = _random_state(build(21, backbone))
    torch.save(state, tmp_path / "weights.pth")
    loaded = build(5, backbone, weights=tmp_path / "weights.pth").state_dict()
    assert {name for name, value in loaded.items() if not torch.equal(value, state[name])} == heads
    assert {len(loaded[name]) for name in heads} == {5}


def test_all_weights_of_a_file_with_the_same_classes_with_or_without_the_auxiliary_head(tmp_path):
    state = _random_state(deeplab_v3(21, "mobilenet_v3_large"))
    torch.save(state, tmp_path / "weights.pth")
    for aux in (False, True):
        loaded = deeplab_v3(21, "mobilenet_v3_large", aux=aux, weights=tmp_path / "weights.pth").state_dict()
        assert any(name.startswith("aux_classifier.") for name in loaded) == aux
        torch.testing.assert_close(loaded, {name: state[name] for name in loaded}, rtol=0, atol=0)


@pytest.mark.parametrize(("build", "backbone", "published"), [PUBLISHED[4], PUBLISHED[5]])
def test_default_weights(build, backbone, published, hub):
    state = _random_state(build(21, backbone))
    torch.save(state, hub / published.DEFAULT.url.rsplit("/", 1)[1])
    loaded = build(5, backbone, weights="default").state_dict()
    backbone_state = {name: value for name, value in loaded.items() if name.startswith("backbone.")}
    assert backbone_state
    torch.testing.assert_close(backbone_state, {name: state[name] for name in backbone_state}, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("build", "backbone", "classifier"),
    [
        (fcn, "resnet50", resnet50),
        (fcn, "mobilenet_v3_large", mobilenet_v3_large),
        (lraspp, "mobilenet_v3_large", mobilenet_v3_large),
    ],
)
def test_weights_of_a_classifier(build, backbone, classifier, tmp_path):
    state = _random_state(classifier())
    torch.save(state, tmp_path / "imagenet.pth")
    loaded = build(5, backbone, weights=tmp_path / "imagenet.pth").state_dict()
    names = [name for name in loaded if name.startswith("backbone.")]
    assert len(names) > 200
    for name in names:
        own = name.removeprefix("backbone.")
        assert torch.equal(loaded[name], state.get(own, state.get(f"features.{own}"))), name


def test_weights_of_another_model_are_refused(tmp_path):
    # Loaded leniently, these would leave the model as it was without a word.
    with torch.device("meta"):
        state = deeplab_v3(21, "resnet50").state_dict()
    torch.save(
        {name: torch.zeros(value.shape) for name, value in state.items() if "layer" not in name}, tmp_path / "w.pth"
    )
    with pytest.raises(ValueError, match=r"weights .*w\.pth: no weights fit the model"):
        lraspp(21, weights=tmp_path / "w.pth")


def test_deeplab_trains_with_a_single_image():
    torch.manual_seed(0)
    model = deeplab_v3(3, "mobilenet_v3_large", aux=False)
    reference = segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3, aux_loss=None
    )
    reference.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 40, 40)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        copy.deepcopy(reference).train()(images[:1])
    model.train()(images[:1])["out"].square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    # With two it is torchvision's.
    model.load_state_dict(reference.state_dict())
    for m in (model, reference):
        m.classifier[0].project[3].p = 0.0
    torch.testing.assert_close(model(images)["out"], reference.train()(images)["out"], rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fcn(21, "resnet18"),
            "backbone must be one of resnet50, resnet101, mobilenet_v3_large, got 'resnet18'",
        ),
        (lambda: deeplab_v3(21, "vgg"), "one of resnet50, resnet101, mobilenet_v3_large, got 'vgg'"),
        (lambda: lraspp(21, "resnet50"), "backbone must be one of mobilenet_v3_large, got 'resnet50'"),
        (lambda: lraspp(0), "num_classes must be at least 1, got 0"),
        (lambda: lraspp(3, weights="no/such.pth"), r"weights no/such\.pth: no such file"),
    ],
)
def test_arguments_out_of_range(call, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call()
