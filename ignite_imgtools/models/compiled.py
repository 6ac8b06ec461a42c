"""``torch.compile`` for models whose weights keep their names."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.ssd import SSD

from ignite_imgtools.models.yolov3_spp import Yolov3Spp

__all__ = ["compile_network"]


def compile_network(model: nn.Module, backend: str = "inductor", **options: Any) -> nn.Module:
    """Compile in place what of ``model`` is worth it; names and values of its weights stay as they are.

    Of a detector that is its network of convolutions, the body with its pyramid, or Darknet: what comes behind it has
    other shapes with every image. Of any other model it is the whole. Nothing is compiled before the first call; each
    new shape costs a compilation until the compiler takes sizes for variable, which it does at the second one.

    Args:
        model: without a wrapper. A copy of it (``copy.deepcopy``) is not compiled.
        backend: of ``torch.compile``; ``"inductor"`` needs a C++ compiler on CPUs, ``"eager"`` and ``"aot_eager"``
            compile nothing, to look for what goes wrong.
        options: more for ``torch.compile``.

    Returns:
        The module that was compiled: ``model`` itself, or the part of it.
    """
    if isinstance(model, GeneralizedRCNN | RetinaNet | FCOS | SSD):
        part: nn.Module = model.backbone
    else:
        part = model.network if isinstance(model, Yolov3Spp) else model
    part.compile(backend=backend, **options)
    return part
