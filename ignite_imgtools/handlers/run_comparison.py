"""Several runs beside each other: their curves in one figure, their numbers in one table."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ignite_imgtools.handlers.curve_names import best_place, is_error, main_metric, metric_names
from ignite_imgtools.handlers.figures import (
    add_legend,
    create_figure,
    label_text,
    legend_width,
    line_look,
    show_iterations,
)
from ignite_imgtools.handlers.run_record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["common_metrics", "comparison_figure", "comparison_text", "overall_metrics", "run_names"]

_MAX_PANELS = 6
# How a run is carried out, and where; that is no difference between two runs.
_NO_DIFFERENCE = {"output_dir", "resume", "log_every", "stuck_after", "profile"}
_LONGEST = 28


def run_names(runs: Sequence[RunRecord]) -> list[str]:
    """A short name for each run, different for each: the end of its path that tells it from the others."""
    paths = [run.folder.resolve() for run in runs]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = [str(Path(*path.parts[-length:])) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]


def common_metrics(runs: Sequence[RunRecord]) -> list[str]:
    """The metrics that all runs have, those of single classes left out."""
    found = [overall_metrics(run) for run in runs]
    return [name for name in found[0] if all(name in names for names in found)]


def _main_metrics(runs: Sequence[RunRecord]) -> list[str]:
    """The main metric of each run, each once."""
    found = (main_metric(overall_metrics(run)) for run in runs)
    return list(dict.fromkeys(name for name in found if name is not None))


def overall_metrics(run: RunRecord) -> list[str]:
    """The metrics of a run that are not those of a single class."""
    classes = {row.get("class") for row in run.per_class}
    return [name for name in metric_names(run.history) if name.rsplit("/", 1)[-1] not in classes]


def comparison_figure(runs: Sequence[RunRecord]) -> Figure | None:
    """The curves of the loss and of the common metrics, a colour for each run; ``None`` where there are none.

    Runs without a metric in common have a panel for the main one of each.
    """
    metrics = (common_metrics(runs) or _main_metrics(runs))[: _MAX_PANELS - 1]
    panels = [name for name in ("train/loss", *metrics) if any(name in run.history.names for run in runs)]
    if not panels:
        return None
    labels = [label_text(name) for name in run_names(runs)]
    figure, axes = create_figure(len(panels), height=2.6, legend_width=legend_width(labels))
    for ax, name in zip(axes, panels, strict=True):
        for number, (run, label) in enumerate(zip(runs, labels, strict=True)):
            iterations, values = run.history.points(name)
            marker: dict[str, Any] = {} if name == "train/loss" else {"marker": "o", "markersize": 3}
            ax.plot(iterations, values, label=label, linewidth=1.4, **line_look(number), **marker)
        ax.set_title(label_text(name.removeprefix("train/")), loc="left")
    add_legend(axes[0])
    show_iterations(axes)
    return figure


def comparison_text(runs: Sequence[RunRecord]) -> str:
    """A table of the numbers, a column for each run, and one of the settings in which they differ."""
    names = run_names(runs)
    rows: list[list[str]] = [["", *names]]
    every = dict.fromkeys(name for run in runs for name in overall_metrics(run))
    for metric in common_metrics(runs) or every:
        curves = [run.history.points(metric)[1] for run in runs]
        word = "lowest" if is_error(metric) else "best"
        rows.append([f"{metric} {word}", *(_best(metric, values) for values in curves)])
        rows.append([f"{metric} last", *(_number(values[-1]) if len(values) else "-" for values in curves)])
    rows.append(["epochs", *(_progress(run) for run in runs)])
    rows.append(["iterations", *(str(run.iteration) for run in runs)])
    rows.append(["training time", *(_clock(run.seconds) for run in runs)])
    differing = [[key, *(_value(run, key) for run in runs)] for key in _differing(runs)]
    text = _columns(rows)
    return f"{text}\n\n{_columns([['differing settings', *names], *differing])}" if differing else text


def _differing(runs: Sequence[RunRecord]) -> list[str]:
    keys = dict.fromkeys(key for run in runs for key in run.config)
    return [key for key in keys if key not in _NO_DIFFERENCE and len({_value(run, key) for run in runs}) > 1]


def _value(run: RunRecord, key: str) -> str:
    value = run.config.get(key, "absent")
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _LONGEST else f"...{text[3 - _LONGEST :]}"


def _best(metric: str, values: np.ndarray) -> str:
    best = best_place(metric, values)
    return "-" if best is None else _number(values[best])


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def _progress(run: RunRecord) -> str:
    total = run.config.get("epochs")
    return f"{run.epoch} of {total}" if isinstance(total, int) else str(run.epoch)


def _clock(seconds: float | None) -> str:
    return "-" if seconds is None else str(datetime.timedelta(seconds=int(seconds)))


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([f"{row[0]:<{widths[0]}}", *(f"{text:>{w}}" for text, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
