"""Outlines of pixel masks as polygons."""

from __future__ import annotations

import numpy as np

__all__ = ["mask_to_polygons"]


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Polygons that cover exactly the pixels of a mask: drawn by pycocotools and united they give it back.

    A polygon runs along the edges of pixels, clockwise. COCO's polygons have no holes, so a mask with a hole is cut
    in two through it.

    Args:
        mask: bool ``[H, W]``.

    Returns:
        ``x, y, x, y, ...`` in pixels for each polygon.

    >>> mask_to_polygons(np.array([[False, True, True]]))
    [[1.0, 0.0, 3.0, 0.0, 3.0, 1.0, 1.0, 1.0]]
    """
    loops = _loops(mask)
    for loop in loops:
        if _signed_area(loop) < 0:
            column = int(loop[:, 0].min() + loop[:, 0].max()) // 2
            left, right = mask_to_polygons(mask[:, :column]), mask_to_polygons(mask[:, column:])
            return left + [[x + column * (place % 2 == 0) for place, x in enumerate(polygon)] for polygon in right]
    return [_corners(loop).astype(np.float64).ravel().tolist() for loop in loops]


def _loops(mask: np.ndarray) -> list[np.ndarray]:
    """Closed walks along the edges between mask and background, mask to the right: int64 ``[length, 2]`` of x, y."""
    successors: dict[tuple[int, int], list[tuple[int, int]]] = {}
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # For each side of a pixel: the neighbour beyond it, and where the walk along it starts and ends.
    for neighbour, (x0, y0), (x1, y1) in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    ):
        rows, columns = np.nonzero(inside & ~neighbour)
        for x, y in zip(columns.tolist(), rows.tolist(), strict=True):
            successors.setdefault((x + x0, y + y0), []).append((x + x1, y + y1))
    loops = []
    while successors:
        point = first = min(successors)
        step = (0, 0)
        loop = []
        while True:
            loop.append(point)
            ends = successors[point]
            # Two pixels that touch at a corner belong to different polygons: turn right there.
            right = (point[0] - step[1], point[1] + step[0])
            following = ends.pop(ends.index(right) if right in ends else 0)
            if not ends:
                del successors[point]
            step = (following[0] - point[0], following[1] - point[1])
            point = following
            if point == first:
                break
        loops.append(np.array(loop))
    return loops


def _signed_area(loop: np.ndarray) -> int:
    """Twice the area inside, above 0 for a clockwise walk (y points down)."""
    x, y = loop.T
    return int(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def _corners(loop: np.ndarray) -> np.ndarray:
    """The points of a walk where it changes direction."""
    before, after = loop - np.roll(loop, 1, axis=0), np.roll(loop, -1, axis=0) - loop
    return loop[(before != after).any(1)]
