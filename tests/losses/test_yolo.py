"""The loss against loops over cells, anchors and objects, and torchvision's GIoU and CIoU."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from ignite_imgtools.losses import YoloLoss
from ignite_imgtools.losses.yolo import box_similarity
from tests.engines.reads import CountReads

STRIDES = (32, 16, 8)
ANCHORS = torch.tensor([[[60.0, 50], [90, 90]], [[30, 20], [25, 40]], [[8, 10], [14, 9]]])
CLASSES = 4


def _maps(batch: int = 2, height: int = 64, width: int = 96, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, 2, height // stride, width // stride, 5 + CLASSES) for stride in STRIDES]
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def _objects(count: int = 9, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 2, generator=generator) * torch.tensor([96.0, 64])
    halves = torch.rand(count, 2, generator=generator) * 30 + 2
    boxes = torch.cat((centres - halves, centres + halves), 1)
    # Two objects of different classes that want the same cells.
    boxes[1] = boxes[0] + 0.1
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return {"boxes": boxes, "labels": labels, "image_index": torch.arange(count) // 5}


def _call(loss_fn: YoloLoss, maps: list[Tensor], objects: dict[str, Tensor], size: int = 96) -> dict[str, Tensor]:
    return loss_fn(maps, **objects, anchors=ANCHORS, strides=STRIDES, image_size=size)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _entropy(logit: float, target: float) -> float:
    p = _sigmoid(logit)
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def _giou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return width * height / union - (hull - union) / hull


def _slow(maps: list[Tensor], objects: dict[str, Tensor], anchor_iou: float, size: int) -> dict[str, float]:
    """The recipe's loss by loops, in pixels instead of cells."""
    box_loss = objectness_loss = class_loss = 0.0
    for raw, anchors, stride in zip(maps, ANCHORS.tolist(), STRIDES, strict=True):
        raw = raw.detach().double()
        targets = torch.zeros(raw.shape[:4], dtype=torch.float64)
        box_terms, class_terms = [], []
        rows = zip(*(objects[key].tolist() for key in ("boxes", "labels", "image_index")), strict=True)
        for box, label, image in rows:
            width, height = box[2] - box[0], box[3] - box[1]
            column, row = int((box[0] + box[2]) / 2 / stride), int((box[1] + box[3]) / 2 / stride)
            for number, (anchor_width, anchor_height) in enumerate(anchors):
                shared = min(width, anchor_width) * min(height, anchor_height)
                if shared / (width * height + anchor_width * anchor_height - shared) <= anchor_iou:
                    continue
                x, y, w, h, _, *logits = raw[image, number, row, column].tolist()
                cx, cy = (_sigmoid(x) + column) * stride, (_sigmoid(y) + row) * stride
                w, h = math.exp(w) * anchor_width, math.exp(h) * anchor_height
                similarity = _giou([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], box)
                box_terms.append(1 - similarity)
                known = targets[image, number, row, column].item()
                targets[image, number, row, column] = max(known, similarity, 0)
                class_terms += [_entropy(value, float(k == label)) for k, value in enumerate(logits)]
        box_loss += sum(box_terms) / max(len(box_terms), 1)
        class_loss += sum(class_terms) / max(len(class_terms), 1)
        pairs = zip(raw[..., 4].flatten().tolist(), targets.flatten().tolist(), strict=True)
        objectness_loss += sum(_entropy(*pair) for pair in pairs) / targets.numel()
    return {
        "loss_box": 3.54 * box_loss,
        "loss_objectness": 64.3 * size / 320 * objectness_loss,
        "loss_class": 37.4 * CLASSES / 80 * class_loss,
    }


@pytest.mark.parametrize("anchor_iou", [0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_terms_are_those_of_loops(seed: int, anchor_iou: float) -> None:
    maps, objects = _maps(seed=seed), _objects(seed=seed)
    terms = _call(YoloLoss(anchor_iou=anchor_iou), maps, objects)
    expected = _slow(maps, objects, anchor_iou, 96)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=2e-5)


def test_order_of_objects_makes_no_difference() -> None:
    maps, objects = _maps(), _objects()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = {key: value[order] for key, value in objects.items()}
    one, other = (_call(YoloLoss(), maps, each) for each in (objects, shuffled))
    assert one["loss_objectness"].item() == other["loss_objectness"].item()
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


def test_perfect_predictions_cost_nothing() -> None:
    maps = [torch.zeros_like(part) for part in _maps()]
    for part in maps:
        part[..., 4:] = -30
    # In the middle of cell (5, 3) of stride 8, as large as that map's first anchor.
    maps[2][1, 0, 3, 5, 4:] = torch.tensor([30.0, -30, -30, 30, -30])
    centre = torch.tensor([5.5 * 8, 3.5 * 8])
    boxes = torch.cat((centre - ANCHORS[2, 0] / 2, centre + ANCHORS[2, 0] / 2))[None]
    objects = {"boxes": boxes, "labels": torch.tensor([2]), "image_index": torch.tensor([1])}
    terms = _call(YoloLoss(anchor_iou=0.7), maps, objects)
    assert all(abs(value.item()) < 1e-5 for value in terms.values())


@pytest.mark.parametrize("kind", ["giou", "ciou"])
def test_similarity_is_torchvisions(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 500, 4, generator=generator, dtype=torch.float64) * 4
    boxes = torch.cat((torch.minimum(corners[..., :2], corners[..., 2:]), corners.amax(-1, keepdim=True) + 0.1), -1)
    boxes = torch.cat((boxes[..., :2], boxes[..., :2] + 0.05 + corners[..., 2:]), -1).requires_grad_()
    reference = {"giou": generalized_box_iou_loss, "ciou": complete_box_iou_loss}[kind]
    ours, theirs = 1 - box_similarity(boxes[0], boxes[1], kind), reference(boxes[0], boxes[1])
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(value.sum(), boxes)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("similarity", ["giou", "ciou"])
def test_no_objects(similarity: str) -> None:
    maps = _maps()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "image_index": torch.zeros(0).long()}
    terms = _call(YoloLoss(similarity=similarity), maps, empty)
    assert terms["loss_box"].item() == terms["loss_class"].item() == 0
    assert terms["loss_objectness"].item() > 0
    sum(terms.values()).backward()
    assert all(part.grad.isfinite().all() for part in maps)


@pytest.mark.parametrize("similarity", ["giou", "ciou"])
def test_extreme_predictions_give_finite_gradients(similarity: str) -> None:
    maps = [(part * 1000).detach().requires_grad_() for part in _maps()]
    terms = _call(YoloLoss(similarity=similarity), maps, _objects())
    assert all(value.isfinite() for value in terms.values())
    sum(terms.values()).backward()
    assert all(part.grad.isfinite().all() for part in maps)


def test_half_precision_is_computed_in_float32() -> None:
    maps, objects = _maps(), _objects()
    halves = [part.detach().half() for part in maps]
    exact = _call(YoloLoss(), [part.float() for part in halves], objects)
    with torch.autocast("cpu", torch.bfloat16):
        terms = _call(YoloLoss(), halves, objects)
    assert {value.dtype for value in terms.values()} == {torch.float32}
    torch.testing.assert_close(terms, exact, rtol=1e-6, atol=0)


def test_nothing_is_read_from_the_device() -> None:
    maps, objects = _maps(), _objects()
    with CountReads() as counter:
        sum(_call(YoloLoss(similarity="ciou"), maps, objects).values()).backward()
    assert not counter.reads


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"box_gain": -1.0}, "box_gain must be 0 or a positive number, got -1.0"),
        ({"anchor_iou": 1.0}, "anchor_iou must be at least 0 and below 1, got 1.0"),
        ({"similarity": "iou"}, "similarity must be 'giou' or 'ciou', got 'iou'"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        YoloLoss(**arguments)
