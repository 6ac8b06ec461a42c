"""Reading Darknet's binary files of weights.

A file is a header (int32 major, minor and revision of Darknet; the number of images seen, int64 from version 0.2 on,
int32 before) and little-endian float32 numbers: for each convolution in order, where it is normalised the offsets,
scales, running means and running variances, else the offsets alone, and then the kernels ``[out, in, height, width]``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ignite_imgtools.models.darknet import Yolov3SppNetwork

__all__ = ["read_darknet_weights"]


class _Layer(NamedTuple):
    """A convolution and, where it has one, its normalisation, by their names in the network."""

    conv_name: str
    conv: nn.Conv2d
    norm_name: str | None

    def size(self) -> int:
        """How many numbers the file has for it."""
        outputs = self.conv.out_channels
        return self.conv.weight.numel() + outputs * (4 if self.norm_name else 1)


def read_darknet_weights(path: str | Path, network: Yolov3SppNetwork) -> dict[str, Tensor]:
    """The weights of YOLOv3-SPP in a file of Darknet, as a state dict for ``network``.

    A file for another number of classes will do, its last layers then have other shapes; so will one of the backbone
    alone, such as ``darknet53.conv.74``.

    Args:
        path: the file.
        network: tells the layers; it is not changed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is too short or too long for the network, or holds numbers that are not finite; in one line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights {path}: no such file; give a path or 'none'")
    numbers = _numbers(path)
    layers = _layers(network)
    in_backbone = len(_layers(network.backbone))
    predicting = [layer for layer in layers if layer.norm_name is None]
    fixed = sum(layer.size() for layer in layers if layer.norm_name)
    backbone = sum(layer.size() for layer in layers[:in_backbone])
    if len(numbers) == backbone:
        layers = layers[:in_backbone]
        outputs = 0
    else:
        # Each of the three last layers has (inputs + 1) numbers for each of its outputs, of which all have as many.
        per_output = sum(layer.conv.in_channels + 1 for layer in predicting)
        outputs, rest = divmod(len(numbers) - fixed, per_output)
        expected = fixed + per_output * predicting[0].conv.out_channels
        if rest or outputs < 1:
            raise ValueError(
                f"weights {path}: expected {expected} float32 numbers after the header for this network ({backbone} "
                f"for its backbone alone), got {len(numbers)}; the file is cut, or of another network"
            )
    state, position = {}, 0
    for name, shape in _tensors(layers, outputs):
        count = int(np.prod(shape))
        values = numbers[position : position + count]
        if not np.isfinite(values).all():
            bad = position + int(np.flatnonzero(~np.isfinite(values))[0])
            raise ValueError(f"weights {path}: number {bad}, of {name}, is {numbers[bad]}; the file is damaged")
        state[name] = torch.from_numpy(values.reshape(shape).copy())
        position += count
    return state


def _numbers(path: Path) -> np.ndarray:
    content = path.read_bytes()
    if len(content) < 16:
        raise ValueError(f"weights {path}: expected a header of Darknet, got {len(content)} bytes; restore the file")
    major, minor, _ = struct.unpack_from("<3i", content)
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        raise ValueError(
            f"weights {path}: expected a header of Darknet, got version {major}.{minor}; give a .weights file of it"
        )
    start = 20 if major * 10 + minor >= 2 else 16
    size = len(content) - start
    if size < 0 or size % 4:
        raise ValueError(
            f"weights {path}: expected float32 numbers after the header, got {size} bytes; the file is cut"
        )
    return np.frombuffer(content, "<f4", offset=start)


def _layers(network: nn.Module) -> list[_Layer]:
    return [
        _Layer(name, module, f"{name.removesuffix('conv')}norm" if name.endswith(".conv") else None)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]


def _tensors(layers: list[_Layer], outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor in the order of the file; ``outputs`` of those that predict."""
    for layer in layers:
        shape = tuple(layer.conv.weight.shape)
        if layer.norm_name is None:
            shape = (outputs, *shape[1:])
            yield f"{layer.conv_name}.bias", shape[:1]
        else:
            for part in ("bias", "weight", "running_mean", "running_var"):
                yield f"{layer.norm_name}.{part}", shape[:1]
        yield f"{layer.conv_name}.weight", shape
