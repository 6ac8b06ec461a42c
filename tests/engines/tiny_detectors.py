"""Detectors that take milliseconds, and batches for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

__all__ = ["tiny_batch", "tiny_faster_rcnn", "tiny_mask_rcnn", "tiny_retinanet"]


class _Backbone(nn.Sequential):
    out_channels = 8


def _backbone(norm: bool) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU()]
    return _Backbone(*layers, nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())


def _rcnn_arguments() -> dict[str, Any]:
    return {
        "min_size": 72,
        "max_size": 160,
        "rpn_anchor_generator": AnchorGenerator(((8, 16, 32),), ((1.0,),)),
        "box_roi_pool": MultiScaleRoIAlign(["0"], 3, 1),
        "box_head": TwoMLPHead(8 * 9, 16),
        "box_predictor": FastRCNNPredictor(16, 3),
        "rpn_batch_size_per_image": 16,
        "box_batch_size_per_image": 16,
        "rpn_pre_nms_top_n_train": 60,
        "rpn_post_nms_top_n_train": 30,
        "box_score_thresh": 0.0,
        "box_detections_per_img": 10,
    }


def tiny_faster_rcnn(seed: int = 0, norm: bool = False) -> FasterRCNN:
    """Faster R-CNN of two classes and the background; without normalisation a batch is the sum of its images."""
    torch.manual_seed(seed)
    return FasterRCNN(_backbone(norm), **_rcnn_arguments())


def tiny_mask_rcnn(seed: int = 0) -> MaskRCNN:
    """Mask R-CNN of two classes and the background."""
    torch.manual_seed(seed)
    masks = {"mask_roi_pool": MultiScaleRoIAlign(["0"], 6, 1), "mask_predictor": MaskRCNNPredictor(4, 4, 3)}
    return MaskRCNN(_backbone(False), **_rcnn_arguments(), mask_head=nn.Conv2d(8, 4, 3, padding=1), **masks)


def tiny_retinanet(seed: int = 0) -> RetinaNet:
    """RetinaNet of two classes and the background."""
    torch.manual_seed(seed)
    anchors = AnchorGenerator(((8, 16, 32),), ((1.0,),))
    return RetinaNet(_backbone(True), 3, min_size=72, max_size=160, anchor_generator=anchors, score_thresh=0.0)


def tiny_batch(count: int, first_id: int = 0, masks: bool = False) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Images of noise and various sizes; what is drawn for one depends on its id alone."""
    images, targets = [], []
    for image_id in range(first_id, first_id + count):
        generator = torch.Generator().manual_seed(image_id)
        height, width = (int(size) for size in torch.randint(40, 80, (2,), generator=generator))
        images.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator))
        corner = torch.rand(3, 2, generator=generator) * 15
        boxes = torch.cat([corner, corner + 5 + torch.rand(3, 2, generator=generator) * 15], dim=1)
        target = {"boxes": boxes, "labels": torch.tensor([1, 2, 1]), "image_id": image_id}
        if masks:
            target["masks"] = torch.randint(0, 2, (3, height, width), dtype=torch.uint8, generator=generator)
        targets.append(target)
    return images, targets
