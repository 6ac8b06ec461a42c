"""Errors by kind and the confusion matrix as slow loops, one detection after the other, from their definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

__all__ = ["slow_breakdown", "slow_confusion"]

Dataset = Mapping[str, Any]
Entries = Sequence[dict[str, Any]]


def _shape(entry: Mapping[str, Any], iou_type: str) -> Any:
    return entry["bbox" if iou_type == "bbox" else "segmentation"]


def _images(
    dataset: Dataset, results: Entries, iou_type: str, lowest_score: float, limit: int
) -> list[tuple[Entries, Entries, np.ndarray]]:
    """For each image its truths, its detections by falling score, and their overlaps."""
    categories = {category["id"] for category in dataset["categories"]}
    images = []
    for image_id in sorted(image["id"] for image in dataset["images"]):
        truths = [t for t in dataset["annotations"] if t["image_id"] == image_id and t["category_id"] in categories]
        truths = sorted(truths, key=lambda t: t["category_id"])
        found = [d for d in results if d["image_id"] == image_id and d["category_id"] in categories]
        found = sorted((d for d in found if d["score"] >= lowest_score), key=lambda d: -d["score"])
        kept: list[dict[str, Any]] = []
        for detection in found:
            if sum(other["category_id"] == detection["category_id"] for other in kept) < limit:
                kept.append(detection)
        overlaps = np.zeros((len(kept), len(truths)))
        if kept and truths:
            crowd = [int(t["iscrowd"]) for t in truths]
            overlaps = coco_mask.iou([_shape(d, iou_type) for d in kept], [_shape(t, iou_type) for t in truths], crowd)
        images.append((truths, kept, overlaps))
    return images


def _match(truths: Entries, found: Entries, overlaps: np.ndarray, threshold: float) -> list[int | None]:
    """The truth that each detection takes in pycocotools' evaluation."""
    matches: list[int | None] = []
    for d, detection in enumerate(found):
        best = None
        for t, truth in enumerate(truths):
            if truth["category_id"] != detection["category_id"] or overlaps[d, t] < threshold:
                continue
            if t in matches and not truth["iscrowd"]:
                continue
            rank = (not truth["iscrowd"], overlaps[d, t], t)
            if best is None or rank > best[0]:
                best = rank, t
        matches.append(None if best is None else best[1])
    return matches


def slow_confusion(
    dataset: Dataset, results: Entries, iou_type: str = "bbox", score: float = 0.5, threshold: float = 0.5
) -> np.ndarray:
    ids = sorted(category["id"] for category in dataset["categories"])
    place = {id_: k for k, id_ in enumerate(ids)}
    nothing = len(ids)
    matrix = np.zeros((nothing + 1, nothing + 1), dtype=int)
    for truths, found, overlaps in _images(dataset, results, iou_type, score, 100):
        matches = _match(truths, found, overlaps, threshold)
        free = [t for t, truth in enumerate(truths) if t not in matches and not truth["iscrowd"]]
        for d, (detection, match) in enumerate(zip(found, matches, strict=True)):
            column = place[detection["category_id"]]
            if match is not None:
                if not truths[match]["iscrowd"]:
                    matrix[column, column] += 1
                continue
            candidates = [
                t for t in free if overlaps[d, t] >= threshold and truths[t]["category_id"] != detection["category_id"]
            ]
            if candidates:
                best = max(candidates, key=lambda t: (overlaps[d, t], t))
                free.remove(best)
                matrix[place[truths[best]["category_id"]], column] += 1
            else:
                matrix[nothing, column] += 1
        for t in free:
            matrix[place[truths[t]["category_id"]], nothing] += 1
    return matrix


Points = list[tuple[Any, float, bool]]
"""(category, score, whether it is right) of each detection."""


def _average_precision(points: Points, asked: Mapping[Any, int], categories: set[Any]) -> float:
    """The mean over ``categories``, those with truth in the first place."""
    values = []
    for category in sorted(categories):
        own = sorted((p for p in points if p[0] == category), key=lambda p: -p[1])
        if not asked[category]:
            values += [0.0] * bool(own)
            continue
        precisions, recalls, right = [], [], 0
        for count, point in enumerate(own, start=1):
            right += point[2]
            precisions.append(right / count)
            recalls.append(right / asked[category])
        total = 0.0
        for recall in np.linspace(0, 1, 101):
            total += max((p for p, r in zip(precisions, recalls, strict=True) if r >= recall), default=0.0)
        values.append(total / 101)
    return float(np.mean(values)) if values else 1.0


def slow_breakdown(
    dataset: Dataset,
    results: Entries,
    iou_type: str = "bbox",
    foreground: float = 0.5,
    background: float = 0.1,
    limit: int = 100,
) -> dict[str, Any]:
    """``{"ap": ..., "gain": {kind: ...}, "count": {kind: ...}, "fp": ..., "fn": ...}``."""
    points: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for truths, found, overlaps in _images(dataset, results, iou_type, -np.inf, limit):
        matches = _match(truths, found, overlaps, foreground)
        states = [
            {"category": t["category_id"], "crowd": t["iscrowd"], "found": k in matches, "errors": []}
            for k, t in enumerate(truths)
        ]
        for d, (detection, match) in enumerate(zip(found, matches, strict=True)):
            point = {"category": detection["category_id"], "score": detection["score"], "kind": "right", "truth": None}
            if match is not None:
                point["kind"] = "left out" if truths[match]["iscrowd"] else "right"
            else:
                _explain(point, states, overlaps[d], foreground, background)
            points.append(point)
        objects += [state for state in states if not state["crowd"]]
    return _with_each_mended(points, objects)


def _explain(
    point: dict[str, Any], states: list[dict[str, Any]], overlaps: np.ndarray, foreground: float, background: float
) -> None:
    """Give a false positive its kind, and the truth it should have found."""
    own, other = (0.0, None), (0.0, None)
    for overlap, state in zip(overlaps.tolist(), states, strict=True):
        if state["crowd"]:
            continue
        if state["category"] == point["category"]:
            own = max(own, (overlap, state), key=lambda pair: pair[0])
        else:
            other = max(other, (overlap, state), key=lambda pair: pair[0])
    if background <= own[0] <= foreground:
        point["kind"], point["truth"] = "localisation", own[1]
    elif other[0] >= foreground:
        point["kind"], point["truth"] = "classification", other[1]
    elif own[0] >= foreground:
        point["kind"] = "duplicate"
    elif max(own[0], other[0]) <= background:
        point["kind"] = "background"
    else:
        point["kind"] = "both"
    if point["truth"] is not None:
        point["truth"]["errors"].append(point)


def _with_each_mended(points: list[dict[str, Any]], objects: list[dict[str, Any]]) -> dict[str, Any]:
    categories = {o["category"] for o in objects}
    asked = {c: sum(o["category"] == c for o in objects) for c in categories | {p["category"] for p in points}}

    def average(kind: str | None, gone: list[dict[str, Any]]) -> float:
        listed: Points = []
        for point in points:
            truth = point["truth"]
            if point["kind"] == "left out" or (kind == "all" and point["kind"] != "right"):
                continue
            if point["kind"] != kind:
                listed.append((point["category"], point["score"], point["kind"] == "right"))
            elif truth is not None and not truth["found"] and truth["errors"][0] is point:
                listed.append((truth["category"], point["score"], True))
        return _average_precision(
            listed, {c: n - sum(o["category"] == c for o in gone) for c, n in asked.items()}, categories
        )

    unfound = [o for o in objects if not o["found"]]
    missed = [o for o in unfound if not o["errors"]]
    if not categories:
        ap = -1.0
        return {"ap": ap, "count": {"missed": 0}, "gain": {}, "fp": 0.0, "fn": 0.0}
    ap = average(None, [])
    kinds = ("classification", "localisation", "both", "duplicate", "background")
    gain = {kind: average(kind, []) - ap for kind in kinds} | {"missed": average(None, missed) - ap}
    return {
        "ap": ap,
        "gain": {kind: max(value, 0.0) for kind, value in gain.items()},
        "count": {kind: sum(p["kind"] == kind for p in points) for kind in kinds} | {"missed": len(missed)},
        "fp": max(average("all", []) - ap, 0.0),
        "fn": max(average(None, unfound) - ap, 0.0),
    }
