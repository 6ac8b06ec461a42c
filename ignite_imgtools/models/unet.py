"""U-Net, and U-Nets whose contracting half is an ImageNet classifier of torchvision."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models import MobileNet_V3_Large_Weights, VGG16_BN_Weights

from ignite_imgtools.models.weights import default_weights, load_weights

__all__ = ["EncoderUNet", "UNet", "unet", "unet_mobilenet_v3_large", "unet_vgg16"]


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015) with batch normalisation and padded convolutions.

    The output has the size of the input, whatever it is. A level of odd size is halved upwards and cut on the way
    back, so no pixel is lost and none is made up.

    Args:
        num_classes: channels of the logits.
        in_channels: of the images.
        base_channels: of the first level; each of the four levels below has twice as many as the one above it.
        bilinear: enlarge by bilinear interpolation; else by transposed convolutions, with about 1.8 times the
            parameters. 4.32 million against 7.76 with the defaults and two classes.

    Shapes:
        images ``[B, in_channels, H, W]`` to ``{"out": logits [B, num_classes, H, W]}``.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, base_channels: int = 32, bilinear: bool = True):
        super().__init__()
        _check_at_least_one(num_classes=num_classes, in_channels=in_channels, base_channels=base_channels)
        widths = [base_channels * 2**level for level in range(5)]
        if bilinear:
            # What comes from below keeps half the channels, as a transposed convolution would leave of them.
            widths[4] //= 2
        self.stem = _double_conv(in_channels, widths[0])
        self.downs = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), _double_conv(above, width))
            for above, width in itertools.pairwise(widths)
        )
        self.ups = nn.ModuleList()
        below = widths[4]
        for level in (3, 2, 1, 0):
            out_channels = widths[level] // 2 if bilinear and level > 0 else widths[level]
            up = _Up(below, widths[level], out_channels) if bilinear else _TransposedUp(below, widths[level])
            self.ups.append(up)
            below = out_channels
        self.head = nn.Conv2d(below, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels = [self.stem(images)]
        for down in self.downs:
            levels.append(down(levels[-1]))
        return {"out": self.head(_expand(self.ups, levels))}


class EncoderUNet(nn.Module):
    """The expanding half of a U-Net over the layers of a classifier.

    Args:
        features: layers that are called one after another; their names are kept, so that the classifier's weights fit.
        taps: indices of the layers whose outputs are the levels, from fine to coarse; layers after the last are
            dropped.
        widths: channels of these levels.
        num_classes: channels of the logits.

    Shapes:
        images ``[B, 3, H, W]`` to ``{"out": logits [B, num_classes, H, W]}``, enlarged bilinearly where the finest
        level is smaller than the image.
    """

    def __init__(self, features: nn.Sequential, taps: Sequence[int], widths: Sequence[int], num_classes: int):
        super().__init__()
        _check_at_least_one(num_classes=num_classes)
        self.features = features[: taps[-1] + 1]
        self.taps = tuple(taps)
        self.ups = nn.ModuleList()
        below = widths[-1]
        for width in reversed(widths[:-1]):
            self.ups.append(_Up(below, width, width))
            below = width
        self.head = nn.Conv2d(below, num_classes, kernel_size=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels = []
        x = images
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                levels.append(x)
        return {"out": _resize(self.head(_expand(self.ups, levels)), images)}


def unet(
    num_classes: int,
    *,
    in_channels: int = 3,
    base_channels: int = 32,
    bilinear: bool = True,
    weights: str | Path = "none",
) -> UNet:
    """:class:`UNet`, from random weights or from a file.

    Args:
        weights: ``"none"`` or a file, of which the part that fits is loaded. No weights are published.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
        FileNotFoundError: there is no such file.
    """
    if weights == "default":
        raise ValueError("weights: none are published for unet; give a file or 'none', or take unet_mobilenet_v3_large")
    model = UNet(num_classes, in_channels, base_channels, bilinear)
    if weights != "none":
        load_weights(model, weights)
    return model


def unet_mobilenet_v3_large(num_classes: int, *, weights: str | Path = "none") -> EncoderUNet:
    """A U-Net over MobileNetV3-Large at strides 2, 4, 8, 16 and 32: 3.45 million parameters with two classes.

    Args:
        num_classes: channels of the logits.
        weights: ``"none"``; ``"default"`` for torchvision's of ImageNet in the contracting half; or a file of such a
            U-Net or of the classifier, of which the part that fits is loaded.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
        FileNotFoundError: there is no such file.
    """
    features = models.mobilenet_v3_large(weights=None).features
    model = EncoderUNet(features, taps=(1, 3, 6, 12, 15), widths=(16, 24, 40, 112, 160), num_classes=num_classes)
    _load(model, weights, MobileNet_V3_Large_Weights.DEFAULT)
    return model


def unet_vgg16(num_classes: int, *, weights: str | Path = "none") -> EncoderUNet:
    """A U-Net over VGG-16 with batch normalisation at strides 1, 2, 4, 8 and 16: 26.5 million parameters.

    Args:
        num_classes: channels of the logits.
        weights: as for :func:`unet_mobilenet_v3_large`.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
        FileNotFoundError: there is no such file.
    """
    features = models.vgg16_bn(weights=None).features
    for layer in features:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True  # else the last column of an odd size is not seen, and small images vanish
    model = EncoderUNet(features, taps=(5, 12, 22, 32, 42), widths=(64, 128, 256, 512, 512), num_classes=num_classes)
    _load(model, weights, VGG16_BN_Weights.DEFAULT)
    return model


class _Up(nn.Module):
    """Enlarge what comes from below, put it beside the finer level, and mix both."""

    def __init__(self, below: int, beside: int, out_channels: int):
        super().__init__()
        self.mix = _double_conv(below + beside, out_channels, (below + beside) // 2)

    def forward(self, below: Tensor, beside: Tensor) -> Tensor:
        return self.mix(torch.cat([beside, _resize(below, beside)], dim=1))


class _TransposedUp(nn.Module):
    """As :class:`_Up`, with a transposed convolution that halves the channels."""

    def __init__(self, below: int, beside: int):
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(below, below // 2, kernel_size=2, stride=2)
        self.mix = _double_conv(below // 2 + beside, beside)

    def forward(self, below: Tensor, beside: Tensor) -> Tensor:
        enlarged = self.enlarge(below)[..., : beside.shape[-2], : beside.shape[-1]]
        return self.mix(torch.cat([beside, enlarged], dim=1))


def _double_conv(in_channels: int, out_channels: int, between: int | None = None) -> nn.Sequential:
    between = between or out_channels
    return nn.Sequential(
        nn.Conv2d(in_channels, between, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(between),
        nn.ReLU(inplace=True),
        nn.Conv2d(between, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _expand(ups: nn.ModuleList, levels: list[Tensor]) -> Tensor:
    """The finest level, mixed with all below it."""
    x = levels[-1]
    for up, beside in zip(ups, reversed(levels[:-1]), strict=True):
        x = up(x, beside)
    return x


def _resize(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[-2:] == like.shape[-2:]:
        return x
    # Not by aligned corners: then an object's features would depend on the size of the image around it.
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _check_at_least_one(**arguments: int) -> None:
    for name, value in arguments.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _load(model: EncoderUNet, weights: str | Path, published: models.WeightsEnum) -> None:
    if weights == "default":
        load_weights(model, default_weights(published))
    elif weights != "none":
        load_weights(model, weights)
