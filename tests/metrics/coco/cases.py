"""Small random cases that aim at the edges of the evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

__all__ = ["Case", "batches", "box_case", "keypoint_case", "mask_case"]

Annotations = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A data set, and predictions by image id for the images that are evaluated."""

    dataset: dict[str, Any]
    predictions: dict[int, dict[str, Any]]


def batches(case: Case, rng: np.random.Generator) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """``(y_pred, y)`` for the images in random order, some of them twice, in batches of random size."""
    ids = list(case.predictions)
    order = [*ids, *rng.choice(ids, size=rng.integers(0, 2))] if ids else []
    rng.shuffle(order)
    while order:
        size = int(rng.integers(1, 4))
        now, order = order[:size], order[size:]
        yield [case.predictions[id_] for id_ in now], [{"image_id": int(id_)} for id_ in now]


def _pick(rng: np.random.Generator, *choices: Any) -> Any:
    return choices[rng.integers(len(choices))]


def _ids(rng: np.random.Generator, count: int) -> list[int]:
    # Of any sign, 0 too, and some beyond what float32 or int32 hold, one apart.
    ids = rng.choice(np.arange(-3, 20), size=count, replace=False)
    return [int(id_) + (2**40 if _pick(rng, False, False, False, True) else 0) for id_ in ids]


def _scores(rng: np.random.Generator, count: int) -> torch.Tensor:
    scores = rng.choice([0.0, 0.25, 0.5, 0.75, 1.0], size=count) if rng.random() < 0.5 else rng.random(count)
    return torch.from_numpy(scores).to(_pick(rng, torch.float32, torch.float32, torch.float64, torch.bfloat16))


def _labels(rng: np.random.Generator, count: int, categories: list[int]) -> torch.Tensor:
    # Now and then a label that is no category.
    known = [0.97 / len(categories)] * len(categories)
    return torch.from_numpy(rng.choice([*categories, 77], size=count, p=[*known, 0.03]))


def _annotation(
    rng: np.random.Generator, image: int, categories: list[int], area: float, crowd: float, **own: Any
) -> dict[str, Any]:
    areas = (area, area, 1024, 9216.0, 0.7 * area)
    common = {"image_id": image, "category_id": int(rng.choice(categories)), "area": _pick(rng, *areas)}
    return {**common, "iscrowd": int(rng.random() < crowd), **own}


def _dataset(
    rng: np.random.Generator, images: list[int], categories: list[int], annotations: Annotations, size: tuple[int, int]
) -> dict[str, Any]:
    for id_, annotation in zip(rng.permutation(len(annotations)) - 1, annotations, strict=True):
        annotation["id"] = int(id_)
    rng.shuffle(annotations)
    return {
        "images": [{"id": image, "height": size[0], "width": size[1]} for image in images],
        "categories": [{"id": category, "name": f"thing {category}"} for category in categories],
        "annotations": annotations,
    }


def _boxes(rng: np.random.Generator, count: int, near: np.ndarray) -> np.ndarray:
    """xyxy boxes, on a coarse grid (so that overlaps tie and hit thresholds), fine ones, empty ones, copies.

    Some lie half-way between two of those they are ``near``, which they overlap alike if these are of one size.
    """
    kind = rng.integers(0, 7, size=count)
    corner = rng.integers(0, 8, size=(count, 2)) * 10.0
    size = rng.integers(1, 9, size=(count, 2)) * _pick(rng, 5.0, 10.0, 16.0)
    size[kind == 0] = rng.uniform(0, 120, size=(np.count_nonzero(kind == 0), 2))
    size[kind == 1] = _pick(rng, (32.0, 32.0), (96.0, 96.0), (64.0, 16.0), (0.0, 10.0))
    boxes = np.concatenate([corner, corner + size], axis=1)
    if len(near):
        copied = (kind == 4) | (kind == 5)
        boxes[copied] = near[rng.integers(len(near), size=np.count_nonzero(copied))]
        moved = kind == 5
        boxes[moved, 2:] -= rng.integers(0, 5, size=(np.count_nonzero(moved), 1)) * 2.5
        between = kind == 6
        boxes[between] = near[rng.integers(len(near), size=(np.count_nonzero(between), 2))].mean(axis=1)
    return boxes


def _with_twins(rng: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    """The boxes, some of them a second time a fifth of their width to the right."""
    twins = boxes[rng.random(len(boxes)) < 0.3]
    step = (twins[:, 2] - twins[:, 0]) / 5
    twins = twins + np.stack([step, 0 * step, step, 0 * step], axis=1)
    return rng.permutation(np.concatenate([boxes, twins]))


def box_case(seed: int) -> Case:
    """Images of nothing, of crowds alone, of ties; ids of any sign; now and then more than 100 detections."""
    rng = np.random.default_rng(seed)
    images, categories = _ids(rng, int(rng.integers(1, 4))), _ids(rng, int(rng.integers(1, 4)))
    dtype = _pick(rng, torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
    crowd = _pick(rng, 0.0, 0.2, 0.2, 1.0)
    annotations: Annotations = []
    predictions: dict[int, dict[str, Any]] = {}
    for image in images:
        truth = _with_twins(rng, _boxes(rng, int(_pick(rng, 0, 1, 2, 3, 6)), np.zeros((0, 4))))
        for x1, y1, x2, y2 in truth.tolist():
            width, height = x2 - x1, y2 - y1
            box = [x1, y1, width, height]
            annotations.append(_annotation(rng, image, categories, width * height, crowd, bbox=box))
        count = int(_pick(rng, 0, 1, 2, 4, 8)) if rng.random() > 0.02 else 130
        if rng.random() < 0.9:
            predictions[image] = {
                "boxes": torch.from_numpy(_boxes(rng, count, truth)).to(dtype),
                "scores": _scores(rng, count),
                "labels": _labels(rng, count, categories),
            }
    return Case(_dataset(rng, images, categories, annotations, (200, 200)), predictions)


def _masks(rng: np.random.Generator, count: int, size: tuple[int, int], near: np.ndarray) -> np.ndarray:
    """bool ``[count, H, W]``: rectangles, noise, empty and full masks, copies and parts of others."""
    height, width = size
    masks = np.zeros((count, height, width), dtype=bool)
    for mask in masks:
        kind = rng.integers(0, 7)
        if kind >= 4 and len(near):
            mask[:] = near[rng.integers(len(near))]
            if kind > 4:
                mask[:, rng.integers(0, width) :] = kind == 6
        elif kind:
            y, x = rng.integers(0, height), rng.integers(0, width)
            mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] = True
            if kind == 1:
                mask &= rng.random(size) < 0.7
        else:
            mask[:] = _pick(rng, False, True)
    return masks


def _encode(mask: np.ndarray) -> dict[str, Any]:
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def _uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    return {"size": list(mask.shape), "counts": np.diff([0, *edges, flat.size]).tolist()}


def _segmentation(rng: np.random.Generator, mask: np.ndarray) -> Any:
    """Polygons of any shape, or the run lengths of ``mask``."""
    kind = rng.integers(0, 3)
    if kind == 0:
        return rng.uniform(-2, 1.1 * max(mask.shape), size=(int(rng.integers(1, 3)), 10)).round(1).tolist()
    encoded = _encode(mask)
    return {**encoded, "counts": encoded["counts"].decode()} if kind == 1 else _uncompressed(mask)


def _mask_input(rng: np.random.Generator, masks: np.ndarray) -> Any:
    """The forms in which masks may be given to the metric."""
    tensor = torch.from_numpy(masks)
    kind = rng.integers(0, 7)
    if kind == 0:
        return tensor
    if kind == 1:
        return tensor.to(torch.uint8)
    if kind == 2:
        return torch.where(tensor, 0.501, 0.5)[:, None].to(_pick(rng, torch.float32, torch.float64))
    if kind == 3:
        return tensor[:, None].half()
    if kind == 4:
        return [_encode(mask) for mask in masks]
    return [_uncompressed(mask) for mask in masks] if kind == 5 else masks


def mask_case(seed: int) -> Case:
    """As :func:`box_case`, with masks in every form; ``"bitmaps"`` holds them as bool ``[N, H, W]``."""
    rng = np.random.default_rng(seed)
    images, categories = _ids(rng, int(rng.integers(1, 4))), _ids(rng, int(rng.integers(1, 4)))
    size = _pick(rng, (24, 30), (40, 64), (33, 17), (1, 40))
    crowd = _pick(rng, 0.0, 0.2, 1.0)
    annotations: Annotations = []
    predictions: dict[int, dict[str, Any]] = {}
    for image in images:
        truth = _masks(rng, int(_pick(rng, 0, 1, 2, 3, 5)), size, np.zeros((0, *size), dtype=bool))
        for mask in truth:
            own = {"segmentation": _segmentation(rng, mask)}
            annotations.append(_annotation(rng, image, categories, float(mask.sum()), crowd, **own))
        count = int(_pick(rng, 0, 1, 2, 4, 8))
        masks = _masks(rng, count, size, truth)
        if rng.random() < 0.9:
            predictions[image] = {
                "masks": _mask_input(rng, masks),
                "bitmaps": masks,
                "scores": _scores(rng, count),
                "labels": _labels(rng, count, categories),
            }
    return Case(_dataset(rng, images, categories, annotations, size), predictions)


def keypoint_case(seed: int) -> Case:
    """People with some, all or no keypoints labelled; detections near and far, some equally near to two."""
    rng = np.random.default_rng(seed)
    images, categories = _ids(rng, int(rng.integers(1, 3))), _ids(rng, int(rng.integers(1, 3)))
    crowd = _pick(rng, 0.0, 0.2)
    annotations: Annotations = []
    predictions: dict[int, dict[str, Any]] = {}
    for image in images:
        truth = []
        for _ in range(int(_pick(rng, 0, 1, 2, 4))):
            left, top, width, height = rng.uniform(1, 150, size=4).round(1).tolist()
            points = np.concatenate([rng.integers(0, 150, size=(17, 2)), rng.integers(0, 3, size=(17, 1))], axis=1)
            points[:, 2] *= rng.random(17) < _pick(rng, 0.0, 0.3, 1.0)
            points[points[:, 2] == 0] = 0
            if truth and rng.random() < 0.3:
                points = truth[0]
            truth.append(points)
            own = {
                "keypoints": points.ravel().tolist(),
                "num_keypoints": int(np.count_nonzero(points[:, 2])),
                "bbox": [left, top, width, height],
            }
            annotations.append(_annotation(rng, image, categories, width * height, crowd, **own))
        count = int(_pick(rng, 0, 1, 3, 6)) if rng.random() > 0.1 else 30
        found = np.concatenate([rng.uniform(0, 150, size=(count, 17, 2)), rng.random((count, 17, 1))], axis=2)
        for row in range(count):
            if truth and rng.random() < 0.8:
                noise = rng.normal(0, _pick(rng, 0, 2, 10), size=(17, 2))
                found[row, :, :2] = truth[rng.integers(len(truth))][:, :2] + noise
        predictions[image] = {
            "keypoints": torch.from_numpy(found).to(_pick(rng, torch.float32, torch.float32, torch.float64)),
            "scores": _scores(rng, count),
            "labels": _labels(rng, count, categories),
        }
    return Case(_dataset(rng, images, categories, annotations, (200, 200)), predictions)
