"""Darknet-53 with spatial pyramid pooling and heads at three strides: the network of YOLOv3-SPP (arXiv:1804.02767)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["STRIDES", "Yolov3SppNetwork"]

STEM = 32
"""Channels of the convolution that sees the image."""

STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
"""Darknet-53: channels and number of residual blocks of each stage. A stage begins with a convolution of stride 2; a
block squeezes to half the channels (1 x 1), widens again (3 x 3) and adds its input."""

SPP: Final = "pooling"
"""Maxima over 13 x 13, 9 x 9 and 5 x 5 cells beside the cells themselves: four times as many channels."""


class Head(NamedTuple):
    """What makes the predictions of one stride.

    ``lateral``: channels to which the head before it is squeezed, then made twice as large and joined with the stage of
    the backbone of this stride; 0 for the first. ``layers``: (channels, kernel) of its convolutions, what follows them
    is the next head's input too. ``last``: channels of a 3 x 3 convolution; then one of 1 x 1 predicts.
    """

    stride: int
    stage: int
    lateral: int
    layers: tuple[tuple[int, int] | Literal["pooling"], ...]
    last: int


HEADS = (
    Head(32, 4, 0, ((512, 1), (1024, 3), (512, 1), SPP, (512, 1), (1024, 3), (512, 1)), 1024),
    Head(16, 3, 256, ((256, 1), (512, 3), (256, 1), (512, 3), (256, 1)), 512),
    Head(8, 2, 128, ((128, 1), (256, 3), (128, 1), (256, 3), (128, 1)), 256),
)

STRIDES = tuple(head.stride for head in HEADS)
"""Pixels of the image in a cell of each map of predictions."""


class Yolov3SppNetwork(nn.Module):
    """From images to three maps of raw predictions. Its convolutions are registered in the order of Darknet's file.

    Shapes:
        ``[B, 3, H, W]``, sides that are multiples of 32, to ``[B, outputs, H / s, W / s]`` for each stride ``s`` of
        :data:`STRIDES`.

    Args:
        outputs: channels of each map.
        width: factor of all channels, which are rounded to multiples of 8.
        depth: factor of the numbers of residual blocks, of which each stage keeps one at least.
        norm: makes the normalisation of a number of channels.

    Raises:
        ValueError: ``width`` or ``depth`` is not above 0.
    """

    def __init__(
        self,
        outputs: int,
        *,
        width: float = 1.0,
        depth: float = 1.0,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ):
        super().__init__()
        if not (width > 0 and depth > 0):
            raise ValueError(f"width and depth must be above 0, got {width} and {depth}")

        def channels(number: int) -> int:
            return max(8, round(number * width / 8) * 8)

        self.backbone = _Darknet53(channels, depth, norm)
        self.heads = nn.ModuleList()
        previous = 0
        for head in HEADS:
            self.heads.append(_Head(head, previous, channels(STAGES[head.stage][0]), outputs, channels, norm))
            previous = channels(head.layers[-1][0])  # type: ignore[arg-type]  # no head ends with pooling

    def forward(self, images: Tensor) -> list[Tensor]:
        stages = self.backbone(images)
        maps, features = [], None
        for head, spec in zip(self.heads, HEADS, strict=True):
            features, predictions = head(stages[spec.stage], features)
            maps.append(predictions)
        return maps

    def freeze_backbone(self, trainable_stages: int) -> None:
        """Train only the last stages of the backbone, 0 to 5, beside the heads; all five include the stem."""
        frozen: list[nn.Module] = list(self.backbone.stages)[: len(STAGES) - trainable_stages]
        for module in [*frozen, self.backbone.stem] if frozen else []:
            module.requires_grad_(False)


class _Unit(nn.Sequential):
    """A convolution, normalised, and a leaky ReLU of slope 0.1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, norm: Callable[[int], nn.Module], stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = norm(outputs)
        self.activation = nn.LeakyReLU(0.1, inplace=True)


class _Block(nn.Module):
    def __init__(self, channels: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.squeeze = _Unit(channels, channels // 2, 1, norm)
        self.widen = _Unit(channels // 2, channels, 3, norm)

    def forward(self, features: Tensor) -> Tensor:
        added: Tensor = features + self.widen(self.squeeze(features))
        return added


class _Darknet53(nn.Module):
    def __init__(self, channels: Callable[[int], int], depth: float, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.stem = _Unit(3, channels(STEM), 3, norm)
        self.stages = nn.ModuleList()
        inputs = channels(STEM)
        for number, blocks in STAGES:
            outputs = channels(number)
            residuals = [_Block(outputs, norm) for _ in range(max(1, round(blocks * depth)))]
            self.stages.append(nn.Sequential(_Unit(inputs, outputs, 3, norm, stride=2), *residuals))
            inputs = outputs

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.stem(images)
        outputs = []
        for stage in self.stages:
            features = stage(features)
            outputs.append(features)
        return outputs


class _SpatialPyramidPooling(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        # A maximum of maxima: windows of 5, 9 and 13 are one, two and three of 5. The order is that of Darknet's file.
        five = F.max_pool2d(features, 5, 1, 2)
        nine = F.max_pool2d(five, 5, 1, 2)
        return torch.cat((F.max_pool2d(nine, 5, 1, 2), nine, five, features), dim=1)


class _Head(nn.Module):
    def __init__(
        self,
        spec: Head,
        previous: int,
        from_backbone: int,
        outputs: int,
        channels: Callable[[int], int],
        norm: Callable[[int], nn.Module],
    ):
        super().__init__()
        self.lateral = _Unit(previous, channels(spec.lateral), 1, norm) if spec.lateral else None
        inputs = from_backbone + (channels(spec.lateral) if spec.lateral else 0)
        self.layers = nn.Sequential()
        for layer in spec.layers:
            if isinstance(layer, str):
                self.layers.append(_SpatialPyramidPooling())
                inputs *= 4
            else:
                number, kernel = layer
                self.layers.append(_Unit(inputs, channels(number), kernel, norm))
                inputs = channels(number)
        self.last = _Unit(inputs, channels(spec.last), 3, norm)
        self.predict = nn.Conv2d(channels(spec.last), outputs, 1)

    def forward(self, from_backbone: Tensor, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.lateral is not None:
            enlarged = F.interpolate(self.lateral(previous), scale_factor=2.0, mode="nearest")
            from_backbone = torch.cat((enlarged, from_backbone), dim=1)
        features = self.layers(from_backbone)
        return features, self.predict(self.last(features))
