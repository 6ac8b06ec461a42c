"""Figures of matplotlib without its global state: they may be drawn from any thread, and nothing is left open."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "add_legend",
    "array_to_png",
    "create_figure",
    "figure_to_array",
    "label_text",
    "legend_width",
    "line_look",
    "show_iterations",
]

# A legend of more lines would lie over the curves.
_MAX_INSIDE = 4


def create_figure(panels: int = 1, *, height: float = 3.7, legend_width: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A figure with ``panels`` axes below each other, their spines and grid lines quiet.

    Args:
        height: of each of the axes in inches.
        legend_width: inches left free on the right for a legend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Margins in inches: matplotlib's own layouts would double the time to draw.
    left, right, bottom, top, gap, width = 0.85, 0.25 + legend_width, 0.55, 0.35, 0.75, 7.0
    figure_width, figure_height = left + width + right, bottom + top + panels * height + (panels - 1) * gap
    figure = Figure(figsize=(figure_width, figure_height), dpi=110)
    FigureCanvasAgg(figure)
    axes = []
    for panel in range(panels):
        y = bottom + (panels - 1 - panel) * (height + gap)
        rectangle = (left / figure_width, y / figure_height, width / figure_width, height / figure_height)
        ax = figure.add_axes(rectangle)
        ax.grid(visible=True, color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color("0.6")
        ax.tick_params(color="0.6")
        axes.append(ax)
    return figure, axes


def figure_to_array(figure: Figure) -> np.ndarray:
    """The figure as uint8 ``[H, W, 3]``; one that has not changed is not drawn again."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas
    if not isinstance(canvas, FigureCanvasAgg):
        canvas = FigureCanvasAgg(figure)
    if figure.stale or not hasattr(canvas, "renderer"):
        canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def array_to_png(image: np.ndarray) -> bytes:
    """A picture, uint8 ``[H, W, 3]``, as the content of a PNG file."""
    encoded = io.BytesIO()
    # A third of the default's time for a tenth more bytes.
    Image.fromarray(image).save(encoded, "PNG", compress_level=3)
    return encoded.getvalue()


def line_look(number: int, styles: Sequence[str] = ("-", "--", ":", "-.")) -> dict[str, Any]:
    """Colour and style of a line, different for each: after ten colours the next style begins."""
    return {"color": f"C{number % 10}", "linestyle": styles[number // 10 % len(styles)]}


def label_text(name: str) -> str:
    """A name for a legend: matplotlib takes what is between dollars for a formula, and hides what begins with ``_``."""
    return (f" {name}" if name.startswith("_") else name).replace("$", r"\$")


def legend_width(labels: Sequence[str]) -> float:
    """Inches that :func:`add_legend` needs on the right; 0 where there are few lines, whose legend lies inside."""
    return 0.0 if len(labels) <= _MAX_INSIDE else 0.6 + 0.075 * max(map(len, labels))


def add_legend(ax: Axes) -> None:
    """Name the lines of ``ax``: inside where they are few, else at its right, see :func:`legend_width`."""
    few = len(ax.get_legend_handles_labels()[1]) <= _MAX_INSIDE
    place: dict[str, Any] = {} if few else {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    ax.legend(frameon=False, fontsize="small", **place)


def show_iterations(axes: Sequence[Axes]) -> None:
    """Make the x axes those of iterations, which are integers, and name the lowest."""
    from matplotlib.ticker import MaxNLocator

    for ax in axes:
        # With the default of at least two ticks a short range would have fractions.
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes[-1].set_xlabel("iteration")
