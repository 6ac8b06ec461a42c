"""What pictures of an evaluation are made of: axes of a given size, shades of shares, names that fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["INK", "add_scale", "create_axes", "short_name", "text_width", "tint"]

INK = "0.25"
"""The grey of text and lines."""


def tint(shares: NDArray[np.float64], colormap: str) -> NDArray[np.float64]:
    """Colours ``[..., 3]`` of shares in 0..1."""
    import matplotlib

    # The square root, so that what is rare is seen at all.
    return matplotlib.colormaps[colormap](0.9 * np.sqrt(shares))[..., :3]


def add_scale(figure: Figure, ax: Axes) -> None:
    """What the shades of right and wrong in a confusion matrix mean, at the right of ``ax``."""
    width, height = figure.get_size_inches()
    box = ax.get_position()
    scale = figure.add_axes((box.x1 + 0.2 / width, box.y1 - 1.6 / height, 0.3 / width, 1.6 / height))
    shares = np.linspace(1, 0, 101)
    colors = np.stack([tint(shares, "Blues"), tint(shares, "Reds")], axis=1)
    scale.imshow(colors, aspect="auto", extent=(0, 2, 0, 1), interpolation="nearest")
    scale.set_xticks((0.5, 1.5), ("right", "wrong"), rotation=90, fontsize=8)
    scale.set_yticks((0, 0.25, 0.5, 0.75, 1), ("0", "", "½", "", "1"), fontsize=8)
    scale.yaxis.tick_right()
    scale.tick_params(length=2, color="0.6")
    scale.spines[:].set_visible(False)


def create_axes(left: float, bottom: float, width: float, height: float, right: float = 0.25) -> tuple[Figure, Axes]:
    """A figure with axes of ``width`` and ``height``, and margins, all in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not one of matplotlib's layouts, which would draw everything twice.
    full = (left + width + right, bottom + height + 0.4)
    figure = Figure(figsize=full, dpi=110)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((left / full[0], bottom / full[1], width / full[0], height / full[1]))
    ax.grid(visible=True, color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("0.6")
    ax.tick_params(color="0.6")
    return figure, ax


def text_width(texts: Sequence[str], size: float) -> float:
    """About how many inches the longest text takes at a size in points."""
    return max(map(len, texts), default=0) * 0.58 * size / 72 + 0.1


def short_name(name: str) -> str:
    """The name, cut where it has more than 24 letters, for matplotlib, which takes what is between dollars for a
    formula and hides what begins with an underscore.

    >>> short_name("_price in $")
    ' _price in \\\\$'
    """
    name = name if len(name) <= 24 else f"{name[:22]}…"
    return name.replace("$", r"\$") if not name.startswith("_") else " " + name.replace("$", r"\$")
