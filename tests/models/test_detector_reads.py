"""Where torchvision's detectors wait for the device in a training step; what we build around them adds nothing.

The table is the list of these places: each makes the host wait once per image, per level or per step.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ignite_imgtools import models
from tests.engines.reads import CountReads

_TRANSFORM = {"transform.torch_choice"}  # draws the size, of one choice too; on the CPU
_MATCHING = {"_utils.set_low_quality_matches_"}
_RPN = {"rpn.filter_proposals", "rpn.compute_loss", "boxes.remove_small_boxes", "boxes.nms"}
_TWO_STAGES = {
    *_TRANSFORM,
    *_MATCHING,
    *_RPN,
    "_utils.__call__",  # the balanced sampler, of anchors and of proposals
    "generalized_rcnn.forward",  # degenerate boxes
    "poolers._multiscale_roi_align",  # once a level
    "roi_heads.subsample",
    "roi_heads.fastrcnn_loss",
}
READS = {
    "faster_rcnn": _TWO_STAGES,
    "mask_rcnn": {*_TWO_STAGES, "roi_heads.forward"},
    "keypoint_rcnn": {*_TWO_STAGES, "roi_heads.forward", "roi_heads.keypointrcnn_loss"},
    "retinanet": {*_TRANSFORM, *_MATCHING, "retinanet.forward", "retinanet.compute_loss"},
    "fcos": {*_TRANSFORM, "fcos.forward", "fcos.compute_loss", "_utils._loss_inter_union"},
    "ssdlite": {*_TRANSFORM, "ssd.forward", "ssd.compute_loss"},
}
_SMALL: dict[str, Any] = {"backbone": "resnet18", "fpn_channels": 32, "min_size": 64, "max_size": 96}
_RCNN: dict[str, Any] = {**_SMALL, "representation": 16, "proposals": (50, 50), "sampling_ratio": 1}
_MODELS: dict[str, Callable[[], nn.Module]] = {
    "faster_rcnn": lambda: models.faster_rcnn(3, **_RCNN),
    "mask_rcnn": lambda: models.mask_rcnn(3, **_RCNN, mask_layers=(8, 8)),
    "keypoint_rcnn": lambda: models.keypoint_rcnn(2, **_RCNN, keypoint_layers=(8, 8)),
    "retinanet": lambda: models.retinanet(3, **_SMALL),
    "fcos": lambda: models.fcos(3, **_SMALL),
    "ssdlite": lambda: models.ssdlite(3),
}


class _FindReads(CountReads):
    """Also where each was asked for: the innermost function of torchvision or of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = sum(self.reads.values())
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if sum(self.reads.values()) > before:
            frames = [
                frame
                for frame in traceback.extract_stack()
                if "/torchvision/" in frame.filename or "/ignite_imgtools/" in frame.filename
            ]
            owner = "" if "/torchvision/" in frames[-1].filename else "ignite_imgtools."
            self.places.add(f"{owner}{frames[-1].filename.rsplit('/', 1)[-1].removesuffix('.py')}.{frames[-1].name}")
        return result


@pytest.mark.parametrize("name", _MODELS)
def test_the_places_where_a_detector_waits_are_torchvisions_and_known(name: str) -> None:
    torch.manual_seed(0)
    model = _MODELS[name]().train()
    boxes = torch.tensor([[5.0, 5, 30, 30], [20, 20, 60, 60]])
    target = {
        "boxes": boxes,
        "labels": torch.ones(2, dtype=torch.int64),
        "masks": torch.ones(2, 64, 80, dtype=torch.uint8),
        "keypoints": torch.tensor([[[10.0, 10, 2]] * 17] * 2),
    }
    with _FindReads() as found:
        model([torch.rand(3, 64, 80), torch.rand(3, 64, 80)], [target, target])
    assert found.places == READS[name]
