from __future__ import annotations

import pytest
import torch
from torchvision.models import MobileNet_V3_Large_Weights, VGG16_BN_Weights, mobilenet_v3_large, vgg16_bn

from ignite_imgtools.models import UNet, unet, unet_mobilenet_v3_large, unet_vgg16
from tests.models.counts import parameter_count

BUILDERS = {
    "bilinear": lambda: UNet(3, base_channels=4),
    "transposed": lambda: UNet(3, base_channels=4, bilinear=False),
    "mobilenet": lambda: unet_mobilenet_v3_large(3),
    "vgg": lambda: unet_vgg16(3),
}


@pytest.fixture(scope="module", params=BUILDERS)
def model(request):
    torch.manual_seed(0)
    return BUILDERS[request.param]()


def test_parameter_counts():
    with torch.device("meta"):
        # Published of this U-Net, 64 channels wide, with one class and transposed convolutions.
        assert parameter_count(UNet(1, base_channels=64, bilinear=False)) == 31_037_633
        assert parameter_count(UNet(2, bilinear=False)) == 7_763_074
        assert parameter_count(UNet(2)) == 4_318_434
        assert parameter_count(unet_mobilenet_v3_large(2)) == 3_454_146
        assert parameter_count(unet_vgg16(2)) == 26_450_306
        # All of the classifiers up to their last stage, no layer of it twice.
        for model, classifier in (
            (unet_mobilenet_v3_large(2), mobilenet_v3_large().features[:16]),
            (unet_vgg16(2), vgg16_bn().features),
        ):
            assert parameter_count(model.features) == parameter_count(classifier)


def test_any_size(model):
    torch.manual_seed(0)
    model.eval()
    with torch.inference_mode():
        for size in ((16, 32), (17, 35), (5, 2), (1, 1)):
            assert {key: tuple(v.shape) for key, v in model(torch.rand(2, 3, *size)).items()} == {"out": (2, 3, *size)}


def test_every_parameter_learns(model):
    torch.manual_seed(0)
    model.train()
    model.zero_grad()
    model(torch.rand(2, 3, 17, 19))["out"].square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_last_row_and_column_are_seen(model):
    torch.manual_seed(0)
    model.eval()
    images = torch.rand(1, 3, 17, 17, requires_grad=True)
    model(images)["out"].square().sum().backward()
    gradient = images.grad.abs().sum(dim=(0, 1))
    assert (gradient[-1] > 0).all()
    assert (gradient[:, -1] > 0).all()


def test_levels_are_used_at_their_size():
    # A moved image gives a moved output, away from the borders: no level is out of place.
    torch.manual_seed(0)
    image = torch.rand(1, 3, 256, 256)
    for bilinear in (True, False):
        model = UNet(2, base_channels=2, bilinear=bilinear).eval()
        with torch.inference_mode():
            here, there = model(image)["out"], model(image.roll(16, dims=3))["out"]
        torch.testing.assert_close(here[..., 112:128, 112:128], there[..., 112:128, 128:144])


@pytest.mark.parametrize(
    ("build", "classifier", "published", "last"),
    [
        (unet_mobilenet_v3_large, mobilenet_v3_large, MobileNet_V3_Large_Weights, "features.15."),
        (unet_vgg16, vgg16_bn, VGG16_BN_Weights, "features.41."),
    ],
)
def test_weights_of_the_classifier(build, classifier, published, last, tmp_path, monkeypatch):
    with torch.device("meta"):
        features = classifier().features.state_dict()
    state = {
        f"features.{name}": torch.full(value.shape, float(index))
        for index, (name, value) in enumerate(features.items())
        if "num_batches_tracked" not in name
    }
    monkeypatch.setattr(published.DEFAULT, "get_state_dict", lambda **options: state)
    loaded = build(2, weights="default").state_dict()
    names = [name for name in loaded if name.startswith("features.") and "num_batches_tracked" not in name]
    assert any(name.startswith(last) for name in names)
    assert [name for name in names if not torch.equal(loaded[name], state[name])] == []


def test_a_file_of_the_classifier(tmp_path):
    state = mobilenet_v3_large().state_dict()
    torch.save(state, tmp_path / "imagenet.pth")
    loaded = unet_mobilenet_v3_large(2, weights=tmp_path / "imagenet.pth").features.state_dict()
    torch.testing.assert_close(loaded, {name: state[f"features.{name}"] for name in loaded}, rtol=0, atol=0)


def test_weights_of_another_number_of_classes(tmp_path):
    torch.manual_seed(0)
    trained = unet(5, base_channels=2)
    torch.save({"model": trained.state_dict()}, tmp_path / "best.pt")
    model = unet(2, base_channels=2, weights=tmp_path / "best.pt")
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith("head")}
    torch.testing.assert_close(kept, {name: trained.state_dict()[name] for name in kept}, rtol=0, atol=0)
    assert model.head.out_channels == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: UNet(0), "num_classes must be at least 1, got 0"),
        (lambda: UNet(2, in_channels=0), "in_channels must be at least 1, got 0"),
        (lambda: UNet(2, base_channels=0), "base_channels must be at least 1, got 0"),
        (lambda: unet_mobilenet_v3_large(0), "num_classes must be at least 1, got 0"),
        (lambda: unet(2, weights="default"), "none are published for unet; give a file or 'none'"),
        (lambda: unet(2, weights="no/such.pth"), r"weights no/such\.pth: no such file"),
    ],
)
def test_arguments_out_of_range(call, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call()
