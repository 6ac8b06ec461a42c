"""Drawing the built-in data: random numbers, textures and anti-aliased polygons, the same on every platform."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Coverage", "Random", "background", "coverage", "hsv_to_rgb", "paint", "regular_polygon"]

_SAMPLES = 4  # in a pixel, along each axis
_FULL = _SAMPLES**2


class Random:
    """Random numbers of which not only the bit generator but every derived value is fixed for all time.

    numpy keeps the streams of its bit generators, but may change what ``Generator`` makes of them.
    """

    def __init__(self, seed: int):
        self._bits = np.random.PCG64(seed)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def integer(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        return low + int(self._bits.random_raw()) % (high - low + 1)

    def bytes(self, *shape: int) -> np.ndarray:
        """Numbers from 0 to 255 as int64."""
        count = int(np.prod(shape))
        raw = self._bits.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)
        return raw[:count].reshape(shape).astype(np.int64)


def background(random: Random, height: int, width: int) -> np.ndarray:
    """A texture: clouds of two colours, stripes or checks on some, and grain: uint8 ``[H, W, 3]``."""
    first, second = (_muted(random.bytes(3) * 3 // 4 + 32) for _ in range(2))
    size = random.uniform(10.0, 40.0)
    mixture = _clouds(random, height, width, size) * 2 + _clouds(random, height, width, size / 3)
    image = (first * (765 - mixture[..., None]) + second * mixture[..., None]) // 765
    kind = random.integer(0, 3)
    if kind >= 2:  # in the others the clouds stand alone
        period = random.integer(6, 16)
        slope, x, y = random.integer(-2, 2), np.arange(width), np.arange(height)[:, None]
        bands = (x + slope * y) // period
        bands = bands if kind == 2 else x // period + y // period
        image += ((bands % 2) * random.integer(10, 30))[..., None]
    image += random.bytes(height, width, 1) // 12 - 10
    return np.clip(image, 0, 255).astype(np.uint8)


def hsv_to_rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """A colour, int64 ``[3]``, 0 to 255; hue in turns, saturation and value in 0..1."""
    ramp = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return np.floor(255 * value * (1 - saturation * (1 - np.clip(ramp, 0, 1)))).astype(np.int64)


def regular_polygon(corners: int) -> np.ndarray:
    """A regular polygon of radius 1 around (0, 0) with a corner at the top: float64 ``[corners, 2]``."""
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack((np.sin(angles), -np.cos(angles)), axis=1)


def _muted(colour: np.ndarray) -> np.ndarray:
    """A colour with a third of its chroma, so that objects stand out by theirs."""
    grey: np.ndarray = (colour + 2 * (colour.sum() // 3)) // 3
    return grey


def _clouds(random: Random, height: int, width: int, size: float) -> np.ndarray:
    """Random numbers on a grid, interpolated between its points: int64 ``[H, W]``, 0 to 255."""
    rows, columns = np.arange(height) / size, np.arange(width) / size
    grid = random.bytes(int(rows[-1]) + 2, int(columns[-1]) + 2).astype(np.float64)
    row, column = rows.astype(np.int64), columns.astype(np.int64)
    down, right = (rows - row)[:, None], columns - column
    along = grid[row] * (1 - down) + grid[row + 1] * down
    return (along[:, column] * (1 - right) + along[:, column + 1] * right).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Coverage:
    """How much of each pixel something covers: ``share`` int64, 0 to 16, in the part ``window`` of a canvas."""

    window: tuple[slice, slice]
    share: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """Pixels of the window that are covered at least by half."""
        return self.share >= _FULL // 2


def coverage(outline: np.ndarray, height: int, width: int) -> Coverage:
    """What a polygon covers of a canvas, by the even-odd rule.

    Args:
        outline: float64 ``[V, 2]``: x, y in pixels.
        height: of the canvas.
        width: of the canvas.
    """
    x, y = outline.T
    left, right = (min(max(int(edge), 0), width) for edge in (np.floor(x.min()), np.ceil(x.max())))
    top, bottom = (min(max(int(edge), 0), height) for edge in (np.floor(y.min()), np.ceil(y.max())))
    # Each edge that crosses a line of samples turns all samples to the right of the crossing from out to in, or back.
    x, y = (x - left) * _SAMPLES, (y - top) * _SAMPLES
    following = np.arange(1, len(x) + 1) % len(x)
    lines = np.arange((bottom - top) * _SAMPLES) + 0.5
    below = y[:, None] <= lines
    edges, rows = np.nonzero(below != below[following])
    ends = following[edges]
    crossing = x[edges] + (lines[rows] - y[edges]) * (x[ends] - x[edges]) / (y[ends] - y[edges])
    columns = (right - left) * _SAMPLES
    places = rows * (columns + 1) + np.clip(np.ceil(crossing - 0.5).astype(np.int64), 0, columns)
    turns = np.bincount(places, minlength=len(lines) * (columns + 1)).reshape(len(lines), columns + 1)
    inside = np.cumsum(turns[:, :columns], axis=1) % 2
    share = inside.reshape(bottom - top, _SAMPLES, right - left, _SAMPLES).sum((1, 3))
    return Coverage((slice(top, bottom), slice(left, right)), share)


def paint(random: Random, image: np.ndarray, covered: Coverage, colour: np.ndarray) -> None:
    """Paint what is covered in a colour, shaded from one side to the other and grainy.

    Args:
        image: uint8 ``[H, W, 3]``, changed in place.
        colour: ``[3]``, 0 to 255.
    """
    height, width = covered.share.shape
    if height == 0 or width == 0:
        return
    across = random.integer(-40, 40) * np.arange(width) // width
    down = random.integer(-40, 40) * np.arange(height) // height
    shade = across + down[:, None] + random.bytes(height, width) // 16 - 8
    shaded, share = np.clip(colour + shade[..., None], 0, 255), covered.share[..., None]
    image[covered.window] = (image[covered.window] * (_FULL - share) + shaded * share + _FULL // 2) // _FULL
