"""Label maps and saliency maps drawn over images, and written as files; pure functions over NumPy and PIL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ignite_imgtools.handlers.drawing import class_color, class_name

__all__ = [
    "background_label",
    "cut_out",
    "legend_picture",
    "mask_overlay",
    "mask_palette",
    "palette_image",
    "resize_labels",
]

ClassNames = Sequence[str] | Mapping[int, str] | None

_IGNORED = 255
_IGNORED_COLOR = (224, 224, 224)
_BACKGROUND_NAMES = {"background", "_background_", "bg", "unlabelled", "unlabeled", "void"}
_OPACITY, _HATCHED, _STRIPE = 141, 64, 205  # of 256
_PAPER, _INK = (246, 246, 246), (40, 40, 40)


def background_label(class_names: ClassNames) -> int | None:
    """The label that stands for "nothing": 0 where its name says so, or where there are no names; else ``None``.

    >>> background_label(["background", "cat"]), background_label(["sky", "road"]), background_label(None)
    (0, None, 0)
    """
    if class_names is None or len(class_names) == 0:
        return 0
    return 0 if class_name(0, class_names).lower() in _BACKGROUND_NAMES else None


def mask_palette(background: int | None = 0) -> np.ndarray:
    """The colour of each label, uint8 ``[256, 3]``: as boxes of that label have, beyond twelve lighter and darker ones.

    The background is black, 255 (ignored) a light grey.
    """
    palette = np.array([class_color(label) for label in range(256)], dtype=np.float64)
    # Each round through the twelve hues at another lightness: light, dark, lighter, darker, ...
    for first in range(12, 256, 12):
        turn = first // 12
        share = min(0.45 + 0.1 * (turn // 2), 0.8)
        towards = 255.0 if turn % 2 else 0.0
        palette[first : first + 12] = (1 - share) * palette[first : first + 12] + share * towards
    if background is not None:
        palette[background] = 0
    palette[_IGNORED] = _IGNORED_COLOR
    return palette.round().astype(np.uint8)


def palette_image(labels: np.ndarray, background: int | None = 0) -> Image.Image:
    """Labels as an indexed picture: its pixels are the labels, its palette is :func:`mask_palette`.

    Args:
        labels: integers ``[H, W]`` in 0..255.
    """
    picture = Image.fromarray(labels.astype(np.uint8), "L")
    picture.putpalette(mask_palette(background).tobytes())
    return picture


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels ``[H, W]`` at another width and height, each pixel that of the nearest one."""
    if size == (labels.shape[1], labels.shape[0]):
        return labels
    return np.asarray(Image.fromarray(labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))


def mask_overlay(image: np.ndarray, labels: np.ndarray, background: int | None = 0) -> np.ndarray:
    """The image tinted by label, with full colour along the borders; what is ignored (255) is hatched.

    Args:
        image: uint8 ``[H, W, 3]``.
        labels: integers ``[H, W]`` in 0..255.
        background: left as it is; ``None``: every label is tinted.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    # Shares of 256, so that a large image takes two bytes a channel and not eight.
    opacity = np.full(labels.shape, _OPACITY, dtype=np.uint16)
    border = np.zeros(labels.shape, dtype=bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    for side in (border[:, 1:], border[:, :-1]):
        side |= across
    for side in (border[1:], border[:-1]):
        side |= down
    opacity[border] = 256
    if background is not None:
        opacity[labels == background] = 0
    rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    stripes = (rows + columns) % 8 < 2
    ignored = labels == _IGNORED
    opacity[ignored] = _HATCHED
    opacity[ignored & stripes] = _STRIPE
    share = opacity[..., None]
    mixed = image.astype(np.uint16) * (256 - share)
    mixed += mask_palette(background).astype(np.uint16)[labels] * share
    return ((mixed + 128) >> 8).astype(np.uint8)


def legend_picture(labels: Sequence[int], class_names: ClassNames, width: int) -> Image.Image:
    """The colour and the name of each of ``labels`` (255 as "ignored"), in lines of no more than ``width`` pixels."""
    palette = mask_palette(background_label(class_names))
    font = ImageFont.load_default(13)
    swatch, line, gap = 13, 20, 14
    x, y, places = 2, 2, []
    for label in labels:
        text = "ignored" if label == _IGNORED else class_name(label, class_names)
        needed = swatch + 5 + int(font.getlength(text)) + gap
        if x > 2 and x + needed > width:
            x, y = 2, y + line
        places.append((x, y, label, text))
        x += needed
    picture = Image.new("RGB", (width, y + line), _PAPER)
    draw = ImageDraw.Draw(picture)
    for x, y, label, text in places:
        box = (x, y + 2, x + swatch, y + 2 + swatch)
        draw.rectangle(box, fill=tuple(int(value) for value in palette[label]), outline=_INK)
        draw.text((x + swatch + 5, y), text, fill=_INK, font=font)
    return picture


def cut_out(image: np.ndarray, saliency: np.ndarray) -> Image.Image:
    """The image with the saliency as its transparency, ``RGBA``.

    Args:
        image: uint8 ``[H, W, 3]``.
        saliency: uint8 ``[H, W]``, 255 for what is kept.
    """
    return Image.fromarray(np.dstack([image, saliency]), "RGBA")
