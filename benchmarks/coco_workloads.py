"""Data sets and detections of COCO's size and habits, made from a seed: for benchmarks of the evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Workload", "box_workload", "draw_masks", "keypoint_workload", "mask_workload"]


@dataclass(frozen=True)
class Workload:
    """A COCO data set, and for each of its images what a model would say of it."""

    dataset: dict[str, Any]
    predictions: list[dict[str, Any]]

    @property
    def image_ids(self) -> list[int]:
        return [image["id"] for image in self.dataset["images"]]


def _scene(
    rng: np.random.Generator, size: np.ndarray, categories: int, frequency: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Objects in groups of one category, of similar size and near each other: boxes xywh ``[n, 4]``, categories."""
    count = min(1 + rng.geometric(1 / 6.6), 60)
    groups = min(int(rng.integers(1, 5)), count, categories)
    own = rng.choice(categories, size=groups, replace=False, p=frequency)
    group = rng.integers(groups, size=count)
    scale = np.exp(rng.normal(4.2, 0.9, size=(groups, 1)))
    extent = (scale * np.exp(rng.normal(0, 0.3, size=(groups, 2))))[group] * np.exp(
        rng.normal(0, 0.25, size=(count, 2))
    )
    extent = extent.clip(6, size * 0.9)
    centre = rng.uniform(0.15, 0.85, size=(groups, 2))[group] * size + rng.normal(0, 1.1, size=(count, 2)) * extent
    centre = np.where(rng.random((count, 1)) < 0.3, centre, rng.uniform(0.05, 0.95, size=(count, 2)) * size)
    corner = np.minimum(np.maximum(centre - extent / 2, 0), size - extent)
    return np.concatenate([corner, extent], axis=1), own[group]


def _detect(
    rng: np.random.Generator, boxes: np.ndarray, labels: np.ndarray, size: np.ndarray, categories: int, mean: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections xywh, their categories and scores: most objects, some twice, and boxes of nothing, by score."""
    total = int(np.clip(rng.gamma(3, mean / 3), 0, 100))
    source = np.flatnonzero(rng.random(len(boxes)) < 0.85)
    source = np.concatenate([source, rng.choice(len(boxes), size=rng.poisson(0.75 * len(boxes)))])[:total].astype(int)
    noise = rng.normal(0, 1, size=(len(source), 4)) * rng.choice([0.03, 0.07, 0.18], size=(len(source), 1))
    found = boxes[source] + noise * np.tile(boxes[source][:, 2:], 2)
    right = rng.random(len(source)) < 0.92
    found_labels = np.where(right, labels[source], rng.integers(categories, size=len(source)))
    rest = total - len(source)
    extent = np.exp(rng.normal(4, 0.9, size=(rest, 2))).clip(6, size * 0.9)
    nothing = np.concatenate([rng.uniform(0, 1, size=(rest, 2)) * (size - extent), extent], axis=1)
    near = rng.random(rest) < 0.52
    nothing_labels = np.where(near, rng.choice(labels, size=rest), rng.integers(categories, size=rest))
    scores = np.concatenate(
        [0.85 - 2.5 * np.abs(noise).mean(axis=1) + rng.normal(0, 0.15, len(source)), rng.beta(1, 6, rest)]
    ).clip(0.01, 0.999)
    order = np.argsort(-scores)
    found = np.concatenate([found, nothing])
    found[:, 2:] = found[:, 2:].clip(1)
    return found[order], np.concatenate([found_labels, nothing_labels])[order], scores[order]


def _frequencies(categories: int) -> np.ndarray:
    frequency = 1 / np.arange(1, categories + 1)
    return frequency / frequency.sum()


def box_workload(images: int = 5000, categories: int = 80, mean_detections: float = 53, seed: int = 0) -> Workload:
    """As COCO val2017: 7.3 objects an image in 80 long-tailed categories, 1 % crowds, up to 100 detections."""
    rng = np.random.default_rng(seed)
    frequency = _frequencies(categories)
    dataset: dict[str, Any] = {"images": [], "annotations": [], "categories": _categories(categories)}
    predictions = []
    for image_id in range(1, images + 1):
        size = np.array([640, 480] if rng.random() < 0.7 else [480, 640])
        boxes, labels = _scene(rng, size, categories, frequency)
        dataset["images"].append({"id": image_id, "width": int(size[0]), "height": int(size[1])})
        for box, label in zip(boxes.round(2).tolist(), labels.tolist(), strict=True):
            _annotate(dataset, rng, image_id, label, bbox=box, area=round(box[2] * box[3] * rng.uniform(0.4, 0.9), 2))
        found, found_labels, scores = _detect(rng, boxes, labels, size, categories, mean_detections)
        found[:, 2:] += found[:, :2]
        predictions.append(
            {"boxes": _float(found), "labels": torch.from_numpy(found_labels + 1), "scores": _float(scores)}
        )
    return Workload(dataset, predictions)


def mask_workload(images: int = 500, categories: int = 80, mean_detections: float = 53, seed: int = 0) -> Workload:
    """Objects of wavy outline, annotated as polygons; the masks of detections are drawn by :func:`draw_masks`."""
    rng = np.random.default_rng(seed)
    workload = box_workload(images, categories, mean_detections, seed)
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    for annotation in workload.dataset["annotations"]:
        x, y, width, height = annotation["bbox"]
        radius = rng.uniform(0.8, 1, size=24) / 2
        outline = [x + width * (0.5 + radius * np.cos(angle)), y + height * (0.5 + radius * np.sin(angle))]
        annotation["segmentation"] = [np.stack(outline, axis=1).round(2).ravel().tolist()]
    return workload


def draw_masks(image: dict[str, Any], prediction: dict[str, Any], memory: torch.Tensor | None = None) -> torch.Tensor:
    """An ellipse in each predicted box: bool ``[N, 1, H, W]``, in ``memory``, bool ``[n]``, if there is any."""
    shape = len(prediction["scores"]), 1, image["height"], image["width"]
    if memory is None:
        memory = torch.empty(math.prod(shape), dtype=torch.bool)
    masks = memory[: math.prod(shape)].view(shape).zero_()
    for mask, (x1, y1, x2, y2) in zip(masks, prediction["boxes"].tolist(), strict=True):
        top, left = max(int(y1), 0), max(int(x1), 0)
        rows = torch.arange(top, max(min(int(y2) + 1, image["height"]), top))
        columns = torch.arange(left, max(min(int(x2) + 1, image["width"]), left))
        vertical = ((rows - (y1 + y2) / 2) / (y2 - y1)).square()
        horizontal = ((columns - (x1 + x2) / 2) / (x2 - x1)).square()
        mask[0, top : top + len(rows), left : left + len(columns)] = vertical[:, None] + horizontal <= 0.2
    return masks


def keypoint_workload(images: int = 2700, mean_detections: float = 14, seed: int = 0) -> Workload:
    """People as in COCO val2017: 4 an image, a third of them without keypoints; up to 20 detections and more."""
    rng = np.random.default_rng(seed)
    dataset: dict[str, Any] = {"images": [], "annotations": [], "categories": _categories(1)}
    predictions = []
    for image_id in range(1, images + 1):
        size = np.array([640, 480])
        boxes, _ = _scene(rng, size, 1, np.ones(1))
        boxes = boxes[: 1 + rng.poisson(3)]
        dataset["images"].append({"id": image_id, "width": 640, "height": 480})
        people = boxes[:, None, :2] + rng.uniform(0, 1, size=(len(boxes), 17, 2)) * boxes[:, None, 2:]
        for box, person in zip(boxes, people, strict=True):
            labelled = (rng.random(17) < rng.choice([0, 0.6, 0.95])) * rng.integers(1, 3, size=17)
            points = np.concatenate([person.round() * (labelled > 0)[:, None], labelled[:, None]], axis=1)
            own = {"keypoints": points.astype(int).ravel().tolist(), "num_keypoints": int(np.count_nonzero(labelled))}
            _annotate(dataset, rng, image_id, 0, bbox=box.round(2).tolist(), area=float(box[2] * box[3] * 0.6), **own)
        count = int(rng.gamma(2, mean_detections / 2))
        source = rng.integers(len(boxes), size=count)
        spread = (
            rng.choice([0.02, 0.05, 0.3], size=(count, 1, 1))
            * np.sqrt(boxes[source, 2] * boxes[source, 3])[:, None, None]
        )
        found = people[source] + rng.normal(0, 1, size=(count, 17, 2)) * spread
        scores = (0.9 - spread.ravel() / 60 + rng.normal(0, 0.2, count)).clip(0.01, 0.999)
        predictions.append(
            {
                "keypoints": _float(np.concatenate([found, np.ones((count, 17, 1))], axis=2)),
                "labels": torch.ones(count, dtype=torch.int64),
                "scores": _float(scores),
            }
        )
    return Workload(dataset, predictions)


def _categories(count: int) -> list[dict[str, Any]]:
    return [{"id": category, "name": f"category {category}"} for category in range(1, count + 1)]


def _annotate(dataset: dict[str, Any], rng: np.random.Generator, image_id: int, label: int, **own: Any) -> None:
    annotations = dataset["annotations"]
    common = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1}
    annotations.append({**common, "iscrowd": int(rng.random() < 0.01), **own})


def _float(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).float()
