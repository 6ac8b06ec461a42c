from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ignite_imgtools.models import HRNet, hrnet_small, hrnet_w32, hrnet_w48
from tests.models.counts import parameter_count


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        w32, w48 = hrnet_w32(), hrnet_w48()
    # The papers' tables say 28.5 and 63.6 million.
    assert parameter_count(w32) == 28_536_113
    assert parameter_count(w32) - parameter_count(w32.final_layer) == 28_535_552
    assert parameter_count(w48) == 63_595_745


class _Authors:
    """HRNet as the paper draws it, on parameters with the authors' names."""

    def __init__(self, width, joints, modules=(1, 4, 3), blocks=4):
        self.widths, self.modules, self.blocks = [width * 2**i for i in range(4)], modules, blocks
        self.state = {}
        self.known = False
        torch.manual_seed(3)
        self.joints = joints

    def conv(self, name, x, channels, size=3, stride=1):
        if not self.known:
            self.state[f"{name}.weight"] = torch.randn(channels, x.shape[1], size, size) / (size * x.shape[1] ** 0.5)
        return F.conv2d(x, self.state[f"{name}.weight"].to(x), stride=stride, padding=size // 2)

    def norm(self, name, x):
        keys = ("running_mean", "running_var", "weight", "bias")
        if not self.known:
            self.state |= {f"{name}.{key}": torch.rand(x.shape[1]) + 0.5 for key in keys}
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(9)
        return F.batch_norm(x, *(self.state[f"{name}.{key}"].to(x) for key in keys))

    def basic(self, name, x):
        y = self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x, x.shape[1])).relu()
        return (x + self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", y, x.shape[1]))).relu()

    def bottleneck(self, name, x):
        y = self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x, 64, 1)).relu()
        y = self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", y, 64)).relu()
        y = self.norm(f"{name}.bn3", self.conv(f"{name}.conv3", y, 256, 1))
        if x.shape[1] != 256:
            x = self.norm(f"{name}.downsample.1", self.conv(f"{name}.downsample.0", x, 256, 1))
        return (x + y).relu()

    def fuse(self, name, levels, target):
        total = 0
        for source, x in enumerate(levels):
            path = f"{name}.{target}.{source}"
            if source > target:
                x = self.norm(f"{path}.1", self.conv(f"{path}.0", x, self.widths[target], 1))
                x = F.interpolate(x, scale_factor=2 ** (source - target), mode="nearest")
            for step in range(target - source):
                last = step == target - source - 1
                x = self.conv(f"{path}.{step}.0", x, self.widths[target] if last else x.shape[1], 3, 2)
                x = self.norm(f"{path}.{step}.1", x)
                x = x if last else x.relu()
            total = total + x
        return total.relu()

    def __call__(self, x):
        for number in (1, 2):
            x = self.norm(f"bn{number}", self.conv(f"conv{number}", x, 64, 3, 2)).relu()
        for block in range(self.blocks):
            x = self.bottleneck(f"layer1.{block}", x)
        levels = [x]
        for stage, modules in zip((2, 3, 4), self.modules, strict=True):
            name = f"transition{stage - 1}"
            new = self.conv(f"{name}.{stage - 1}.0.0", levels[-1], self.widths[stage - 1], 3, 2)
            new = self.norm(f"{name}.{stage - 1}.0.1", new).relu()
            if stage == 2:
                levels = [self.norm(f"{name}.0.1", self.conv(f"{name}.0.0", x, self.widths[0])).relu()]
            levels.append(new)
            for module in range(modules):
                for branch in range(stage):
                    for block in range(self.blocks):
                        path = f"stage{stage}.{module}.branches.{branch}.{block}"
                        levels[branch] = self.basic(path, levels[branch])
                outputs = 1 if stage == 4 and module == modules - 1 else stage
                path = f"stage{stage}.{module}.fuse_layers"
                levels = [self.fuse(path, levels, target) for target in range(outputs)]
        y = self.conv("final_layer", levels[0], self.joints, 1)
        if not self.known:
            self.state["final_layer.bias"] = torch.randn(self.joints)
        self.known = True
        return y + self.state["final_layer.bias"].to(y)[:, None, None]


def test_the_authors_weights_give_the_authors_heatmaps(tmp_path):
    authors = _Authors(width=4, joints=5, modules=(1, 2, 2), blocks=2)
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    expected = authors(images)
    torch.save(authors.state, tmp_path / "pose_hrnet.pth")
    model = HRNet(5, 4, modules=(1, 2, 2), blocks=2)
    assert set(model.state_dict()) == set(authors.state)
    model.load_state_dict(torch.load(tmp_path / "pose_hrnet.pth"))
    with torch.inference_mode():
        heatmaps = model.double().eval()(images)
    assert heatmaps.shape == (2, 5, 16, 24)
    assert (heatmaps - expected).abs().max() < 1e-9 * expected.std()


def test_w32_takes_a_file_of_the_authors_and_leaves_a_head_of_other_joints(tmp_path):
    authors = _Authors(width=32, joints=17)
    authors(torch.zeros(1, 3, 32, 32))
    assert sum(value.numel() for value in authors.state.values() if value.is_floating_point()) > 28_535_552
    torch.save({"state_dict": {f"module.{name}": value for name, value in authors.state.items()}}, tmp_path / "w32.pth")
    state = hrnet_w32(weights=tmp_path / "w32.pth").state_dict()
    assert set(state) == set(authors.state)
    assert all(torch.equal(state[name], value) for name, value in authors.state.items())
    other = hrnet_w32(5, weights=tmp_path / "w32.pth").state_dict()
    assert other["final_layer.weight"].shape[0] == 5
    assert torch.equal(other["stage4.2.fuse_layers.0.3.0.weight"], authors.state["stage4.2.fuse_layers.0.3.0.weight"])


def test_every_parameter_learns_and_odd_sizes_pass():
    torch.manual_seed(0)
    model = HRNet(3, 4, modules=(1, 1, 1), blocks=1)
    model(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    with torch.inference_mode():
        assert model.eval()(torch.rand(1, 3, 50, 36)).shape == (1, 3, 13, 9)


def test_what_cannot_be_made(tmp_path):
    with pytest.raises(ValueError, match=r"none can be downloaded for HRNet; give a file, as the authors'"):
        hrnet_w48(weights="default")
    with pytest.raises(ValueError, match="must be at least 1"):
        HRNet(17, 32, modules=(1, 4))
    with pytest.raises(FileNotFoundError, match="no such file"):
        hrnet_w32(weights=tmp_path / "missing.pth")


def test_a_small_one_for_trials(tmp_path):
    small = hrnet_small()
    assert parameter_count(small) == 1_461_473
    torch.save(small.state_dict(), tmp_path / "small.pt")
    again = hrnet_small(weights=tmp_path / "small.pt")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in small.state_dict().items())
    assert hrnet_small(base_channels=8).final_layer.in_channels == 8
