"""HRNet for heat-maps of keypoints: a high resolution kept through the whole network, coarser ones beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

from ignite_imgtools.models.weights import load_weights

__all__ = ["HRNet", "hrnet_small", "hrnet_w32", "hrnet_w48"]

_STEM_CHANNELS = 64
_FIRST_STAGE_CHANNELS = 256


class HRNet(nn.Module):
    """HRNet (Sun et al. 2019) with the head of the paper for keypoints: one convolution of the finest branch.

    Parameters have the names of the authors' state dicts, so that these load as they are. Resolutions are 1/4, 1/8,
    1/16 and 1/32 of the image's, with ``base_channels`` times 1, 2, 4 and 8 channels; each stage has one more of
    them, and after each of its modules every resolution is the sum of all.

    Args:
        num_keypoints: channels of the output.
        base_channels: of the finest branch: 32 for W32, 48 for W48.
        modules: how often the resolutions are exchanged in stages 2, 3 and 4.
        blocks: residual blocks of each branch between two exchanges, and of the first stage.

    Shapes:
        images ``[B, 3, H, W]`` to heat-maps ``[B, num_keypoints, H / 4, W / 4]``, for sides that are multiples of 32.

    Raises:
        ValueError: an argument is below 1, or ``modules`` are not three.
    """

    def __init__(
        self, num_keypoints: int = 17, base_channels: int = 32, *, modules: Sequence[int] = (1, 4, 3), blocks: int = 4
    ):
        super().__init__()
        if len(modules) != 3 or min(num_keypoints, base_channels, blocks, *modules) < 1:
            raise ValueError(
                "num_keypoints, base_channels, blocks and three modules must be at least 1, got "
                f"{num_keypoints}, {base_channels}, {blocks} and {tuple(modules)}"
            )
        widths = [base_channels * 2**level for level in range(4)]
        self.conv1 = _conv3x3(3, _STEM_CHANNELS, stride=2)
        self.bn1 = nn.BatchNorm2d(_STEM_CHANNELS)
        self.conv2 = _conv3x3(_STEM_CHANNELS, _STEM_CHANNELS, stride=2)
        self.bn2 = nn.BatchNorm2d(_STEM_CHANNELS)
        self.layer1 = _first_stage(blocks)
        self.transition1 = _transition([_FIRST_STAGE_CHANNELS], widths[:2])
        self.stage2 = _stage(widths[:2], modules[0], blocks)
        self.transition2 = _transition(widths[:2], widths[:3])
        self.stage3 = _stage(widths[:3], modules[1], blocks)
        self.transition3 = _transition(widths[:3], widths)
        self.stage4 = _stage(widths, modules[2], blocks, last_outputs=1)
        self.final_layer = nn.Conv2d(widths[0], num_keypoints, kernel_size=1)
        self._reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        branches = [self.layer1(x)]
        for transition, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            # A branch comes from its predecessor of the same resolution, the new one from the coarsest there is.
            last = len(branches) - 1
            branches = [change(branches[min(level, last)]) for level, change in enumerate(transition)]
            branches = stage(branches)
        return cast(Tensor, self.final_layer(branches[0]))

    def _reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        # Heat-maps are nearly everywhere 0, so that is where the output starts.
        nn.init.normal_(self.final_layer.weight, std=0.001)
        assert self.final_layer.bias is not None
        nn.init.zeros_(self.final_layer.bias)


def hrnet_w32(num_keypoints: int = 17, *, weights: str | Path = "none") -> HRNet:
    """HRNet-W32, 28.5 million parameters.

    Args:
        num_keypoints: channels of the output.
        weights: ``"none"`` or a file, the authors' for pose or for ImageNet, or one of ours: the part that fits is
            loaded. None can be downloaded.

    Raises:
        ValueError: the weights do not fit, or ``"default"`` ones are asked for.
        FileNotFoundError: there is no such file.
    """
    return _create(num_keypoints, 32, weights)


def hrnet_w48(num_keypoints: int = 17, *, weights: str | Path = "none") -> HRNet:
    """HRNet-W48, 63.6 million parameters; arguments and errors are those of :func:`hrnet_w32`."""
    return _create(num_keypoints, 48, weights)


def hrnet_small(num_keypoints: int = 17, *, base_channels: int = 16, weights: str | Path = "none") -> HRNet:
    """HRNet for trials on a CPU: resolutions are exchanged once in each stage, after two blocks; 1.5 million
    parameters.

    Args:
        base_channels: of the finest branch.

    The other arguments and errors are those of :func:`hrnet_w32`.
    """
    return _create(num_keypoints, base_channels, weights, modules=(1, 1, 1), blocks=2)


class _Exchange(nn.Module):
    """Residual blocks in every resolution, then each of the first ``outputs`` becomes the sum of all."""

    def __init__(self, widths: Sequence[int], blocks: int, outputs: int):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width) for _ in range(blocks))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_path(widths, source, target) for source in range(len(widths))) for target in range(outputs)
        )

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        levels = [branch(level) for branch, level in zip(self.branches, x, strict=True)]
        fused = []
        for target, paths in enumerate(self.fuse_layers):
            size = levels[target].shape[-2:]
            arrived = (
                _enlarge(path(level), size) for path, level in zip(cast(nn.ModuleList, paths), levels, strict=True)
            )
            fused.append(F.relu(sum(arrived, start=next(arrived))))
        return fused


def _first_stage(blocks: int) -> nn.Sequential:
    widen = nn.Sequential(
        nn.Conv2d(_STEM_CHANNELS, _FIRST_STAGE_CHANNELS, kernel_size=1, bias=False),
        nn.BatchNorm2d(_FIRST_STAGE_CHANNELS),
    )
    first = Bottleneck(_STEM_CHANNELS, _STEM_CHANNELS, downsample=widen)
    return nn.Sequential(first, *(Bottleneck(_FIRST_STAGE_CHANNELS, _STEM_CHANNELS) for _ in range(blocks - 1)))


def _stage(widths: Sequence[int], modules: int, blocks: int, last_outputs: int | None = None) -> nn.Sequential:
    outputs = [len(widths)] * (modules - 1) + [last_outputs or len(widths)]
    return nn.Sequential(*(_Exchange(widths, blocks, count) for count in outputs))


def _transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """What leads into a stage: as many branches as its widths, one more than before."""
    changes: list[nn.Module] = [
        nn.Identity() if old == new else _conv_bn_relu(old, new) for old, new in zip(before, after, strict=False)
    ]
    changes.append(nn.Sequential(_conv_bn_relu(before[-1], after[-1], stride=2)))
    return nn.ModuleList(changes)


def _path(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """From one resolution to the channels of another; a finer target's size is made afterwards."""
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(
            nn.Conv2d(widths[source], widths[target], kernel_size=1, bias=False), nn.BatchNorm2d(widths[target])
        )
    return nn.Sequential(*_halvings(widths[source], widths[target], target - source))


def _halvings(in_channels: int, out_channels: int, steps: int) -> Iterator[nn.Module]:
    for _ in range(steps - 1):
        yield _conv_bn_relu(in_channels, in_channels, stride=2)
    # What is summed has its ReLU after the sum.
    yield nn.Sequential(_conv3x3(in_channels, out_channels, stride=2), nn.BatchNorm2d(out_channels))


def _conv_bn_relu(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        _conv3x3(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def _enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=list(size), mode="nearest")


def _create(num_keypoints: int, base_channels: int, weights: str | Path, **depth: Any) -> HRNet:
    if weights == "default":
        raise ValueError(
            "weights: none can be downloaded for HRNet; give a file, as the authors' pose_hrnet_w32_256x192.pth, "
            "or 'none'"
        )
    model = HRNet(num_keypoints, base_channels, **depth)
    if weights != "none":
        load_weights(model, weights)
    return model
