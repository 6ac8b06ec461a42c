"""How large the errors of landmarks are, drawn and written after each evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.figures import array_to_png, create_figure, figure_to_array
from ignite_imgtools.handlers.run_files import WriteGuard, write_atomically
from ignite_imgtools.metrics import LandmarkMetric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attach_landmark_analysis", "cumulative_error_figure"]


def attach_landmark_analysis(
    output_dir: str | Path | None,
    evaluator: Engine,
    metric: LandmarkMetric,
    *,
    file_names: Sequence[str] | None = None,
) -> Attachments:
    """Say after every evaluation how large the error of each face is.

    Written into ``output_dir`` are ``plots/cumulative_error.png`` and ``eval/landmarks.json``: an object with the
    numbers of the metric, ``normaliser``, ``limit``, and ``faces``, a list of ``{"image_id", "file", "NME"}``, the
    largest error first; ``null`` for a face of no length, and for an error that is not finite. The figure is in
    ``evaluator.state.figures["cumulative_error"]`` too, where ``attach_tensorboard`` finds it. One process writes; call
    it on every process. If a file cannot be written there is one warning, and what runs goes on.

    Args:
        output_dir: the run folder; ``None`` for no files.
        metric: attached to ``evaluator`` already; its faces must have come with ids to be told apart.
        file_names: by id, to be written beside it.

    Returns:
        An object whose ``remove()`` or ``detach()`` ends this.
    """
    folder = None if output_dir is None else Path(output_dir)
    guard = WriteGuard(f"the analysis in {folder}")

    def write(name: str, content: bytes) -> None:
        assert folder is not None
        if not guard.off:
            with guard:
                write_atomically(folder / name, content)

    def analyse() -> None:
        # Every process asks the metric, for it may have to ask the others.
        numbers, (ids, errors) = metric.compute(), metric.faces()
        if not is_main_process():
            return
        figure = cumulative_error_figure(errors, metric.normaliser, metric.limit)
        state: Any = evaluator.state
        state.figures = {**getattr(state, "figures", {}), "cumulative_error": figure}
        if folder is not None:
            write("plots/cumulative_error.png", array_to_png(figure_to_array(figure)))
            stated: dict[str, Any] = {name: _finite(value) for name, value in numbers.items()}
            stated |= {"normaliser": metric.normaliser, "limit": metric.limit}
            content = {**stated, "faces": _rows(ids, errors, file_names)}
            write("eval/landmarks.json", (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    attachments = Attachments()
    attachments.add(evaluator, Events.EPOCH_COMPLETED, analyse)
    return attachments


def cumulative_error_figure(errors: NDArray[np.float64], normaliser: str, limit: float = 0.1) -> Figure:
    """The share of the faces whose error is at most what stands below; at ``limit`` begin the failures.

    Args:
        errors: ``[N]``; faces of no length (NaN) are left out.
        normaliser: by which the errors were divided.
        limit: of :class:`~ignite_imgtools.metrics.LandmarkMetric`.
    """
    known = np.sort(errors[~np.isnan(errors)])
    figure, (ax,) = create_figure(height=4.2)
    right = 2 * limit
    inside = known[known <= right]
    shares = np.arange(len(inside) + 1) / max(len(known), 1)
    places, heights = np.concatenate(([0.0], inside, [right])), np.append(shares, shares[-1])
    ax.step(places, heights, where="post", color="tab:blue", linewidth=1.8)
    ax.axvline(limit, color="0.4", linewidth=1, linestyle="--")
    failed = float((known > limit).mean()) if len(known) else 0.0
    ax.annotate(
        f"failures: {100 * failed:.1f} %", (limit, 0.03), (6, 0), textcoords="offset points", fontsize=9, color="0.3"
    )
    mean = f"mean {known.mean():.4f}, median {np.median(known):.4f}" if len(known) else "there was no face"
    ax.set(xlim=(0, right), ylim=(0, 1.02), xlabel=f"error, in {_LENGTHS[normaliser]}", ylabel="share of the faces")
    ax.set_title(f"Cumulative error of {len(known)} faces, {mean}", loc="left")
    return figure


_LENGTHS = {
    "inter_ocular": "distances between the outer corners of the eyes",
    "inter_pupil": "distances between the pupils",
    "box": "square roots of the area of the box",
}


def _rows(
    ids: NDArray[np.int64], errors: NDArray[np.float64], file_names: Sequence[str] | None
) -> list[dict[str, Any]]:
    # The largest error first, those of no length last.
    order = np.argsort(-np.nan_to_num(errors, nan=-1.0, posinf=np.inf), kind="stable")
    rows = []
    for image_id, error in zip(ids[order].tolist(), errors[order].tolist(), strict=True):
        row: dict[str, Any] = {"image_id": image_id}
        if file_names is not None and 0 <= image_id < len(file_names):
            row["file"] = file_names[image_id]
        rows.append({**row, "NME": _finite(error)})
    return rows


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
