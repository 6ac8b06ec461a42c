"""Small random cases that aim at the edges of the evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Case", "batches", "box_case"]


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


def _ids(rng: np.random.Generator, count: int, zero: bool = True) -> list[int]:
    ids = rng.choice(np.arange(-3 if zero else 1, 20), size=count, replace=False)
    # Some beyond what float32 or int32 hold, one apart.
    return [int(id_) + (2**40 if _pick(rng, False, False, False, True) else 0) for id_ in ids]


def _boxes(rng: np.random.Generator, count: int, near: np.ndarray) -> np.ndarray:
    """xyxy boxes, on a coarse grid (so that overlaps tie and hit thresholds), fine ones, empty ones, copies."""
    kind = rng.integers(0, 6, size=count)
    corner = rng.integers(0, 8, size=(count, 2)) * 10.0
    size = rng.integers(1, 9, size=(count, 2)) * _pick(rng, 5.0, 10.0, 16.0)
    size[kind == 0] = rng.uniform(0, 120, size=(np.count_nonzero(kind == 0), 2))
    size[kind == 1] = _pick(rng, (32.0, 32.0), (96.0, 96.0), (64.0, 16.0), (0.0, 10.0))
    boxes = np.concatenate([corner, corner + size], axis=1)
    if len(near):
        copied = kind >= 4
        boxes[copied] = near[rng.integers(len(near), size=np.count_nonzero(copied))]
        moved = kind == 5
        boxes[moved, 2:] -= rng.integers(0, 5, size=(np.count_nonzero(moved), 1)) * 2.5
    return boxes


def box_case(seed: int) -> Case:
    """Images of nothing, of crowds alone, of ties; ids of any sign; now and then more than 100 detections."""
    rng = np.random.default_rng(seed)
    images = _ids(rng, int(rng.integers(1, 4)))
    categories = _ids(rng, int(rng.integers(1, 4)))
    boxes_dtype = _pick(rng, torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
    scores_dtype = _pick(rng, torch.float32, torch.float32, torch.float64, torch.bfloat16)
    crowd_rate = _pick(rng, 0.0, 0.2, 0.2, 1.0)
    annotations: list[dict[str, Any]] = []
    predictions: dict[int, dict[str, Any]] = {}
    for image in images:
        count = int(_pick(rng, 0, 1, 2, 3, 6))
        truth = _boxes(rng, count, np.zeros((0, 4)))
        for x1, y1, x2, y2 in truth.tolist():
            width, height = x2 - x1, y2 - y1
            annotations.append(
                {
                    "image_id": image,
                    "category_id": int(rng.choice(categories)),
                    "bbox": [x1, y1, width, height],
                    "area": _pick(rng, width * height, width * height, 1024, 9216.0, 0.7 * width * height),
                    "iscrowd": int(rng.random() < crowd_rate),
                }
            )
        count = int(_pick(rng, 0, 1, 2, 4, 8)) if rng.random() > 0.02 else 130
        found = torch.from_numpy(_boxes(rng, count, truth)).to(boxes_dtype)
        scores = rng.choice([0.0, 0.25, 0.5, 0.75, 1.0], size=count) if rng.random() < 0.5 else rng.random(count)
        labels = rng.choice([*categories, 77], size=count, p=[*[0.97 / len(categories)] * len(categories), 0.03])
        if rng.random() < 0.9:
            predictions[image] = {
                "boxes": found,
                "scores": torch.from_numpy(scores).to(scores_dtype),
                "labels": torch.from_numpy(labels),
            }
    for id_, annotation in zip(rng.permutation(len(annotations)) - 1, annotations, strict=True):
        annotation["id"] = int(id_)
    rng.shuffle(annotations)
    dataset = {
        "images": [{"id": image, "height": 200, "width": 200} for image in images],
        "categories": [{"id": category, "name": f"thing {category}"} for category in categories],
        "annotations": annotations,
    }
    return Case(dataset, predictions)
