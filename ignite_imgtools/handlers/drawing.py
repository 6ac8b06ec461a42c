"""Boxes drawn on images, readable whatever the image's size; pure functions over PIL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = [
    "beside",
    "class_color",
    "class_name",
    "draw_boxes",
    "image_to_array",
    "panels_of",
    "prediction_picture",
    "rows_picture",
    "truth_picture",
]

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]

# Twelve hues that stay apart on photographs, in an order that makes neighbouring labels differ most.
_COLORS: tuple[Color, ...] = (
    (255, 87, 51),
    (0, 158, 255),
    (255, 200, 0),
    (170, 60, 220),
    (0, 190, 90),
    (255, 90, 180),
    (0, 200, 200),
    (150, 110, 60),
    (150, 210, 30),
    (90, 90, 255),
    (255, 140, 0),
    (200, 30, 70),
)
_BACKGROUND: Color = (246, 246, 246)
_INK: Color = (40, 40, 40)
_MARGIN = 8
_MIN_SIDE = 480
_TEXT_GAP = 2


def class_color(label: int) -> Color:
    """The colour of a class, red, green and blue in 0..255; twelve labels in a row have different ones."""
    return _COLORS[label % len(_COLORS)]


def class_name(label: int, class_names: Sequence[str] | Mapping[int, str] | None) -> str:
    """The name of a class: ``class_names`` is indexed by label, so that a list begins with the background.

    >>> class_name(2, ["background", "cat", "dog"]), class_name(7, {1: "cat"}), class_name(3, None)
    ('dog', '7', '3')
    """
    if class_names is None:
        return str(label)
    if isinstance(class_names, Mapping):
        return str(class_names.get(label, label))
    return str(class_names[label]) if 0 <= label < len(class_names) else str(label)


def image_to_array(image: Tensor) -> np.ndarray:
    """An image ``[3, H, W]``, uint8 or floating point in 0..1, as uint8 ``[H, W, 3]``.

    Values outside of 0..1, of a normalised image, are stretched to that range.
    """
    if image.dtype != torch.uint8:
        image = image.detach().float()
        low, high = image.aminmax() if image.numel() else (torch.zeros(()), torch.ones(()))
        if low < -0.01 or high > 1.01:
            image = (image - low) / (high - low)
        image = image.clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def draw_boxes(
    image: np.ndarray,
    boxes_xyxy: np.ndarray,
    labels: Sequence[int],
    texts: Sequence[str],
    *,
    size: tuple[int, int] | None = None,
    dashed: Sequence[bool] | None = None,
    masks: np.ndarray | None = None,
    keypoints: np.ndarray | None = None,
) -> Image.Image:
    """The image with boxes and their texts, with masks as a tint and keypoints as dots.

    Args:
        image: uint8 ``[H, W, 3]``.
        boxes_xyxy: ``[N, 4]`` in pixels of ``image``; drawn in this order.
        labels: decide the colours.
        texts: what stands at each box; where several would cover each other, the last boxes keep their places and the
            others take free ones beside.
        size: width and height of the result. By default the image's own, small images enlarged until their text can
            be read.
        dashed: boxes with a broken line.
        masks: ``[N, H, W]``, set where not 0.
        keypoints: ``[N, K, 3]``: x, y in pixels of ``image`` and a number above 0 where there is one.
    """
    height, width = image.shape[:2]
    if masks is not None and len(masks):
        image = _tinted(image, masks != 0, labels)
    if size is None:
        scale = max(1.0, _MIN_SIDE / max(height, width, 1))
        size = (round(width * scale), round(height * scale))
    picture = Image.fromarray(image)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    font = _font(max(12, round(max(size) / 40)))
    line = max(2, round(max(size) / 200))
    scales = np.array([size[0] / width, size[1] / height] * 2)
    # Lines far outside of the picture would be drawn too, and take their time.
    limits = np.array([*size, *size]) + line
    scaled = np.clip(np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4) * scales, -line, limits).tolist()
    for i, (box, label) in enumerate(zip(scaled, labels, strict=True)):
        _draw_outline(draw, box, class_color(label), line, dashed=dashed is not None and dashed[i])
    if keypoints is not None:
        for points, label in zip(keypoints, labels, strict=True):
            for x, y in (points[points[:, 2] > 0, :2] * scales[:2]).tolist():
                place = (x - line, y - line, x + line, y + line)
                draw.ellipse(place, fill=class_color(label), outline=(255, 255, 255))
    bounds = [draw.textbbox((0, 0), text, font=font) for text in texts]
    # The last boxes, the surest of a prediction, are on top and choose first.
    places = np.full((len(scaled), 4), -np.inf)
    for i, (box, (left, top, right, bottom)) in reversed(list(enumerate(zip(scaled, bounds, strict=True)))):
        if np.isfinite(box).all():
            places[i] = _text_place(box, (right - left + 6, bottom - top + 6), size, places[i + 1 :])
    for text_place, label, text, (left, top, _, _) in zip(places.tolist(), labels, texts, bounds, strict=True):
        if np.isfinite(text_place).all():
            ink = _draw_ground(draw, text_place, class_color(label))
            draw.text((text_place[0] + 3 - left, text_place[1] + 3 - top), text, fill=ink, font=font)
    return picture


def _tinted(image: np.ndarray, masks: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    tinted = image.copy()
    for mask, label in zip(masks, labels, strict=True):
        # Halfway to the colour, in whole numbers.
        tinted[mask] = (tinted[mask] >> 1) + (np.array(class_color(label), dtype=np.uint8) >> 1)
    return tinted


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _draw_outline(draw: ImageDraw.ImageDraw, box: Sequence[float], color: Color, line: int, *, dashed: bool) -> None:
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1 or not np.isfinite(box).all():
        return
    if not dashed:
        draw.rectangle((x1, y1, x2, y2), outline=color, width=line)
        return
    step = 4 * line
    for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        direction = np.subtract(end, start)
        length = float(np.abs(direction).sum())
        for offset in np.arange(0, length, 2 * step):
            dash = (np.array([offset, min(offset + step, length)]) / length)[:, None] * direction + start
            draw.line([tuple(point) for point in dash.tolist()], fill=color, width=line)


def _text_place(box: Sequence[float], extent: tuple[float, float], size: tuple[int, int], taken: np.ndarray) -> Box:
    """Where a text stands: at a corner of ``box``, or along its edges, or in the nearest free place of the picture.

    Where none is free it covers as little of the texts before, ``taken`` ``[N, 4]``, as can be.
    """
    width, height = extent
    x1, y1, x2, y2 = box
    room_x, room_y = max(size[0] - width, 0.0), max(size[1] - height, 0.0)
    corners = [(x1, y1 - height), (x1, y2), (x2 - width, y1 - height), (x1, y1), (x2 - width, y2), (x1, y2 - height)]
    xs, ys = np.clip(corners, 0.0, (room_x, room_y)).T
    covered = (_shared(xs, width, taken[:, ::2]) * _shared(ys, height, taken[:, 1::2])).sum(0)
    if covered.min() < 1:
        i = j = int((covered < 1).argmax())
    else:
        x, y, step = xs[0], ys[0], (height + _TEXT_GAP) / 4  # four steps are a line, so texts pile up tightly
        xs = _steps(x, [x1, x2, x1 - width, x2 - width], step, room_x)
        ys = _steps(y, [y1, y2, y1 - height, y2 - height], step, room_y)
        covered = _shared(xs, width, taken[:, ::2]).T @ _shared(ys, height, taken[:, 1::2])
        # To leave the box costs more than to slide along it, and upright slides more than level ones: texts are wide.
        gap_x = np.maximum(x1 - xs - width, xs - x2).clip(0)
        gap_y = np.maximum(y1 - ys - height, ys - y2).clip(0)
        far = 4 * np.maximum(gap_x[:, None], gap_y) + np.abs(xs - x)[:, None] / 4 + np.abs(ys - y)
        best = np.where(covered < 1, far, 1e6 * covered + far).argmin()
        i, j = divmod(int(best), len(ys))
    return (float(xs[i]), float(ys[j]), float(xs[i]) + width, float(ys[j]) + height)


def _steps(start: float, others: Sequence[float], step: float, end: float) -> np.ndarray:
    return np.concatenate([np.clip([start, *others], 0.0, end), np.arange(start % step, end, step), [end]])


def _shared(starts: np.ndarray, length: float, taken: np.ndarray) -> np.ndarray:
    """What texts of ``length`` at ``starts`` ``[M]`` have in common with those of ``taken`` ``[N, 2]``: ``[N, M]``."""
    ends = np.minimum(starts + length, taken[:, 1:]) + _TEXT_GAP
    return (ends - np.maximum(starts, taken[:, :1])).clip(0)


def _draw_ground(draw: ImageDraw.ImageDraw, place: Sequence[float], color: Color) -> Color:
    """Fill ``place`` for a text, and say in which colour that is readable."""
    draw.rectangle(tuple(place), fill=color)
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if luminance > 140 else (255, 255, 255)


def prediction_picture(
    image: np.ndarray,
    prediction: Mapping[str, Any],
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    *,
    score_threshold: float = 0.5,
    max_boxes: int = 50,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """The image with what a detector found, names and scores beside the boxes, the surest on top.

    Args:
        image: uint8 ``[H, W, 3]``.
        prediction: ``boxes`` ``[N, 4]`` xyxy in pixels of ``image``, ``labels`` ``[N]``, ``scores`` ``[N]``;
            optionally ``masks`` ``[N, 1, H, W]`` in 0..1 or bool, and ``keypoints`` ``[N, K, 3]``.
        score_threshold: what is less sure is not drawn.
        max_boxes: no more than so many are drawn, the surest.
        size: see :func:`draw_boxes`.
    """
    boxes, labels, scores = (_to_array(prediction[key]) for key in ("boxes", "labels", "scores"))
    shown = np.flatnonzero(scores >= score_threshold)
    shown = shown[np.argsort(scores[shown], kind="stable")][-max_boxes:]
    names = [int(label) for label in labels[shown]]
    texts = [f"{class_name(name, class_names)} {score:.2f}" for name, score in zip(names, scores[shown], strict=True)]
    masks, keypoints = (prediction.get(key) for key in ("masks", "keypoints"))
    return draw_boxes(
        image,
        boxes.reshape(-1, 4)[shown],
        names,
        texts,
        size=size,
        masks=None if masks is None else _to_array(masks[shown.tolist()])[:, 0] > 0.5,
        keypoints=None if keypoints is None else _to_array(keypoints)[shown],
    )


def truth_picture(
    image: np.ndarray,
    target: Mapping[str, Any],
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    *,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """The image with its annotated boxes; those of crowds have a broken line.

    Args:
        image: uint8 ``[H, W, 3]``.
        target: ``boxes`` ``[N, 4]`` xyxy in pixels of ``image``, ``labels`` ``[N]``, optionally ``iscrowd`` ``[N]``,
            ``masks`` ``[N, H, W]`` and ``keypoints`` ``[N, K, 3]``.
        size: see :func:`draw_boxes`.
    """
    boxes, labels = _to_array(target["boxes"]).reshape(-1, 4), [int(label) for label in _to_array(target["labels"])]
    crowd = _to_array(target["iscrowd"]).astype(bool).tolist() if "iscrowd" in target else [False] * len(labels)
    names = [class_name(label, class_names) for label in labels]
    texts = [f"{name} (crowd)" if is_crowd else name for name, is_crowd in zip(names, crowd, strict=True)]
    masks, keypoints = (_to_array(target[key]) if key in target else None for key in ("masks", "keypoints"))
    return draw_boxes(image, boxes, labels, texts, size=size, dashed=crowd, masks=masks, keypoints=keypoints)


def _to_array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values  # NumPy has no bfloat16
    return np.asarray(values)


def beside(pictures: Sequence[Image.Image], titles: Sequence[str]) -> np.ndarray:
    """Pictures next to each other, a title above each, as uint8 ``[H, W, 3]``."""
    font, strip = _font(14), 21
    width = sum(picture.width for picture in pictures) + _MARGIN // 2 * (len(pictures) - 1)
    canvas = Image.new("RGB", (width, strip + max(picture.height for picture in pictures)), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    x = 0
    for picture, title in zip(pictures, titles, strict=True):
        canvas.paste(picture, (x, strip))
        draw.text((x + 1, 2), _shortened(draw, title, font, picture.width), fill=_INK, font=font)
        x += picture.width + _MARGIN // 2
    return np.asarray(canvas)


def _shortened(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> str:
    while text and draw.textlength(text, font=font) > width:
        text = text[:-1]
    return text


def rows_picture(pictures: Sequence[np.ndarray], width: int = 1640) -> np.ndarray:
    """Pictures in rows, the widest first and others where they fit, as uint8 ``[H, W, 3]``.

    Args:
        width: of the whole in pixels; more if a single picture is wider.
    """
    gap = 2 * _MARGIN
    rows: list[list[np.ndarray]] = []
    for picture in sorted(pictures, key=lambda picture: -picture.shape[1]):
        needed = picture.shape[1] + gap
        free = (row for row in rows if sum(placed.shape[1] + gap for placed in row) + needed <= width)
        row = next(free, None)
        if row is None:
            rows.append([picture])
        else:
            row.append(picture)
    widths = [sum(picture.shape[1] for picture in row) + gap * (len(row) - 1) for row in rows]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    canvas = np.empty((sum(heights) + gap * (len(rows) - 1) + gap, max(widths) + gap, 3), dtype=np.uint8)
    canvas[:] = _BACKGROUND
    y = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        x = _MARGIN
        for picture in row:
            canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
            x += picture.shape[1] + gap
        y += height + gap
    return canvas


def panels_of(picture: np.ndarray) -> list[np.ndarray]:
    """The pictures that :func:`rows_picture` has put into one, in its order; that one itself where there are no gaps.

    Args:
        picture: uint8 ``[H, W, 3]``.
    """
    empty = (picture == np.array(_BACKGROUND, dtype=np.uint8)).all(axis=2)
    found = []
    for top, bottom in _between_gaps(empty.all(axis=1)):
        for left, right in _between_gaps(empty[top:bottom].all(axis=0)):
            # A picture that is lower than the others of its row has background below.
            filled = np.flatnonzero(~empty[top:bottom, left:right].all(axis=1))
            found.append(picture[top : top + int(filled[-1]) + 1, left:right])
    return found


def _between_gaps(empty: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of each stretch that ``_MARGIN`` or more empty lines part from the next."""
    filled = np.flatnonzero(~empty)
    if not len(filled):
        return []
    breaks = np.flatnonzero(np.diff(filled) > _MARGIN)
    starts, ends = filled[np.r_[0, breaks + 1]], filled[np.r_[breaks, len(filled) - 1]] + 1
    return list(zip(starts.tolist(), ends.tolist(), strict=True))
