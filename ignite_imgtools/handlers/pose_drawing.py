"""Skeletons and heat-maps drawn on images; pure functions over PIL and NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ignite_imgtools.handlers.drawing import Color, class_color

__all__ = ["SIDE_COLORS", "draw_skeletons", "heatmap_overlay", "joint_color"]

SIDE_COLORS: dict[str, Color] = {"left": (255, 140, 0), "right": (0, 158, 255), "": (90, 200, 60)}
"""Colour of joints and lines of the left and the right side, and of what has no side."""

_MIN_SIDE = 480


def joint_color(name: str) -> Color:
    """The colour of a joint by its name: those of the left are orange, of the right blue, others green.

    >>> joint_color("left_eye") == SIDE_COLORS["left"], joint_color("nose") == SIDE_COLORS[""]
    (True, True)
    """
    words = name.lower().replace("-", "_").replace(" ", "_").split("_")
    return SIDE_COLORS[next((side for side in ("left", "right") if side in words), "")]


def draw_skeletons(
    image: np.ndarray,
    keypoints: np.ndarray,
    skeleton: Sequence[Sequence[int]] = (),
    names: Sequence[str] = (),
    *,
    shown: np.ndarray | None = None,
    hollow: np.ndarray | None = None,
    boxes_xyxy: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """The image with the keypoints of persons as dots, and lines between them.

    Args:
        image: uint8 ``[H, W, 3]``.
        keypoints: ``[N, K, 2]`` or ``[N, K, 3]``; x, y in pixels of ``image``, whose first pixel has its centre at 0.
        skeleton: pairs of keypoints, counted from 1, to draw lines between; pairs of others are passed over.
        names: of the keypoints; they choose colours by the side of the body.
        shown: bool ``[N, K]``, which are drawn; by default all. Lines are drawn between those that are.
        hollow: bool ``[N, K]``, which are drawn as rings, as those that are hidden.
        boxes_xyxy: ``[N, 4]`` thin frames.
        size: width and height of the result. By default the image's own, small images enlarged.
    """
    height, width = image.shape[:2]
    if size is None:
        scale = max(1.0, _MIN_SIDE / max(height, width, 1))
        size = (round(width * scale), round(height * scale))
    picture = Image.fromarray(image)
    picture = picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    scales = np.array([size[0] / width, size[1] / height])
    # What lies far outside would take its time to draw, and cannot be seen.
    places = np.nan_to_num((np.asarray(keypoints, np.float64)[..., :2] + 0.5) * scales).clip(
        -4 * max(size), 4 * max(size)
    )
    count = places.shape[1] if places.ndim == 3 else 0
    colors = [joint_color(names[joint] if joint < len(names) else "") for joint in range(count)]
    shown = np.ones(places.shape[:2], bool) if shown is None else np.asarray(shown, bool)
    line = max(2, round(max(size) / 250))
    if boxes_xyxy is not None:
        limits = np.array([*size, *size])
        for person, box in enumerate(
            (np.asarray(boxes_xyxy, np.float64) * np.tile(scales, 2)).clip(0, limits).tolist()
        ):
            draw.rectangle(box, outline=class_color(person), width=1)
    lines = [(a - 1, b - 1) for a, b in skeleton if min(a, b) >= 1 and max(a, b) <= count]
    for person, points in enumerate(places.tolist()):
        for start, end in lines:
            if shown[person, start] and shown[person, end]:
                color = colors[start] if colors[start] == colors[end] else SIDE_COLORS[""]
                draw.line([tuple(points[start]), tuple(points[end])], fill=color, width=line)
        for joint, (x, y) in enumerate(points):
            if shown[person, joint]:
                ring = hollow is not None and bool(hollow[person, joint])
                _dot(draw, x, y, 1.4 * line, colors[joint], ring)
    return picture


def heatmap_overlay(crop: np.ndarray, heatmaps: np.ndarray, names: Sequence[str] = ()) -> Image.Image:
    """A person with all its heat-maps over it: as bright as the highest of them, in the colour of its joint.

    Args:
        crop: uint8 ``[H, W, 3]``.
        heatmaps: float ``[K, h, w]``; 0 and below is not seen, 1 and above hides the image.
        names: of the keypoints; they choose colours by the side of the body.
    """
    highest = np.nan_to_num(heatmaps.max(axis=0)).clip(0, 1)
    colors = np.array([joint_color(names[joint] if joint < len(names) else "") for joint in range(len(heatmaps))])
    strength = _enlarged(Image.fromarray((255 * highest).astype(np.uint8)), crop, Image.Resampling.BILINEAR)
    tint = _enlarged(Image.fromarray(colors[heatmaps.argmax(axis=0)].astype(np.uint8)), crop, Image.Resampling.NEAREST)
    grey = (crop.mean(axis=2, keepdims=True) * 0.5 + crop * 0.1).astype(np.float64)
    share = strength[..., None] / 255
    return Image.fromarray((grey * (1 - share) + tint * share).round().astype(np.uint8))


def _enlarged(picture: Image.Image, crop: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
    """A picture of a heat-map's size over the crop: its pixels have their centres at multiples of the stride."""
    height, width = crop.shape[:2]
    across, down = picture.width / width, picture.height / height
    matrix = (across, 0, 0.5 - across / 2, 0, down, 0.5 - down / 2)
    moved = picture.transform((width, height), Image.Transform.AFFINE, matrix, resampling)
    return np.asarray(moved, dtype=np.float64)


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: Color, ring: bool) -> None:
    place = (x - radius, y - radius, x + radius, y + radius)
    if ring:
        draw.ellipse(place, outline=(255, 255, 255), width=3)
        draw.ellipse(place, outline=color, width=2)
    else:
        draw.ellipse(place, fill=color, outline=(255, 255, 255))
