"""The development kit's evaluation as a slow loop, one detection after the other, for comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["evaluate_class"]


def evaluate_class(
    truth: Mapping[int, Sequence[Mapping[str, Any]]],
    detections: Sequence[tuple[int, float, Sequence[float]]],
    threshold: float = 0.5,
    inclusive: bool = False,
) -> tuple[float, float] | None:
    """All-point and 11-point average precision of one class, ``None`` if there is nothing to be found.

    Args:
        truth: for each image id its objects: ``{"box": [x1, y1, x2, y2], "difficult": bool}``.
        detections: ``(image id, score, [x1, y1, x2, y2])``; those of equal score stay in this order.
    """
    extra = 1 if inclusive else 0
    to_find = sum(not one["difficult"] for objects in truth.values() for one in objects)
    if not to_find:
        return None
    taken = {image: [False] * len(objects) for image, objects in truth.items()}
    right = wrong = 0
    recalls, precisions = [], []
    for image, _, (x1, y1, x2, y2) in sorted(detections, key=lambda detection: -detection[1]):
        highest, best = -np.inf, None
        for j, one in enumerate(truth.get(image, [])):
            a1, b1, a2, b2 = one["box"]
            width, height = min(x2, a2) - max(x1, a1) + extra, min(y2, b2) - max(y1, b1) + extra
            if width > 0 and height > 0:
                union = (x2 - x1 + extra) * (y2 - y1 + extra) + (a2 - a1 + extra) * (b2 - b1 + extra) - width * height
                if width * height / union > highest:
                    highest, best = width * height / union, j
        if best is not None and highest >= threshold:
            if truth[image][best]["difficult"]:
                continue
            if taken[image][best]:
                wrong += 1
            else:
                taken[image][best] = True
                right += 1
        else:
            wrong += 1
        recalls.append(right / to_find)
        precisions.append(right / (right + wrong))
    return _area(recalls, precisions), _eleven_points(recalls, precisions)


def _area(recalls: list[float], precisions: list[float]) -> float:
    recalls, precisions = [0.0, *recalls, 1.0], [0.0, *precisions, 0.0]
    for i in range(len(precisions) - 2, -1, -1):
        precisions[i] = max(precisions[i], precisions[i + 1])
    return sum((recalls[i] - recalls[i - 1]) * precisions[i] for i in range(1, len(recalls)))


def _eleven_points(recalls: list[float], precisions: list[float]) -> float:
    total = 0.0
    for threshold in np.arange(0.0, 1.1, 0.1):
        reached = [p for r, p in zip(recalls, precisions, strict=True) if r >= threshold]
        total += max(reached, default=0.0) / 11
    return total
