"""YOLOv3-SPP as a detector that honours torchvision's call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ignite_imgtools.models.darknet import STRIDES, Yolov3SppNetwork
from ignite_imgtools.models.darknet_weights import read_darknet_weights
from ignite_imgtools.models.letterbox import letterbox
from ignite_imgtools.models.weights import load_weights
from ignite_imgtools.models.yolo_boxes import decode_boxes, detect, split_outputs

__all__ = ["COCO_ANCHORS", "Yolov3Spp", "yolov3_spp"]

COCO_ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
"""Widths and heights in pixels of the anchors that YOLOv3 was published with, found by k-means on COCO."""

LossFunction = Callable[..., Mapping[str, Tensor]]

_NORMS: dict[str, Callable[..., nn.Module]] = {"batch": nn.BatchNorm2d, "sync": nn.SyncBatchNorm}


class Yolov3Spp(nn.Module):
    """YOLOv3-SPP (Redmon and Farhadi, arXiv:1804.02767, with spatial pyramid pooling).

    ``model(images, targets)`` gives the losses in training mode, and a list of dicts with ``boxes`` (float32 xyxy in
    pixels of the original image, not rounded), ``labels`` (int64, from 1) and ``scores`` in evaluation mode, as
    torchvision's detectors do. Images are float in 0..1, of any sizes. They are letterboxed inside: scaled so that
    the longer side measures ``size`` pixels, and put into the middle of a grey frame whose sides are multiples of 32.

    Nothing waits for the device in training.

    Args:
        network: has ``A * (5 + C)`` outputs.
        num_classes: the background counts as one: ``C + 1``.
        anchors: float ``[3, A, 2]``, width and height in pixels of a letterboxed image, for the strides 32, 16, 8.
        size: see above.
        loss_fn: such as :class:`ignite_imgtools.losses.YoloLoss`; ``None`` for a model that is not trained.
        score_threshold: detections of a lower score are left out.
        nms_iou: detections of one class that overlap a better one by more are left out.
        max_candidates: so many of an image, those of the highest scores, reach the suppression of the overlapping.
        max_detections: in an image.

    Attributes:
        train_size: takes the place of ``size`` in training, for training at several sizes
            (:func:`ignite_imgtools.engines.attach_multi_scale` sets it); ``None`` for ``size``.
    """

    anchors: Tensor

    def __init__(
        self,
        network: Yolov3SppNetwork,
        num_classes: int,
        anchors: Tensor,
        *,
        size: int = 512,
        loss_fn: LossFunction | None = None,
        score_threshold: float = 0.01,
        nms_iou: float = 0.6,
        max_candidates: int = 4000,
        max_detections: int = 100,
    ):
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.register_buffer("anchors", anchors)
        self.size = size
        self.loss_fn = loss_fn
        self.score_threshold, self.nms_iou = score_threshold, nms_iou
        self.max_candidates, self.max_detections = max_candidates, max_detections
        self.train_size: int | None = None

    def forward(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]] | None = None) -> Any:
        if not self.training:
            return self._detections(images)
        if targets is None:
            raise ValueError("YOLOv3-SPP needs targets in training mode, got None")
        return self._losses(images, targets)

    def set_anchors(self, anchors: Sequence[Sequence[float]]) -> None:
        """Take other anchors: width and height in pixels of a letterboxed image, for each of the three strides as
        many; the largest go to the coarsest.

        Raises:
            ValueError: not as many as the model was made for, or not positive.
        """
        self.anchors.copy_(_anchor_table(anchors, self.anchors.shape[1]))

    def _losses(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        if self.loss_fn is None:
            raise ValueError("YOLOv3-SPP needs a loss_fn to be trained: make it with loss_fn=losses.YoloLoss()")
        # In a pass for the losses of an evaluation only this module is set to training, not the network in it.
        size = self.train_size if self.train_size is not None and self.network.training else self.size
        batch, placements = letterbox(images, size)
        maps = split_outputs(self.network(batch), self.anchors.shape[1])
        boxes = [place.to_batch(target["boxes"].float()) for place, target in zip(placements, targets, strict=True)]
        owners = [target["labels"].new_full((len(target["labels"]),), index) for index, target in enumerate(targets)]
        losses = self.loss_fn(
            maps,
            boxes=torch.cat(boxes),
            labels=torch.cat([target["labels"] for target in targets]) - 1,
            image_index=torch.cat(owners),
            anchors=self.anchors,
            strides=STRIDES,
            image_size=self.size,
        )
        return dict(losses)

    def _detections(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        if not images:
            return []
        batch, placements = letterbox(images, self.size)
        maps = split_outputs(self.network(batch), self.anchors.shape[1])
        decoded = [decode_boxes(*parts) for parts in zip(maps, self.anchors, STRIDES, strict=True)]
        boxes = torch.cat([part.flatten(1, 3) for part in decoded], dim=1)
        raw = torch.cat([part.flatten(1, 3) for part in maps], dim=1)
        results = []
        for image, place, boxes_of_image, raw_of_image in zip(images, placements, boxes, raw, strict=True):
            size = (image.shape[1], image.shape[2])
            results.append(
                detect(
                    place.to_image(boxes_of_image, size),
                    raw_of_image,
                    score_threshold=self.score_threshold,
                    nms_iou=self.nms_iou,
                    max_candidates=self.max_candidates,
                    max_detections=self.max_detections,
                )
            )
        return results


def yolov3_spp(
    num_classes: int,
    *,
    size: int = 512,
    width: float = 1.0,
    depth: float = 1.0,
    anchors: Sequence[Sequence[float]] = COCO_ANCHORS,
    weights: str | Path = "none",
    trainable_layers: int | None = None,
    norm: str = "batch",
    loss_fn: LossFunction | None = None,
    **options: Any,
) -> Yolov3Spp:
    """YOLOv3-SPP: 63.0 million parameters for 80 classes.

    Args:
        num_classes: the background counts as one.
        size: pixels of the longer side of the images that the network sees, at least 64.
        width: factor of the channels of all layers.
        depth: factor of the numbers of residual blocks.
        anchors: width and height of each in pixels of a letterboxed image; for each of the three strides as many.
        weights: ``"none"`` for random ones; or a file: of Darknet (``.weights``, or ``darknet53.conv.74``), or a state
            dict or checkpoint. Of another number of classes the part that fits is loaded.
        trainable_layers: 0..5, how many stages of the backbone are trained, counted from its end; by default 3, and
            5 with random weights.
        norm: ``"batch"``, or ``"sync"`` for statistics over all processes (CUDA alone).
        loss_fn: what it is trained with.
        options: further arguments of :class:`Yolov3Spp`.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
        FileNotFoundError: there is no such file of weights.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes counts the background and must be at least 2, got {num_classes}")
    if size < 64:
        raise ValueError(f"size must be at least 64 pixels, got {size}")
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {sorted(_NORMS)}, got {norm!r}")
    if weights == "default":
        raise ValueError("weights: there are no default ones for YOLOv3-SPP; give a file, such as yolov3-spp.weights")
    table = _anchor_table(anchors)
    outputs = table.shape[1] * (4 + num_classes)
    network = Yolov3SppNetwork(outputs, width=width, depth=depth, norm=_NORMS[norm])
    _start_heads(network, num_classes - 1, table.shape[1])
    model = Yolov3Spp(network, num_classes, table, size=size, loss_fn=loss_fn, **options)
    network.freeze_backbone(_trainable_layers(trainable_layers, weights))
    if weights != "none":
        _load(model, weights)
    return model


def _anchor_table(anchors: Sequence[Sequence[float]], anchors_per_map: int | None = None) -> Tensor:
    table = torch.as_tensor(anchors, dtype=torch.float32)
    per_map, rest = divmod(len(table), len(STRIDES))
    if table.shape != (len(table), 2) or rest or not len(table) or anchors_per_map not in (None, per_map):
        count = "3, 6, 9, ..." if anchors_per_map is None else str(len(STRIDES) * anchors_per_map)
        raise ValueError(f"anchors must be {count} pairs of width and height, got {list(table.shape)}")
    if not (torch.isfinite(table).all() and (table > 0).all()):
        raise ValueError(f"anchors must have a positive width and height, got {table.tolist()}")
    # The first map has the largest cells. Those of one map stay in order of their areas.
    order = table.prod(dim=1).sort(stable=True).indices
    return table[order].view(len(STRIDES), per_map, 2).flip(0)


def _start_heads(network: Yolov3SppNetwork, classes: int, anchors_per_map: int) -> None:
    """Biases with which the first predictions are about as rare as objects are: one box in a hundred holds one, and
    all classes are equally likely. Else the first steps would do nothing but learn that."""
    for bias in (head.get_parameter("predict.bias").data for head in network.heads):
        bias = bias.view(anchors_per_map, -1)
        bias[:, 4] = -4.6
        bias[:, 5:] = -torch.log(torch.tensor(max(classes - 1, 1), dtype=torch.float32))


def _trainable_layers(trainable_layers: int | None, weights: str | Path) -> int:
    if trainable_layers is None:
        return 5 if weights == "none" else 3
    if not 0 <= trainable_layers <= 5:
        raise ValueError(f"trainable_layers must be in 0..5, got {trainable_layers}")
    if weights == "none" and trainable_layers < 5:
        raise ValueError(f"trainable_layers={trainable_layers} would freeze random weights: give weights, or 5")
    return trainable_layers


def _load(model: Yolov3Spp, weights: str | Path) -> None:
    path = Path(weights)
    if path.suffix == ".weights" or ".conv." in path.name:
        load_weights(model, read_darknet_weights(path, model.network), prefixes=("network.",), source=path)
    else:
        load_weights(model, path, prefixes=("", "network."))
