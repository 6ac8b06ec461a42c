"""U2-Net: a U whose every level is a small U, for salient objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ignite_imgtools.models.weights import load_weights, read_weights

__all__ = ["U2Net", "u2net", "u2net_lite"]


class _Level(NamedTuple):
    """One small U: its number of layers (0 for the one of dilated layers that keeps its size) and its widths."""

    height: int
    in_channels: int
    inner_channels: int
    out_channels: int


# Tables 1 and 2 of the paper: six levels downwards, then five upwards.
_FULL = (
    _Level(7, 3, 32, 64),
    _Level(6, 64, 32, 128),
    _Level(5, 128, 64, 256),
    _Level(4, 256, 128, 512),
    _Level(0, 512, 256, 512),
    _Level(0, 512, 256, 512),
    _Level(0, 1024, 256, 512),
    _Level(4, 1024, 128, 256),
    _Level(5, 512, 64, 128),
    _Level(6, 256, 32, 64),
    _Level(7, 128, 16, 64),
)
_LITE = tuple(
    _Level(level.height, 3 if index == 0 else 64 if index < 6 else 128, 16, 64) for index, level in enumerate(_FULL)
)


class U2Net(nn.Module):
    """U2-Net (Qin et al. 2020), whose convolutions have no bias before a batch normalisation.

    Args:
        levels: the small Us, six downwards and five upwards; by default those of the full model.

    Shapes:
        images ``[B, 3, H, W]`` of any size to ``{"out": logits [B, 1, H, W]}``, in training with ``"sides"`` beside
        it: the six maps that the output is mixed of, from fine to coarse, each enlarged to ``[B, 1, H, W]``.
    """

    def __init__(self, levels: Sequence[_Level] = _FULL):
        super().__init__()
        self.downs = nn.ModuleList(_SmallU(level) for level in levels[:6])
        self.ups = nn.ModuleList(_SmallU(level) for level in levels[6:])
        widths = [levels[index].out_channels for index in (10, 9, 8, 7, 6, 5)]
        self.sides = nn.ModuleList(nn.Conv2d(width, 1, kernel_size=3, padding=1) for width in widths)
        self.fuse = nn.Conv2d(6, 1, kernel_size=1)

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        levels = [self.downs[0](images)]
        for down in self.downs[1:]:
            levels.append(down(_halve(levels[-1])))
        upwards = [levels[-1]]
        for up, beside in zip(self.ups, reversed(levels[:-1]), strict=True):
            upwards.append(up(torch.cat([_resize(upwards[-1], beside), beside], dim=1)))
        sides = [_resize(side(level), images) for side, level in zip(self.sides, reversed(upwards), strict=True)]
        out = self.fuse(torch.cat(sides, dim=1))
        return {"out": out, "sides": sides} if self.training else {"out": out}


def u2net(*, weights: str | Path = "none") -> U2Net:
    """The full U2-Net.

    43,995,469 parameters: the 44,009,869 of the authors' model less 14,400 biases that stand before a batch
    normalisation there, which subtracts them again.

    Args:
        weights: ``"none"``, or a file: of this model, or the authors' ``u2net.pth``, whose biases go into the means
            of the normalisation, so that the output is the same.

    Raises:
        ValueError: the weights do not fit.
        FileNotFoundError: there is no such file.
    """
    return _load(U2Net(_FULL), weights)


def u2net_lite(*, weights: str | Path = "none") -> U2Net:
    """The small U2-Net: 1,128,333 parameters, the authors' 1,131,181 less 2,848 biases.

    Args:
        weights: as for :func:`u2net`; the authors' file is ``u2netp.pth``.

    Raises:
        ValueError: the weights do not fit.
        FileNotFoundError: there is no such file.
    """
    return _load(U2Net(_LITE), weights)


class _SmallU(nn.Module):
    """A residual U: layers at ever coarser sizes and back again, added to what came in.

    The paper's RSU-L has ``height`` L; its RSU-4F keeps the size and spreads the kernels instead.
    """

    def __init__(self, level: _Level):
        super().__init__()
        height, in_channels, inner, out_channels = level
        self.halves = height > 0
        # How far the kernels of each layer are spread, from the first to the one at the bottom.
        spread = [1] * (height - 1) + [2] if self.halves else [1, 2, 4, 8]
        self.enter = _conv(in_channels, out_channels)
        self.downs = nn.ModuleList(
            _conv(out_channels if index == 0 else inner, inner, dilation) for index, dilation in enumerate(spread)
        )
        self.ups = nn.ModuleList(
            _conv(2 * inner, out_channels if index == 0 else inner, spread[index])
            for index in reversed(range(len(spread) - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        entered = self.enter(x)
        levels = [self.downs[0](entered)]
        for down in self.downs[1:-1]:
            levels.append(down(_halve(levels[-1]) if self.halves else levels[-1]))
        x = self.downs[-1](levels[-1])
        for up, beside in zip(self.ups, reversed(levels), strict=True):
            x = up(torch.cat([_resize(x, beside), beside], dim=1))
        return x + entered


def _conv(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2, ceil_mode=True)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _load(model: U2Net, weights: str | Path) -> U2Net:
    if weights == "default":
        raise ValueError(
            "weights: none can be downloaded for U2-Net; give a file, as the authors' u2net.pth, or 'none'"
        )
    if weights != "none":
        state = read_weights(weights)
        if "stage1.rebnconvin.conv_s1.weight" in state:
            load_weights(model, _from_authors(model, state), source=weights)
        else:
            load_weights(model, weights)
    return model


def _from_authors(model: U2Net, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the authors' model with the names of ours, and without the biases before a normalisation."""
    translated = {}
    for theirs, ours in _authors_names(model):
        if theirs.endswith("conv_s1"):
            normalisation = theirs.removesuffix("conv_s1") + "bn_s1"
            for name in ("weight", "bias", "running_var", "num_batches_tracked"):
                if f"{normalisation}.{name}" in state:
                    translated[f"{ours}.1.{name}"] = state[f"{normalisation}.{name}"]
            translated[f"{ours}.0.weight"] = state[f"{theirs}.weight"]
            translated[f"{ours}.1.running_mean"] = state[f"{normalisation}.running_mean"] - state[f"{theirs}.bias"]
        else:
            translated[f"{ours}.weight"], translated[f"{ours}.bias"] = (
                state[f"{theirs}.weight"],
                state[f"{theirs}.bias"],
            )
    return translated


def _authors_names(model: U2Net) -> Iterator[tuple[str, str]]:
    """Names of the convolutions, the authors' and ours."""
    stages = {f"downs.{i}": f"stage{i + 1}" for i in range(6)} | {f"ups.{i}": f"stage{5 - i}d" for i in range(5)}
    for ours, theirs in stages.items():
        small_u = model.get_submodule(ours)
        assert isinstance(small_u, _SmallU)
        depth = len(small_u.downs)
        yield f"{theirs}.rebnconvin.conv_s1", f"{ours}.enter"
        yield from ((f"{theirs}.rebnconv{i + 1}.conv_s1", f"{ours}.downs.{i}") for i in range(depth))
        yield from ((f"{theirs}.rebnconv{depth - 1 - i}d.conv_s1", f"{ours}.ups.{i}") for i in range(depth - 1))
    yield from ((f"side{i + 1}", f"sides.{i}") for i in range(6))
    yield "outconv", "fuse"
