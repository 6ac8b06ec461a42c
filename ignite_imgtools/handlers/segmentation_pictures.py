"""Pictures of a segmentation's evaluation: which class is taken for which, in shares of its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.handlers.figure_parts import INK, add_scale, create_axes, short_name, text_width, tint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["pixel_confusion_figure"]

# Up to so many classes the cells are large enough for a number.
_MAX_NUMBERED = 30
# Beyond, names of classes would be too small to be read.
_MAX_NAMED = 120
_LISTED = 24


def pixel_confusion_figure(
    matrix: NDArray[np.int64], class_names: Sequence[str], title: str = "Confusion matrix", *, unit: str = "pixels"
) -> Figure:
    """A confusion matrix of pixels: what is right in shades of blue, what is wrong in shades of red.

    The numbers are percent of the pixels of a class, so that rows add up to 100; shares below half a percent have a
    shade alone. Rows of classes without pixels are grey. With many classes the most frequent confusions are listed
    beside the matrix.

    Args:
        matrix: int64 ``[C, C]``, rows by the class of the truth, columns by the predicted one.
        class_names: ``C`` names.
        unit: what is counted.
    """
    names = [short_name(name) for name in class_names]
    count = len(names)
    numbered = count <= _MAX_NUMBERED
    side = float(np.clip(0.44 * count, 3.4, 12.5))
    size = 9 if count <= 12 else 8 if numbered else float(np.clip(50 * side / count, 2.5, 8))
    label = text_width(names, size)
    upright = label > side / count
    bottom = 0.55 + (label if upright else 0.1)
    figure, ax = create_axes(0.45 + label, bottom, side, side, right=1.2 if numbered else 5.2)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    cells, diagonal = tint(shares, "Reds"), np.arange(count)
    cells[diagonal, diagonal] = tint(shares[diagonal, diagonal], "Blues")
    cells[shares == 0] = 1.0
    cells[totals[:, 0] == 0] = 0.92
    ax.imshow(cells, aspect="equal", interpolation="nearest")
    if count <= _MAX_NAMED:
        ax.set_xticks(range(count), names, rotation=90 if upright else 0, fontsize=size)
        ax.set_yticks(range(count), names, fontsize=size)
    ax.grid(visible=False)
    ax.tick_params(length=2)
    ax.set(xlabel="predicted", ylabel="truth")
    ax.set_title(f"{title}, percent of the {unit} of a class", loc="left", fontsize=11)
    add_scale(figure, ax)
    if numbered:
        _number_cells(ax, shares, size)
    else:
        _list_confusions(figure, ax, shares, names)
    return figure


def _number_cells(ax: Axes, shares: NDArray[np.float64], size: float) -> None:
    for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
        ax.text(
            column,
            row,
            f"{100 * shares[row, column]:.0f}",
            ha="center",
            va="center",
            fontsize=size,
            color="white" if shares[row, column] > 0.4 else INK,
        )


def _list_confusions(figure: Figure, ax: Axes, shares: NDArray[np.float64], names: Sequence[str]) -> None:
    between = shares.copy()
    np.fill_diagonal(between, 0)
    order = np.argsort(-between, axis=None, kind="stable")[:_LISTED]
    pairs = [divmod(int(place), len(between)) for place in order if between.flat[place]]
    lines = [f"{100 * between[i, j]:5.1f} %  of {names[i]} as {names[j]}" for i, j in pairs] or ["  none"]
    width = ax.get_position().width * figure.get_size_inches()[0]
    text = "\n".join(["most frequent:", "", *lines])
    place = 1 + 1.2 / width
    ax.text(place, 1.0, text, transform=ax.transAxes, va="top", fontsize=8.5, family="monospace", color=INK)
