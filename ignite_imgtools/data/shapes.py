"""The built-in data: coloured shapes that overlap, on textured backgrounds, with exact annotations.

An image is a pure function of (seed, index) in integers and basic IEEE arithmetic, so its pixels and annotations are
the same on every platform, in every process and in any order.

Every object carries a dot near its head, so that its turn can be seen. Its keypoints are ``head``, ``right``,
``tail`` and ``left``: on its axes, just inside its outline. Their visibility is 2, or 1 where another object covers
them, or 0 (with x = y = 0) where they lie outside of the image.

What is annotated is the visible part of an object, as in COCO: its pixels, and the box that just holds them. Objects
are placed so that of each at least :data:`MIN_VISIBLE` stays visible; nothing visible goes without annotation.
Now and then many small shapes of one class form a crowd, annotated as one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ignite_imgtools.distributed import keyed_seed

from .shapes_drawing import Coverage, Random, background, coverage, hsv_to_rgb, paint, regular_polygon

__all__ = ["CLASSES", "KEYPOINTS", "MIN_VISIBLE", "SKELETON", "ShapeObject", "ShapesImage", "create_shapes_image"]

CLASSES = ("ellipse", "rectangle", "triangle", "star", "cross")
"""Names of the labels 1 to 5."""

KEYPOINTS = ("head", "right", "tail", "left")
SKELETON = ((1, 3), (2, 4))
"""Lines between keypoints, counted from 1."""

MIN_VISIBLE = 0.5
"""Share of an object's area that no other object covers."""

_MIN_INSIDE = 0.6  # share of an object's area that lies in the image
_HUES = (0.58, 0.02, 0.33, 0.13, 0.83)  # of the classes, in turns: blue, red, green, yellow, purple
_CROWD_CHANCE = 0.12


@dataclass(frozen=True, eq=False)
class ShapeObject:
    """One object: ``label``; visible pixels ``mask`` bool ``[H, W]``; ``keypoints`` float64 ``[4, 3]`` (x, y,
    visibility), all 0 for a crowd; ``iscrowd``; the share of its area that is visible, ``visible``."""

    label: int
    mask: np.ndarray
    keypoints: np.ndarray
    iscrowd: bool
    visible: float

    def box_xywh(self) -> tuple[int, int, int, int]:
        """The box that just holds the visible pixels: x, y, width, height."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        x, y = int(columns[0]), int(rows[0])
        return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


@dataclass(frozen=True, eq=False)
class ShapesImage:
    """An image, uint8 ``[H, W, 3]``, and its objects."""

    image: np.ndarray
    objects: list[ShapeObject]


@dataclass(frozen=True, eq=False)
class _Figure:
    """A shape on the canvas: its outline, float64 ``[V, 2]`` (x, y), and the points on its axes in order of
    :data:`KEYPOINTS`."""

    outline: np.ndarray
    points: np.ndarray
    centre: tuple[float, float]
    radius: float


@dataclass(eq=False)
class _Item:
    """An object while others are still drawn over it; ``area`` and ``visible`` count pixels."""

    label: int
    figures: list[_Figure]
    area: int
    visible: int = 0


def create_shapes_image(seed: int, index: int, image_size: int = 160) -> ShapesImage:
    """Draw image ``index`` of the endless set that ``seed`` names.

    Args:
        image_size: the longer side of an image measures 70 % to 100 % of it, in pixels; the sides are to each other
            as 1 to 2 at most.
    """
    random = Random(keyed_seed(seed, index))
    longer = image_size * random.uniform(0.7, 1.0)
    shorter = longer / random.uniform(1.0, 2.0)
    height, width = (int(longer), int(shorter)) if random.uniform() < 0.4 else (int(shorter), int(longer))
    canvas = _Canvas(random, height, width)
    if random.uniform() < _CROWD_CHANCE:
        canvas.add_crowd()
    for _ in range(random.integer(1, 6)):
        canvas.add_object()
    return ShapesImage(canvas.image, canvas.objects())


class _Canvas:
    def __init__(self, random: Random, height: int, width: int):
        self.random = random
        self.image = background(random, height, width)
        # Number of the item that is seen in a pixel, -1 for the background.
        self.owner = np.full((height, width), -1, dtype=np.int16)
        self.items: list[_Item] = []

    def add_object(self) -> None:
        """Add an object where it fits; none if there is no such place after some tries."""
        shorter = min(self.owner.shape)
        label = self.random.integer(1, len(CLASSES))
        for attempt in range(12):
            # Ever smaller, so that a full image still takes most of its objects.
            radius = max(shorter * self.random.uniform(0.13, 0.36) * 0.95**attempt, 8.0)
            figure = self._figure(label, radius)
            covered = coverage(figure.outline, *self.owner.shape)
            if self._fits(covered, figure):
                self.items.append(_Item(label, [figure], int(covered.mask.sum())))
                self._paint(figure, covered, self._colour(label))
                return

    def add_crowd(self) -> None:
        """Add a crowd: small shapes of one class around one place."""
        height, width = self.owner.shape
        label = self.random.integer(1, len(CLASSES))
        colour = self._colour(label)
        x, y = self.random.uniform(0.25, 0.75) * width, self.random.uniform(0.25, 0.75) * height
        radius = max(min(height, width) * 0.05, 3.5)
        item = _Item(label, [], 0)
        self.items.append(item)
        for _ in range(self.random.integer(8, 14)):
            dx, dy = (self.random.uniform(-4.0, 4.0) * radius for _ in range(2))
            figure = self._figure(label, radius, (x + dx, y + dy))
            item.figures.append(figure)
            self._paint(figure, coverage(figure.outline, height, width), colour)
        item.area = item.visible

    def objects(self) -> list[ShapeObject]:
        found = []
        for number, item in enumerate(self.items):
            if item.visible:
                crowd = len(item.figures) > 1
                points = np.zeros((len(KEYPOINTS), 3)) if crowd else self._keypoints(item.figures[0], number)
                share = item.visible / item.area
                found.append(ShapeObject(item.label, self.owner == number, points, crowd, share))
        return found

    def _figure(self, label: int, radius: float, centre: tuple[float, float] | None = None) -> _Figure:
        height, width = self.owner.shape
        if centre is None:
            centre = self.random.uniform(0.0, 1.0) * width, self.random.uniform(0.0, 1.0) * height
        outline, points = _upright(CLASSES[label - 1], self.random.uniform(0.62, 1.0))
        angle = self.random.uniform(0.0, 2 * math.pi)
        sine, cosine = math.sin(angle), math.cos(angle)
        turn = np.array([[cosine, sine], [-sine, cosine]]) * radius
        # Sines differ between platforms in their last bit; on a grid of 1/64 pixel the same outline is drawn.
        outline, points = (np.round((part @ turn + centre) * 64) / 64 for part in (outline, points))
        return _Figure(outline, points, centre, radius)

    def _fits(self, covered: Coverage, figure: _Figure) -> bool:
        """Whether enough of a figure lies in the image, and enough of the objects below it stays visible."""
        x, y = figure.outline.T
        full = abs(float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))) / 2
        if covered.mask.sum() < _MIN_INSIDE * full:
            return False
        hidden = np.bincount(self.owner[covered.window][covered.mask] + 1, minlength=len(self.items) + 1)[1:].tolist()
        return all(
            item.visible - lost >= MIN_VISIBLE * item.area for lost, item in zip(hidden, self.items, strict=True)
        )

    def _paint(self, figure: _Figure, covered: Coverage, colour: np.ndarray) -> None:
        """Paint a figure of the newest item."""
        paint(self.random, self.image, covered, colour)
        head = figure.points[0] * 0.55 + np.array(figure.centre) * 0.45
        dot = np.round((regular_polygon(12) * (figure.radius * 0.13) + head) * 64) / 64
        light = 255 if colour.sum() < 330 else 20
        paint(self.random, self.image, coverage(dot, *self.owner.shape), np.full(3, light))
        owner, newest = self.owner[covered.window], len(self.items) - 1
        for number, lost in enumerate(np.bincount(owner[covered.mask] + 1, minlength=newest + 2)[1:].tolist()):
            self.items[number].visible -= lost
        owner[covered.mask] = newest
        self.items[newest].visible += int(covered.mask.sum())

    def _colour(self, label: int) -> np.ndarray:
        """A colour, uint8 range ``[3]``: mostly near the hue of the class, sometimes any."""
        random = self.random
        hue = random.uniform() if random.uniform() < 0.06 else _HUES[label - 1] + random.uniform(-0.045, 0.045)
        saturation, value = random.uniform(0.45, 1.0), random.uniform(0.45, 1.0)
        return hsv_to_rgb(hue, saturation, value)

    def _keypoints(self, figure: _Figure, number: int) -> np.ndarray:
        keypoints = np.zeros((len(KEYPOINTS), 3))
        for keypoint, (x, y) in zip(keypoints, figure.points.tolist(), strict=True):
            column, row = math.floor(x), math.floor(y)
            if 0 <= row < self.owner.shape[0] and 0 <= column < self.owner.shape[1]:
                keypoint[:] = round(x, 2), round(y, 2), 2 if self.owner[row, column] == number else 1
        return keypoints


def _upright(name: str, slimness: float) -> tuple[np.ndarray, np.ndarray]:
    """Outline ``[V, 2]`` and points on the axes ``[4, 2]`` (:data:`KEYPOINTS`) of a shape of radius 1, head up.

    Args:
        slimness: width by height, for the shapes that have a choice.
    """
    inset = 0.88  # keeps the points on the shape's own pixels
    if name == "ellipse":
        outline, reach = regular_polygon(40) * (slimness, 1.0), (1.0, slimness, 1.0)
    elif name == "rectangle":
        outline = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (0.75 * slimness, 0.85)
        reach = (0.85, 0.75 * slimness, 0.85)
    elif name == "triangle":
        outline = np.array([[0, -1], [slimness, 0.7], [-slimness, 0.7]])
        reach = (0.9, 0.41 * slimness, 0.7)
    elif name == "star":
        outline = regular_polygon(10) * np.where(np.arange(10) % 2, 0.45, 1.0)[:, None]
        reach = (0.9, 0.4, 0.45)
    else:
        arm, length = 0.3, 0.95
        corner = np.array([[arm, -length], [arm, -arm], [length, -arm]])
        quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
        turns = [np.linalg.matrix_power(quarter, count) for count in range(4)]
        outline, reach = np.concatenate([corner @ turn for turn in turns]), (length, length, length)
    up, side, down = (inset * part for part in reach)
    return outline, np.array([[0, -up], [side, 0], [0, down], [-side, 0]])
