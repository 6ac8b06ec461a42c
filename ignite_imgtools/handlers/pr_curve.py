"""Precision over recall, from the arrays of the COCO evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Engine, Events

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.figure_parts import short_name
from ignite_imgtools.handlers.figures import array_to_png, create_figure, figure_to_array
from ignite_imgtools.handlers.run_files import WriteGuard, write_atomically
from ignite_imgtools.metrics import CocoMetric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attach_pr_curve", "pr_curve_figure"]

_MAX_NAMED = 10


def attach_pr_curve(output_dir: str | Path | None, evaluator: Engine, coco_metric: CocoMetric) -> Attachments:
    """Draw precision over recall after every evaluation: ``<output_dir>/plots/pr_curve.png``.

    The figure is in ``evaluator.state.figures["pr_curve"]`` too, where ``attach_tensorboard`` finds it; with several
    types of overlap the further ones are ``pr_curve_segm`` and so on. Call it on every process.

    Args:
        output_dir: the run folder; ``None`` for no file.
        coco_metric: attached to ``evaluator`` already.

    Returns:
        An object whose ``remove()`` or ``detach()`` ends this.
    """
    folder = None if output_dir is None else Path(output_dir) / "plots"
    guard = WriteGuard(f"the curves in {folder}")

    def draw() -> None:
        for i, iou_type in enumerate(coco_metric.iou_types):
            name = "pr_curve" if i == 0 else f"pr_curve_{iou_type}"
            arrays = coco_metric.arrays(iou_type)
            if not is_main_process():
                continue
            parameters = coco_metric.parameters(iou_type)
            area = parameters.area_names.index("all")
            figure = pr_curve_figure(
                arrays["precision"][:, :, :, area, -1],
                parameters.iou_thresholds,
                parameters.recall_thresholds,
                coco_metric.ground_truth.category_names if parameters.use_cats else ("all",),
            )
            state: Any = evaluator.state
            state.figures = {**getattr(state, "figures", {}), name: figure}
            if folder is not None and not guard.off:
                with guard:
                    write_atomically(folder / f"{name}.png", array_to_png(figure_to_array(figure)))

    attachments = Attachments()
    attachments.add(evaluator, Events.EPOCH_COMPLETED, draw)
    return attachments


def pr_curve_figure(
    precision: np.ndarray, iou_thresholds: np.ndarray, recall_thresholds: np.ndarray, class_names: Sequence[str]
) -> Figure:
    """A curve for each class at the IoU threshold nearest to 0.5, and the mean over classes at 0.5, 0.75 and of all.

    Args:
        precision: ``[T, R, K]`` in 0..1, -1 for a class without truth, as pycocotools' for one area range and number
            of detections.
        iou_thresholds: ``[T]``.
        recall_thresholds: ``[R]``, the x axis.
        class_names: ``K`` names.
    """
    figure, (ax,) = create_figure(height=4.8, legend_width=2.4)
    present = [k for k in range(precision.shape[2]) if (precision[:, :, k] > -1).any()]
    at_half = int(np.argmin(np.abs(iou_thresholds - 0.5)))
    for text, rows, line in _mean_lines(iou_thresholds) if present else ():
        curve = precision[rows][:, :, present].mean(axis=(0, 2))
        label = f"mean at {text}  {curve.mean():.3f}"
        ax.plot(recall_thresholds, curve, color="black", linestyle=line, linewidth=2, zorder=3, label=label)
    # The largest areas first, so that the legend reads from best to worst.
    areas = {k: float(precision[at_half, :, k].mean()) for k in present}
    named = len(present) <= _MAX_NAMED
    for rank, k in enumerate(sorted(present, key=lambda k: -areas[k])):
        label, color = f"{short_name(class_names[k])}  {areas[k]:.3f}", f"C{rank}"
        if not named:  # nobody could tell so many colours apart
            label, color = (f"each of {len(present)} classes" if rank == 0 else "_"), "0.8"
        ax.plot(recall_thresholds, precision[at_half, :, k], linewidth=1.1, label=label, color=color)
    ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    title = f"Precision and recall; classes at IoU {iou_thresholds[at_half]:g}, with their average precision"
    ax.set_title(title if present else "Precision and recall: there was nothing to be found", loc="left")
    if present:
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def _mean_lines(iou_thresholds: np.ndarray) -> list[tuple[str, np.ndarray, str]]:
    everything = np.arange(len(iou_thresholds))
    lines = [
        (f"IoU {iou_thresholds[rows[0]]:g}", rows, style)
        for value, style in ((0.5, "-"), (0.75, "--"))
        if (rows := np.flatnonzero(np.isclose(iou_thresholds, value))).size
    ]
    if len(iou_thresholds) > 1:
        lines.append((f"IoU {iou_thresholds[0]:g}:{iou_thresholds[-1]:g}", everything, ":"))
    return lines
