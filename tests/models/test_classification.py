from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torchvision.models import densenet121, resnet18

from ignite_imgtools.models import classifier, classifier_head


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_any_classifier_with_any_number_of_classes(name: str) -> None:
    model = classifier(name, 7).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 64, 48)).shape == (2, 7)
    assert 0 < sum(p.numel() for p in classifier_head(model).parameters()) < sum(p.numel() for p in model.parameters())


def test_transformers_are_made_for_a_size() -> None:
    model = classifier("vit_b_32", 3, image_size=64).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_all_but_the_head_is_loaded(tmp_path: Path) -> None:
    other = resnet18(num_classes=10)
    state = {f"module.{name}": value for name, value in other.state_dict().items()}
    torch.save({"model": {**state, "module.extra.weight": torch.zeros(3)}}, tmp_path / "weights.pt")
    model = classifier("resnet18", 4, weights=tmp_path / "weights.pt")
    for name, value in model.state_dict().items():
        assert name.startswith("fc.") or torch.equal(value, other.state_dict()[name]), name
    assert model.fc.weight.shape == (4, 512)
    same = classifier("resnet18", 10, weights=tmp_path / "weights.pt")
    assert torch.equal(same.fc.weight, other.fc.weight)


def test_names_of_densenets_first_version(tmp_path: Path) -> None:
    other = densenet121(num_classes=3)
    renamed = {}
    for name, value in other.state_dict().items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f"{part}.", f"{part[:-1]}.{part[-1]}.") if "denselayer" in name else name
        renamed[name] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in renamed
    torch.save(renamed, tmp_path / "weights.pt")
    model = classifier("densenet121", 3, weights=tmp_path / "weights.pt")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: classifier("resnet35", 3), "model must be a classifier of torchvision, such as resnet101, resnet152"),
        (lambda: classifier("fcn_resnet50", 3), "model must be a classifier of torchvision, such as"),
        (lambda: classifier("resnet18", 1), "num_classes must be at least 2, got 1"),
        (lambda: classifier("resnet18", 3, dropout=0.2), "model resnet18 cannot be made so: .*dropout"),
        (lambda: classifier_head(torch.nn.Conv2d(1, 1, 1)), "Conv2d has no part called fc, classifier, heads, head"),
    ],
)
def test_bad_arguments(create: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create()  # type: ignore[operator]


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"weights .*other\.pt: no weights fit the model"):
        classifier("resnet18", 3, weights=tmp_path / "other.pt")


def test_the_file_of_weights_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "four.pt"
    torch.save(classifier("shufflenet_v2_x0_5", 4).state_dict(), path)
    with caplog.at_level(logging.INFO, "ignite_imgtools"):
        classifier("shufflenet_v2_x0_5", 3, weights=path)
    assert f"{path}: " in caplog.text
    assert "2 left as they were for another shape (fc.weight, fc.bias)" in caplog.text
