"""From YOLOv3's maps of raw predictions to boxes with scores, and to detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

__all__ = ["decode_boxes", "detect", "split_outputs"]

# exp of it is 1000: sides of a box are at most so many times those of its anchor, and never infinite.
LARGEST_LOG_SCALE = 6.9


def split_outputs(maps: Sequence[Tensor], anchors_per_map: int) -> list[Tensor]:
    """Maps ``[B, A * (5 + C), H, W]`` as float32 ``[B, A, H, W, 5 + C]``: x, y, width, height, objectness, classes."""
    split = []
    for features in maps:
        batch, channels, height, width = features.shape
        shape = (batch, anchors_per_map, channels // anchors_per_map, height, width)
        split.append(features.float().view(shape).permute(0, 1, 3, 4, 2))
    return split


def decode_boxes(raw: Tensor, anchors: Tensor, stride: int) -> Tensor:
    """Boxes that raw predictions stand for.

    The centre is ``(cell + sigmoid(xy)) * stride``, width and height are ``anchor * exp(wh)``.

    Args:
        raw: float32 ``[B, A, H, W, 4 or more]``.
        anchors: width and height in pixels, ``[A, 2]``.
        stride: pixels in a cell.

    Returns:
        ``[B, A, H, W, 4]`` xyxy in pixels of the batch.
    """
    height, width = raw.shape[2:4]
    rows = torch.arange(height, device=raw.device, dtype=raw.dtype).view(-1, 1)
    columns = torch.arange(width, device=raw.device, dtype=raw.dtype)
    x = (raw[..., 0].sigmoid() + columns) * stride
    y = (raw[..., 1].sigmoid() + rows) * stride
    half = raw[..., 2:4].clamp(max=LARGEST_LOG_SCALE).exp() * (anchors.view(1, -1, 1, 1, 2) / 2)
    return torch.stack((x - half[..., 0], y - half[..., 1], x + half[..., 0], y + half[..., 1]), dim=-1)


def detect(
    boxes: Tensor,
    raw: Tensor,
    *,
    score_threshold: float,
    nms_iou: float,
    max_candidates: int,
    max_detections: int,
) -> dict[str, Tensor]:
    """Detections of one image: of each box the best class, with the objectness times the class's probability.

    Args:
        boxes: ``[K, 4]`` xyxy.
        raw: raw predictions of the boxes, float32 ``[K, 5 + C]``.
        score_threshold: boxes of this score or less are left out.
        nms_iou: boxes that overlap a better one of their class by more are left out.
        max_candidates: so many boxes of the highest scores are compared with each other.
        max_detections: so many are kept.

    Returns:
        ``boxes`` ``[N, 4]``, ``labels`` int64 ``[N]`` from 1, ``scores`` ``[N]``, the best first.
    """
    probabilities, classes = raw[:, 5:].max(dim=1)
    scores = raw[:, 4].sigmoid() * probabilities.sigmoid()
    # Predictions in the grey frame have no area left in the image.
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    chosen = torch.nonzero((scores > score_threshold) & has_area).flatten()
    # A stable sort: which of two equal scores is the better one must not depend on the device or on chance.
    order = scores[chosen].sort(descending=True, stable=True).indices[:max_candidates]
    chosen = chosen[order]
    boxes, scores, classes = boxes[chosen], scores[chosen], classes[chosen]
    kept = batched_nms(boxes, scores, classes, nms_iou)[:max_detections]
    return {"boxes": boxes[kept], "labels": classes[kept] + 1, "scores": scores[kept]}
