"""Points of faces drawn on images; pure functions over PIL."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["FACE_LINES", "FOUND", "TRUTH", "draw_landmarks"]

Color = tuple[int, int, int]

TRUTH: Color = (0, 210, 90)
"""Colour of true points."""
FOUND: Color = (255, 120, 0)
"""Colour of predicted points."""
_ERROR: Color = (255, 235, 60)


def _open(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


def _closed(first: int, last: int) -> tuple[int, ...]:
    return (*_open(first, last), first)


FACE_LINES: dict[int, tuple[tuple[int, ...], ...]] = {
    68: (
        *(_open(0, 16), _open(17, 21), _open(22, 26), _open(27, 30), _open(31, 35)),
        *(_closed(36, 41), _closed(42, 47), _closed(48, 59), _closed(60, 67)),
    ),
    98: (
        *(_open(0, 32), _closed(33, 41), _closed(42, 50), _open(51, 54), _open(55, 59)),
        *(_closed(60, 67), _closed(68, 75), _closed(76, 87), _closed(88, 95)),
    ),
}
"""By the number of points, which of them a line joins: outline, eyebrows, nose, eyes and lips."""


def draw_landmarks(
    image: np.ndarray,
    faces: Sequence[np.ndarray],
    *,
    color: Color = FOUND,
    truth: Sequence[np.ndarray] | None = None,
    boxes: Sequence[Sequence[float]] = (),
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """The image with the points of faces, lines through them where the order of the points is known.

    Args:
        image: uint8 ``[H, W, 3]``.
        faces: of each face the points ``[K, 2]`` in pixels; those that are not finite are not drawn.
        color: of points and lines.
        truth: of each face where its points should be; a thin line leads there.
        boxes: xyxy in pixels.
        size: width and height of the result; by default the image's own.
    """
    height, width = image.shape[:2]
    size = size or (width, height)
    picture = Image.fromarray(np.ascontiguousarray(image))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    scale = np.array([size[0] / width, size[1] / height])
    for x1, y1, x2, y2 in boxes:
        ends = np.clip(np.array([[x1, y1], [x2, y2]]) * scale, -2, np.array(size) + 2)
        draw.rectangle([tuple(end) for end in ends.tolist()], outline=color)
    # Places are of the pixels' centres, those of a drawing begin at the edge. Far outside nothing can be seen.
    scaled = [np.clip((points + 0.5) * scale, -1e4, 1e4) for points in faces]
    wanted = [None] * len(scaled) if truth is None else [(points + 0.5) * scale for points in truth]
    for points, true in zip(scaled, wanted, strict=True):
        _draw_face(draw, points, true, color)
    return picture


def _draw_face(draw: ImageDraw.ImageDraw, points: np.ndarray, true: np.ndarray | None, color: Color) -> None:
    seen = np.isfinite(points).all(axis=1)
    if not seen.any():
        return
    low, high = points[seen].min(axis=0), points[seen].max(axis=0)
    # Dots that a large face shows and a small one is not hidden by.
    radius = float(np.clip((high - low).max() / 110, 0.8, 6))
    for numbers in FACE_LINES.get(len(points), ()):
        for one, other in itertools.pairwise(numbers):
            if seen[one] and seen[other]:
                draw.line([tuple(points[one]), tuple(points[other])], fill=color, width=max(1, round(radius / 2)))
    for number in np.flatnonzero(seen).tolist():
        x, y = points[number].tolist()
        if true is not None:
            draw.line([(x, y), tuple(true[number])], fill=_ERROR, width=max(1, round(radius / 2)))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
