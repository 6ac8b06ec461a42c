"""Text in YOLO's format: rows of label files, and ``data.yaml``."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .detection_table import clipped_corners

__all__ = ["yolo_rows", "yolo_yaml"]


def yolo_rows(
    labels: Sequence[int] | np.ndarray, boxes_xywh: ArrayLike, height: int, width: int, decimals: int = 6
) -> str:
    """The text of a label file.

    Each number is rounded to ``decimals`` digits, so an edge read back lies within ``0.75 * 10 ** -decimals`` of its
    place, in lengths of the image's side: 0.0008 pixels in 1000 at six digits.

    Args:
        labels: from 1, ``[N]``.
        boxes_xywh: in pixels, ``[N, 4]``; clipped to the image.
        height: of the image.
        width: of the image.
        decimals: digits behind the point.

    Returns:
        A line for each object: class from 0, centre and size as shares of the image. Objects of which nothing lies in
        the image, or that are rounded to nothing, have none; neither has one that would repeat a line.
    """
    corners = clipped_corners(np.asarray(boxes_xywh, np.float64).reshape(-1, 4), np.array([[height, width]]))
    scale = np.array([width, height], np.float64)
    centres, sizes = (corners[:, :2] + corners[:, 2:]) / 2 / scale, (corners[:, 2:] - corners[:, :2]) / scale
    lines: dict[str, None] = {}
    for label, centre, size in zip(np.asarray(labels).tolist(), centres.tolist(), sizes.tolist(), strict=True):
        if min(round(side, decimals) for side in size) > 0:
            numbers = " ".join(f"{value:.{decimals}f}" for value in (*centre, *size))
            lines[f"{label - 1} {numbers}"] = None
    return "".join(f"{line}\n" for line in lines)


def yolo_yaml(class_names: Sequence[str], parts: Sequence[str]) -> str:
    """The text of ``data.yaml``: names of the classes from 0, and the parts in ``images/``."""
    # A string in JSON is one in YAML too, whatever is in it.
    names = "".join(f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for number, name in enumerate(class_names))
    paths = "".join(f"{part}: images/{part}\n" for part in parts)
    return f"{paths}nc: {len(class_names)}\nnames:\n{names}"
