from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from ignite_imgtools.models import DeepPose, begin_at_points, deep_pose


def test_points_of_any_number_on_any_backbone() -> None:
    model = deep_pose(98, "shufflenet_v2_x0_5").eval()
    with torch.inference_mode():
        images = torch.rand(2, 3, 64, 48)
        points = model(images)
        assert points.shape == (2, 98, 2)
        # x and y of a point stand side by side in the last layer.
        assert torch.equal(points[:, 5, 1], model.backbone(images)[:, 11])


def test_resnet50_has_the_tutorials_last_layer() -> None:
    with torch.device("meta"):
        model = deep_pose(98)
    assert model.backbone.fc.weight.shape == (196, 2048)  # type: ignore[union-attr]


def test_weights_of_a_classifier_and_of_a_deep_pose(tmp_path: Path) -> None:
    other = resnet18(num_classes=10)
    torch.save(other.state_dict(), tmp_path / "classifier.pt")
    model = deep_pose(5, "resnet18", weights=tmp_path / "classifier.pt")
    for name, value in model.backbone.state_dict().items():
        assert name.startswith("fc.") or torch.equal(value, other.state_dict()[name]), name
    torch.save({"model": model.state_dict()}, tmp_path / "pose.pt")
    again = deep_pose(5, "resnet18", weights=tmp_path / "pose.pt")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize("backbone", ["shufflenet_v2_x0_5", "squeezenet1_1"])
def test_training_begins_at_the_mean_face(backbone: str) -> None:
    model, points = deep_pose(5, backbone).eval(), 0.2 + 0.6 * torch.rand(5, 2)
    assert begin_at_points(model, points)
    with torch.inference_mode():
        found = model(torch.rand(2, 3, 64, 64))
    assert (found - points).abs().max() < 0.15
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not begin_at_points(model, points[:3])
    assert not begin_at_points(DeepPose(torch.nn.Flatten()), points)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_points must be at least 1, got 0"):
        deep_pose(0)
    torch.save({"other": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"weights .*other\.pt: no weights fit the model"):
        deep_pose(5, "resnet18", weights=tmp_path / "other.pt")
