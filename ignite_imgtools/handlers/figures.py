"""Figures of matplotlib without its global state: they may be drawn from any thread, and nothing is left open."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["create_figure", "figure_to_array", "figure_to_png"]


def create_figure(panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with ``panels`` axes below each other, their spines and grid lines quiet."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 1.0 + 3.6 * panels), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(panels, 1, panel + 1) for panel in range(panels)]
    for ax in axes:
        ax.grid(visible=True, color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color("0.6")
        ax.tick_params(color="0.6")
    return figure, axes


def figure_to_array(figure: Figure) -> np.ndarray:
    """The figure as uint8 ``[H, W, 3]``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def figure_to_png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
