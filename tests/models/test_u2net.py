from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ignite_imgtools.models import u2net, u2net_lite
from tests.models.counts import parameter_count, removed_biases


def test_parameter_counts_are_the_authors_less_the_biases():
    with torch.device("meta"):
        full, lite = u2net(), u2net_lite()
    assert parameter_count(full) == 43_995_469
    assert parameter_count(full) + removed_biases(full) == 44_009_869
    assert parameter_count(lite) == 1_128_333
    assert parameter_count(lite) + removed_biases(lite) == 1_131_181


def test_outputs():
    torch.manual_seed(0)
    model = u2net_lite()
    images = torch.rand(2, 3, 37, 64)
    output = model(images)
    assert output["out"].shape == (2, 1, 37, 64)
    assert [tuple(side.shape) for side in output["sides"]] == [(2, 1, 37, 64)] * 6
    (output["out"].sum() + sum(side.square().sum() for side in output["sides"])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    model.eval()
    with torch.inference_mode():
        for size in ((1, 1), (5, 70), (33, 31)):
            output = model(torch.rand(1, 3, *size))
            assert {key: tuple(value.shape) for key, value in output.items()} == {"out": (1, 1, *size)}


class _Authors:
    """U2-Net as the paper has it, straight down, on parameters with the authors' names and with their biases."""

    def __init__(self, inner=16, width=64):
        self.state = {}
        torch.manual_seed(3)
        for stage, (height, in_channels) in enumerate([(7, 3), (6, 64), (5, 64), (4, 64), (0, 64), (0, 64)], start=1):
            self._make_stage(f"stage{stage}", height, in_channels, inner, width)
        for stage, height in ((5, 0), (4, 4), (3, 5), (2, 6), (1, 7)):
            self._make_stage(f"stage{stage}d", height, 2 * width, inner, width)
        for side in range(1, 7):
            self._make_convolution(f"side{side}", width, 1, 3)
        self._make_convolution("outconv", 6, 1, 1)

    def _make_convolution(self, name, in_channels, out_channels, size):
        self.state[f"{name}.weight"] = torch.randn(out_channels, in_channels, size, size) / (3 * in_channels) ** 0.5
        self.state[f"{name}.bias"] = torch.randn(out_channels)

    def _make_layer(self, name, in_channels, out_channels):
        self._make_convolution(f"{name}.conv_s1", in_channels, out_channels, 3)
        for key in ("weight", "bias", "running_mean", "running_var"):
            self.state[f"{name}.bn_s1.{key}"] = torch.rand(out_channels) + 0.5
        self.state[f"{name}.bn_s1.num_batches_tracked"] = torch.tensor(9)

    def _make_stage(self, name, height, in_channels, inner, width):
        height = height or 4
        self._make_layer(f"{name}.rebnconvin", in_channels, width)
        for layer in range(1, height + 1):
            self._make_layer(f"{name}.rebnconv{layer}", width if layer == 1 else inner, inner)
        for layer in range(height - 1, 0, -1):
            self._make_layer(f"{name}.rebnconv{layer}d", 2 * inner, width if layer == 1 else inner)

    def _layer(self, name, x, dilation=1):
        s = self.state
        x = F.conv2d(x, s[f"{name}.conv_s1.weight"], s[f"{name}.conv_s1.bias"], padding=dilation, dilation=dilation)
        return F.batch_norm(
            x, *(s[f"{name}.bn_s1.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        ).relu()

    def _stage(self, name, height, x):
        entered = x = self._layer(f"{name}.rebnconvin", x)
        levels = []
        for layer in range(1, height or 4):
            if layer > 1 and height:
                x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            x = self._layer(f"{name}.rebnconv{layer}", x, 1 if height else 2 ** (layer - 1))
            levels.append(x)
        x = self._layer(f"{name}.rebnconv{height or 4}", x, 2 if height else 8)
        for layer in range((height or 4) - 1, 0, -1):
            x = F.interpolate(x, size=levels[layer - 1].shape[2:], mode="bilinear", align_corners=False)
            x = torch.cat([x, levels[layer - 1]], 1)
            x = self._layer(f"{name}.rebnconv{layer}d", x, 1 if height else 2 ** (layer - 1))
        return x + entered

    def __call__(self, images):
        heights = [7, 6, 5, 4, 0, 0]
        levels = []
        x = images
        for stage, height in enumerate(heights, start=1):
            x = self._stage(f"stage{stage}", height, x if stage == 1 else F.max_pool2d(x, 2, 2, ceil_mode=True))
            levels.append(x)
        maps = {6: x}
        for stage in (5, 4, 3, 2, 1):
            beside = levels[stage - 1]
            x = F.interpolate(x, size=beside.shape[2:], mode="bilinear", align_corners=False)
            x = maps[stage] = self._stage(f"stage{stage}d", heights[stage - 1], torch.cat([x, beside], 1))
        s, sides = self.state, []
        for side in range(1, 7):
            x = F.conv2d(maps[side], s[f"side{side}.weight"], s[f"side{side}.bias"], padding=1)
            sides.append(F.interpolate(x, size=images.shape[2:], mode="bilinear", align_corners=False))
        return F.conv2d(torch.cat(sides, 1), s["outconv.weight"], s["outconv.bias"])


def test_the_authors_weights_give_the_authors_output(tmp_path):
    authors = _Authors()
    torch.save(authors.state, tmp_path / "u2netp.pth")
    model = u2net_lite(weights=tmp_path / "u2netp.pth").double().eval()
    authors.state = {name: value.double() for name, value in authors.state.items()}
    images = torch.rand(2, 3, 75, 90, dtype=torch.float64)
    with torch.inference_mode():
        expected = authors(images)
        difference = model(images)["out"] - expected
    assert difference.abs().max() < 1e-5 * expected.std()


def test_weights_of_its_own(tmp_path):
    torch.manual_seed(1)
    trained = u2net_lite()
    torch.save({"model": trained.state_dict()}, tmp_path / "best.pt")
    state = u2net_lite(weights=tmp_path / "best.pt").state_dict()
    torch.testing.assert_close(state, trained.state_dict(), rtol=0, atol=0)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"none can be downloaded for U2-Net; give a file, as the authors' u2net\.pth"):
        u2net_lite(weights="default")
    with pytest.raises(FileNotFoundError, match="no such file"):
        u2net_lite(weights=tmp_path / "missing.pth")
    torch.save({"conv1.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no weights fit the model"):
        u2net_lite(weights=tmp_path / "other.pth")
