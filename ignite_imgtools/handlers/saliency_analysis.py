"""Precision, recall and F-measure of saliency maps over their threshold, drawn after each evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import ArrayLike

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.figures import array_to_png, create_figure, figure_to_array
from ignite_imgtools.handlers.run_files import WriteGuard, write_atomically
from ignite_imgtools.metrics import SaliencyMetric, f_measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attach_saliency_analysis", "saliency_curve_figure"]

_BETA_SQUARED = 0.3


def attach_saliency_analysis(output_dir: str | Path | None, evaluator: Engine, metric: SaliencyMetric) -> Attachments:
    """Draw precision over recall after every evaluation: ``<output_dir>/plots/pr_curve.png``.

    The figure is in ``evaluator.state.figures["pr_curve"]`` too, where ``attach_tensorboard`` finds it. One process
    writes; call it on every process. If the file cannot be written there is one warning, and what runs goes on.

    Args:
        output_dir: the run folder; ``None`` for no file.
        metric: attached to ``evaluator`` already.

    Returns:
        An object whose ``remove()`` or ``detach()`` ends this.
    """
    path = None if output_dir is None else Path(output_dir) / "plots" / "pr_curve.png"
    guard = WriteGuard(f"{path}")

    def draw() -> None:
        curves = metric.curves()  # every process asks, for the metric may have to ask the others
        if not is_main_process():
            return
        figure = saliency_curve_figure(*curves)
        state: Any = evaluator.state
        state.figures = {**getattr(state, "figures", {}), "pr_curve": figure}
        if path is not None and not guard.off:
            with guard:
                write_atomically(path, array_to_png(figure_to_array(figure)))

    attachments = Attachments()
    attachments.add(evaluator, Events.EPOCH_COMPLETED, draw)
    return attachments


def saliency_curve_figure(
    precision: ArrayLike, recall: ArrayLike, thresholds: ArrayLike, beta_squared: float = _BETA_SQUARED
) -> Figure:
    """Precision over recall, and both with their F-measure over the threshold; the largest F is marked in both.

    Args:
        precision: ``[T]`` in 0..1.
        recall: ``[T]`` in 0..1.
        thresholds: ``[T]`` in 0..1.
        beta_squared: of :func:`~ignite_imgtools.metrics.f_measure`.
    """
    precision, recall, thresholds = (np.asarray(values, dtype=np.float64) for values in (precision, recall, thresholds))
    f = f_measure(precision, recall, beta_squared)
    best = int(f.argmax())
    figure, (curve, over) = create_figure(2)
    curve.plot(recall, precision, color="tab:blue", linewidth=1.8)
    curve.plot(recall[best], precision[best], "o", color="black")
    label = f"largest F {f[best]:.3f}, at threshold {thresholds[best]:.2f}"
    curve.annotate(label, (recall[best], precision[best]), (-8, -18), textcoords="offset points", ha="right")
    curve.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    curve.set_title("Precision and recall, means over the images", loc="left")
    over.plot(thresholds, f, color="black", linewidth=1.8, label=f"F, beta² {beta_squared:g}")
    over.plot(thresholds, precision, color="tab:blue", linewidth=1.1, label="precision")
    over.plot(thresholds, recall, color="tab:orange", linewidth=1.1, label="recall")
    over.plot(thresholds[best], f[best], "o", color="black")
    over.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="threshold")
    over.legend(frameon=False, fontsize="small", loc="lower center")
    return figure
