"""Pictures of an evaluation: confusion matrix, errors by kind, average precision by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.handlers.figure_parts import INK, add_scale, create_axes, short_name, text_width, tint
from ignite_imgtools.metrics.coco_analysis import ErrorBreakdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["class_precision_figure", "confusion_figure", "error_figure"]

# Up to so many classes the cells are large enough for a number.
_MAX_NUMBERED = 30
# Beyond, names of classes would be too small to be read.
_MAX_NAMED = 120
_LISTED, _BEST_AND_WORST = 24, 30
_BLUE, _GREY = "#3b75af", "0.72"
_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}


def confusion_figure(matrix: NDArray[np.int64], class_names: Sequence[str], title: str = "Confusion matrix") -> Figure:
    """A confusion matrix: what is right in shades of blue, what is wrong in shades of red.

    The shade is the share of the objects of a class, in the last row of the detections of a class. With few classes
    the cells have their numbers, with many the most frequent confusions are listed beside them.

    Args:
        matrix: int64 ``[C + 1, C + 1]``, rows by the class of the truth, the last of both being background.
        class_names: ``C`` names.
    """
    names = [*(short_name(name) for name in class_names), "background"]
    count = len(names)
    numbered = count <= _MAX_NUMBERED
    side = float(np.clip(0.44 * count, 3.4, 12.5))
    size = 9 if count <= 12 else 8 if numbered else float(np.clip(50 * side / count, 2.5, 8))
    label = text_width(names, size)
    upright = label > side / count
    bottom = 0.55 + (label if upright else 0.1)
    figure, ax = create_axes(0.45 + label, bottom, side, side, right=1.2 if numbered else 5.2)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shares[-1] = matrix[-1] / np.maximum(matrix.sum(axis=0), 1)
    cells, diagonal = tint(shares, "Reds"), np.arange(count)
    cells[diagonal, diagonal] = tint(shares[diagonal, diagonal], "Blues")
    cells[shares == 0] = 1.0
    cells[-1, -1] = 0.9  # what is nothing and was not found is not counted
    ax.imshow(cells, aspect="equal", interpolation="nearest")
    if count <= _MAX_NAMED:
        ax.set_xticks(range(count), names, rotation=90 if upright else 0, fontsize=size)
        ax.set_yticks(range(count), names, fontsize=size)
    ax.grid(visible=False)
    ax.tick_params(length=2)
    ax.axhline(count - 1.5, color=INK, linewidth=0.8)
    ax.axvline(count - 1.5, color=INK, linewidth=0.8)
    ax.set(xlabel="found as", ylabel="truth")
    ax.set_title(title, loc="left", fontsize=11)
    add_scale(figure, ax)
    if numbered:
        _number_cells(ax, matrix, shares, size)
    else:
        _list_confusions(figure, ax, matrix, names)
    return figure


def _number_cells(ax: Axes, matrix: NDArray[np.int64], shares: NDArray[np.float64], size: float) -> None:
    longest = len(str(matrix.max(initial=0)))
    for row, column in zip(*np.nonzero(matrix), strict=True):
        ax.text(
            column,
            row,
            str(matrix[row, column]),
            ha="center",
            va="center",
            fontsize=size if longest <= 4 else size * 4 / longest,
            color="white" if shares[row, column] > 0.4 else INK,
        )


def _list_confusions(figure: Figure, ax: Axes, matrix: NDArray[np.int64], names: Sequence[str]) -> None:
    between = matrix[:-1, :-1].copy()
    np.fill_diagonal(between, 0)
    order = np.argsort(-between, axis=None, kind="stable")[:_LISTED]
    pairs = [divmod(int(place), len(between)) for place in order if between.flat[place]]
    lines = [f"{between[i, j]:>7}  {names[i]} as {names[j]}" for i, j in pairs] or ["  none"]
    lost, made_up = int(matrix[:-1, -1].sum()), int(matrix[-1, :-1].sum())
    text = [
        f"{np.trace(matrix[:-1, :-1]):>7}  right",
        f"{lost:>7}  not found",
        f"{made_up:>7}  found where nothing is",
        f"{between.sum():>7}  of another class, most often",
        "",
        *lines,
    ]
    width = ax.get_position().width * figure.get_size_inches()[0]
    place = 1 + 1.2 / width
    ax.text(place, 1.0, "\n".join(text), transform=ax.transAxes, va="top", fontsize=8.5, family="monospace", color=INK)


def error_figure(breakdown: ErrorBreakdown, title: str = "Average precision lost to each kind of error") -> Figure:
    """A bar for each kind of error, in points of AP50, with how many errors there are."""
    kinds = [*breakdown.gain, "all false positives", "all false negatives"]
    values = [*breakdown.gain.values(), breakdown.gain_without_false_positives, breakdown.gain_without_false_negatives]
    points = [100 * value for value in values]
    notes = [f"   ({count:,})" for count in breakdown.count.values()] + ["", ""]
    places = [*range(len(kinds) - 2), len(kinds) - 1.5, len(kinds) - 0.5]
    figure, ax = create_axes(0.2 + text_width(kinds, 10), 0.6, 5.4, 3.2)
    ax.barh(places, points, color=[_BLUE] * (len(kinds) - 2) + [_GREY] * 2, height=0.7)
    for place, value, note in zip(places, points, notes, strict=True):
        ax.text(value, place, f"  {value:.1f}{note}", va="center", fontsize=9, color=INK)
    ax.set_yticks(places, kinds)
    ax.set_xlim(0, max(1.0, 1.25 * max(points)))
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(f"points of AP50, which is {100 * breakdown.ap:.1f}   (number of errors)")
    ax.set_title(title, loc="left", fontsize=11)
    return figure


def class_precision_figure(
    class_names: Sequence[str], values: Sequence[float], title: str = "Average precision of each class"
) -> Figure:
    """A bar for each class that has truth, the best at the top, and a line at the mean.

    Of very many classes the best and the worst are shown.

    Args:
        class_names: ``C`` names.
        values: ``C`` numbers in 0..1, -1 for a class without truth, which is left out.
    """
    shown = sorted(
        ((100 * value, short_name(name)) for name, value in zip(class_names, values, strict=True) if value >= 0),
        reverse=True,
    )
    mean = sum(value for value, _ in shown) / max(len(shown), 1)
    title = f"{title}; mean {mean:.1f}" if shown else "There was nothing to be found"
    if len(shown) > _MAX_NAMED:
        title = f"{title}; {_BEST_AND_WORST} best, {_BEST_AND_WORST} worst"
        shown = [*shown[:_BEST_AND_WORST], *shown[-_BEST_AND_WORST:]]
    names, points = [name for _, name in shown], [value for value, _ in shown]
    size, step = (9.0, 0.26) if len(shown) <= 40 else (7.0, 0.16)
    figure, ax = create_axes(0.2 + text_width(names, size), 0.6, 5.4, step * max(len(shown), 3))
    ax.barh(range(len(shown)), points, color=_BLUE, height=0.7)
    for place, value in enumerate(points):
        ax.text(value + 0.7, place, f"{value:.1f}", va="center", fontsize=size, color=INK, bbox=_WHITE)
    ax.set_yticks(range(len(shown)), names, fontsize=size)
    ax.set_ylim(max(len(shown), 1) - 0.4, -0.6)
    ax.set_xlim(0, 106)
    ax.grid(visible=False, axis="y")
    ax.axvline(mean, color=INK, linewidth=1, linestyle="--")
    if len(class_names) > len(shown) == 2 * _BEST_AND_WORST:
        ax.axhline(_BEST_AND_WORST - 0.5, color=INK, linewidth=0.8)
    ax.set_xlabel("percent")
    ax.set_title(title, loc="left", fontsize=11)
    return figure
