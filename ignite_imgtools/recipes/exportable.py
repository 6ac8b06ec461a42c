"""Models as other programs can run them: tensors in, tensors out."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, MaskRCNN, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ignite_imgtools.engines import IMAGENET_MEAN, IMAGENET_STD
from ignite_imgtools.models.darknet import STRIDES
from ignite_imgtools.models.yolo_boxes import decode_boxes, split_outputs
from ignite_imgtools.models.yolov3_spp import Yolov3Spp

__all__ = ["Exportable", "exportable_crops", "exportable_detector"]


@dataclasses.dataclass(frozen=True)
class Exportable:
    """A model in evaluation mode with an input to run it on.

    Attributes:
        module: called with one tensor; returns a tensor, or a tuple of those in ``outputs``.
        example: an input of the kind it takes, float32 in 0..1.
        input: name of the input, and
        outputs: of the outputs.
        dynamic: dimensions of the input that may differ from those of ``example``, with their names.
        scripted: the same for ``torch.jit.script``, where a trace would not do, and
        traced: the same for a trace, where the module itself would not do.
        detections: whether the outputs are boxes, labels, scores and what belongs to them, of any number.
    """

    module: nn.Module
    example: Tensor
    input: str
    outputs: tuple[str, ...]
    dynamic: dict[int, str]
    scripted: nn.Module | None = None
    traced: nn.Module | None = None
    detections: bool = False


def exportable_crops(
    model: nn.Module,
    size: Sequence[int],
    output: str,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Exportable:
    """A model of images of one size: ``[B, 3, H, W]`` in 0..1, which it normalises itself; any ``B``.

    Args:
        size: height and width.
        output: name of what it returns.
    """
    module = _Normalised(model, mean, std).eval()
    return Exportable(module, torch.rand(2, 3, *size), "images", (output,), {0: "batch"})


def exportable_detector(model: nn.Module, size: Sequence[int]) -> Exportable:
    """A detector of one image ``[3, H, W]`` in 0..1 of any size; masks are bool ``[N, 1, H, W]``.

    YOLOv3-SPP takes letterboxed images ``[B, 3, S, S]`` of one size instead, and returns all its boxes with a score for
    each class: what is before the suppression of doubles.

    Args:
        size: height and width of the example.
    """
    model = model.eval()
    if isinstance(model, Yolov3Spp):
        example = torch.rand(2, 3, model.size, model.size)
        return Exportable(_YoloCandidates(model).eval(), example, "images", ("boxes", "scores"), {0: "batch"})
    keys = ["boxes", "labels", "scores"]
    if isinstance(model, GeneralizedRCNN):
        heads: Any = model.roi_heads
        keys += ["masks"] * bool(heads.has_mask()) + ["keypoints"] * bool(heads.has_keypoint())
    kind = {3: _ScriptedBoxes, 4: _ScriptedMasks if "masks" in keys else _ScriptedKeypoints}[len(keys)]
    plain = _scriptable(model)
    return Exportable(
        _Detector(model, keys).eval(),
        torch.rand(3, *size),
        "image",
        tuple(keys),
        {1: "height", 2: "width"},
        scripted=kind(plain).eval(),
        traced=_Detector(plain, keys).eval(),
        detections=True,
    )


def _scriptable(model: nn.Module) -> nn.Module:
    """A copy of a detector that TorchScript takes."""
    model = copy.deepcopy(model)
    for module in model.modules():
        module._forward_hooks.clear()  # they only bring half precision back to float32
    if isinstance(model, MaskRCNN):
        model.transform.__class__ = GeneralizedRCNNTransform  # which needs more memory than ours, for the same masks
    for kind in (RetinaNet, FCOS):
        if isinstance(model, kind):
            # Our own kinds leave out the background by a method that calls torchvision's, which TorchScript does not
            # take; a logit that is always very low does the same.
            model.__class__ = kind
            head: Any = model.head.classification_head
            with torch.no_grad():
                head.cls_logits.weight[:: head.num_classes] = 0
                head.cls_logits.bias[:: head.num_classes] = -1e4
    return model


class _Normalised(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        output = self.model((images - self.mean) / self.std)
        found: Tensor = output["out"] if isinstance(output, dict) else output
        return found


class _YoloCandidates(nn.Module):
    def __init__(self, model: Yolov3Spp):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        model = self.model
        maps = split_outputs(model.network(images), model.anchors.shape[1])
        decoded = [decode_boxes(*parts) for parts in zip(maps, model.anchors, STRIDES, strict=True)]
        boxes = torch.cat([part.flatten(1, 3) for part in decoded], dim=1)
        raw = torch.cat([part.flatten(1, 3) for part in maps], dim=1).sigmoid()
        return boxes, raw[..., 4:5] * raw[..., 5:]


class _Detector(nn.Module):
    def __init__(self, model: nn.Module, keys: Sequence[str]):
        super().__init__()
        self.model, self.keys = model, keys

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (found,) = self.model([image])
        return tuple(found[key] > 0.5 if key == "masks" else found[key] for key in self.keys)


class _Scripted(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


# Scripted, a detector of torchvision returns a pair of losses and detections; and TorchScript has no loops over names.
class _ScriptedBoxes(_Scripted):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = self.model([image])[1][0]
        return found["boxes"], found["labels"], found["scores"]


class _ScriptedMasks(_Scripted):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found = self.model([image])[1][0]
        return found["boxes"], found["labels"], found["scores"], found["masks"] > 0.5


class _ScriptedKeypoints(_Scripted):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found = self.model([image])[1][0]
        return found["boxes"], found["labels"], found["scores"], found["keypoints"]
