"""The loss of YOLOv3: boxes by GIoU or CIoU, objectness that aims at the GIoU, classes as independent yes or no."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["YoloLoss", "box_similarity"]

# Keeps exp finite, so that no 0 * inf arises where a prediction takes no part; a side is at most 1000 anchors long.
_LARGEST_LOG_SCALE = 6.9
_EPSILON = 1e-7


class YoloLoss(nn.Module):
    r"""Terms of YOLOv3's loss, already weighted: their sum is the loss.

    An object is assigned to every anchor whose shape is similar to its own (IoU of the two with one centre above
    ``anchor_iou``), in the cell of each map in which its centre lies. For each of the three maps, over its
    assignments and its cells:

    - ``loss_box``: ``box_gain`` times the mean of ``1 - S``, where ``S`` is the similarity of the predicted box and
      the object, GIoU (arXiv:1902.09630) or CIoU (arXiv:1911.08287);
    - ``loss_objectness``: ``objectness_gain * image_size / 320`` times the mean binary cross-entropy over all boxes of
      the map, whose target is ``S`` (at least 0, without gradient) where an object is assigned, the largest of
      several, and 0 elsewhere;
    - ``loss_class``: ``class_gain * C / 80`` times the mean binary cross-entropy over assignments and classes.

    The gains and the threshold are those of the tutorials' recipe, which were found for YOLOv3-SPP on COCO. A map to
    which nothing is assigned adds to the objectness alone. With a single class the class term is learned too.

    Nothing waits for the device, and no shape depends on values there: every object meets every anchor, and what is
    not assigned is multiplied by 0. All is computed in float32, under autocast too.

    Args:
        box_gain: see above.
        objectness_gain: see above.
        class_gain: see above.
        anchor_iou: see above, in 0..1.
        similarity: ``"giou"`` or ``"ciou"``.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        box_gain: float = 3.54,
        objectness_gain: float = 64.3,
        class_gain: float = 37.4,
        anchor_iou: float = 0.20,
        similarity: str = "giou",
    ):
        super().__init__()
        for name, value in (("box", box_gain), ("objectness", objectness_gain), ("class", class_gain)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name}_gain must be 0 or a positive number, got {value}")
        if not 0 <= anchor_iou < 1:
            raise ValueError(f"anchor_iou must be at least 0 and below 1, got {anchor_iou}")
        if similarity not in ("giou", "ciou"):
            raise ValueError(f"similarity must be 'giou' or 'ciou', got {similarity!r}")
        self.box_gain, self.objectness_gain, self.class_gain = box_gain, objectness_gain, class_gain
        self.anchor_iou, self.similarity = anchor_iou, similarity

    def extra_repr(self) -> str:
        return (
            f"box_gain={self.box_gain}, objectness_gain={self.objectness_gain}, class_gain={self.class_gain}, "
            f"anchor_iou={self.anchor_iou}, similarity={self.similarity!r}"
        )

    def forward(
        self,
        maps: Sequence[Tensor],
        *,
        boxes: Tensor,
        labels: Tensor,
        image_index: Tensor,
        anchors: Tensor,
        strides: Sequence[int],
        image_size: int,
    ) -> dict[str, Tensor]:
        """The terms for a batch of ``B`` images with ``T`` objects in all.

        Args:
            maps: raw predictions ``[B, A, H, W, 5 + C]``, one for each stride.
            boxes: float32 ``[T, 4]`` xyxy in pixels of the batch.
            labels: int64 ``[T]``, 0 to ``C - 1``.
            image_index: int64 ``[T]``, 0 to ``B - 1``.
            anchors: float32 ``[len(maps), A, 2]``, width and height in pixels.
            strides: pixels in a cell of each map.
            image_size: in pixels, of the images that the model is made for.

        Returns:
            ``{"loss_box", "loss_objectness", "loss_class"}``, float32 scalars.
        """
        terms = [
            self._terms(raw.float(), _Objects(boxes / stride, labels, image_index), anchors_of_map / stride)
            for raw, anchors_of_map, stride in zip(maps, anchors, strides, strict=True)
        ]
        box, objectness, classes = (torch.stack(values).sum() for values in zip(*terms, strict=True))
        number_of_classes = maps[0].shape[-1] - 5
        return {
            "loss_box": box * self.box_gain,
            "loss_objectness": objectness * (self.objectness_gain * image_size / 320),
            "loss_class": classes * (self.class_gain * number_of_classes / 80),
        }

    def _terms(self, raw: Tensor, objects: _Objects, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The means of one map; lengths in cells."""
        batch, number_of_anchors, height, width, _ = raw.shape
        corners, sizes = objects.boxes, objects.boxes[:, 2:] - objects.boxes[:, :2]
        assigned = (_shape_iou(anchors, sizes) > self.anchor_iou).float()
        count = assigned.sum().clamp(min=1)

        centres = (corners[:, :2] + corners[:, 2:]) / 2
        column = centres[:, 0].long().clamp(0, width - 1)
        row = centres[:, 1].long().clamp(0, height - 1)
        anchor = torch.arange(number_of_anchors, device=raw.device)[:, None]
        predicted = raw[objects.image_index, anchor, row, column]  # [A, T, 5 + C]

        cell = torch.stack((column, row), dim=1)
        middle = predicted[..., :2].sigmoid() + cell
        half = predicted[..., 2:4].clamp(max=_LARGEST_LOG_SCALE).exp() * anchors[:, None] / 2
        similarity = box_similarity(torch.cat((middle - half, middle + half), dim=2), corners, self.similarity)
        box = ((1 - similarity) * assigned).sum() / count

        # Several objects may want the same box: the largest target, which no order of the objects can change.
        place = ((objects.image_index * number_of_anchors + anchor) * height + row) * width + column
        wanted = raw.new_zeros(batch * number_of_anchors * height * width)
        values = similarity.detach().clamp(min=0) * assigned
        wanted = wanted.scatter_reduce(0, place.flatten(), values.flatten(), "amax")
        objectness = F.binary_cross_entropy_with_logits(raw[..., 4].flatten(), wanted)

        logits = predicted[..., 5:]
        truth = (objects.labels[:, None] == torch.arange(logits.shape[-1], device=raw.device)).float()
        entropy = F.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none")
        classes = (entropy.mean(dim=2) * assigned).sum() / count
        return box, objectness, classes


class _Objects(NamedTuple):
    """The objects of a batch: ``boxes`` ``[T, 4]`` in cells of a map, ``labels`` and ``image_index`` ``[T]``."""

    boxes: Tensor
    labels: Tensor
    image_index: Tensor


def _shape_iou(anchors: Tensor, sizes: Tensor) -> Tensor:
    """IoU of anchors ``[A, 2]`` and objects ``[T, 2]`` with a common centre: ``[A, T]``."""
    anchors = anchors[:, None]
    overlap = torch.minimum(anchors, sizes).prod(dim=2)
    return overlap / (anchors.prod(dim=2) + sizes.prod(dim=1) - overlap + _EPSILON)


def box_similarity(predicted: Tensor, boxes: Tensor, kind: str = "giou") -> Tensor:
    """GIoU or CIoU of pairs of boxes.

    With the smallest box that holds both: GIoU is the IoU less the share of that box which neither covers
    (arXiv:1902.09630); CIoU is the IoU less the squared distance of the centres over the squared diagonal of that
    box, and less a penalty for different aspect ratios (arXiv:1911.08287).

    Args:
        predicted: float ``[..., 4]`` xyxy.
        boxes: the same, of a shape that ``predicted`` can be broadcast with.
        kind: ``"giou"`` or ``"ciou"``.

    Returns:
        ``[...]``, above -1 for GIoU and up to 1.

    >>> box_similarity(torch.tensor([0.0, 0, 2, 2]), torch.tensor([2.0, 0, 4, 2])).item()
    0.0
    """
    size, other_size = predicted[..., 2:] - predicted[..., :2], boxes[..., 2:] - boxes[..., :2]
    overlap = torch.minimum(predicted[..., 2:], boxes[..., 2:]) - torch.maximum(predicted[..., :2], boxes[..., :2])
    shared = overlap.clamp(min=0).prod(dim=-1)
    union = size.prod(dim=-1) + other_size.prod(dim=-1) - shared
    iou = shared / (union + _EPSILON)
    around = torch.maximum(predicted[..., 2:], boxes[..., 2:]) - torch.minimum(predicted[..., :2], boxes[..., :2])
    if kind == "giou":
        hull = around.prod(dim=-1) + _EPSILON
        return iou - (hull - union) / hull
    distance = (predicted[..., :2] + predicted[..., 2:] - boxes[..., :2] - boxes[..., 2:]).square().sum(dim=-1) / 4
    diagonal = around.square().sum(dim=-1) + _EPSILON
    angle, other_angle = (torch.atan2(sides[..., 0], sides[..., 1] + _EPSILON) for sides in (size, other_size))
    aspect = 4 / math.pi**2 * (angle - other_angle).square()
    # The weight of the last term is a factor, not something to be learned.
    weight = (aspect / (1 - iou + aspect + _EPSILON)).detach()
    return iou - distance / diagonal - weight * aspect
