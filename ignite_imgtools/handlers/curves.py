"""Curves of a training: losses, learning rates and metrics over its iterations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Engine, Events

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.formats import LoggedMetrics, TrainerEvents, register_trainer_events
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.figures import array_to_png, create_figure, figure_to_array
from ignite_imgtools.handlers.history import History, thinned
from ignite_imgtools.handlers.run_files import WriteGuard, read_metrics, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "attach_curves",
    "best_place",
    "is_error",
    "loss_and_lr_figure",
    "loss_names",
    "metric_figure",
    "metric_names",
]

_KNOWN = ("AP", "AP50", "AP75")
# Errors, of which the smallest is marked.
_ERRORS = ("MAE", "NME", "failure_rate")
_MAX_LINES = 12


def attach_curves(output_dir: str | Path, trainer: Engine, *, metrics: Sequence[str] | None = None) -> Attachments:
    """Draw ``plots/loss_and_lr.png`` and ``plots/metric.png`` after every evaluation, and at the end of a run.

    They show what a MetricLogger logs and what :func:`evaluate_on_epoch` finds. After a resume the curves begin where
    ``metrics.jsonl`` in ``output_dir`` does. One process draws; call it on every process.

    Args:
        metrics: which ones to draw, as ``"bbox/AP"``. By default ``AP``, ``AP50`` and ``AP75`` of each kind, or
            whatever there is where those are not.

    Returns:
        An object whose ``remove()`` or ``detach()`` ends this.
    """
    curves = _Curves(Path(output_dir), metrics)
    register_trainer_events(trainer)
    attachments = Attachments()
    if is_main_process():
        attachments.add(trainer, Events.STARTED, curves.started)
        attachments.add(trainer, Events.EPOCH_STARTED, curves.epoch_started)
        attachments.add(trainer, TrainerEvents.METRICS_LOGGED, curves.logged)
        attachments.add(trainer, TrainerEvents.EVALUATION_COMPLETED, curves.evaluated)
        attachments.add(trainer, Events.COMPLETED, curves.completed)
    return attachments


class _Curves:
    def __init__(self, folder: Path, metrics: Sequence[str] | None):
        self._folder = folder
        self._metrics = metrics
        self._history = History()
        self._guard = WriteGuard(f"the curves in {folder / 'plots'}")
        self._run_begins = True
        self._undrawn = False

    def started(self) -> None:
        self._run_begins = True

    def epoch_started(self, trainer: Engine) -> None:
        # At STARTED a resume may still be to come, and with it the iteration from which the curves go on.
        if self._run_begins:
            self._history = self._earlier(trainer.state.iteration)
        self._run_begins = False

    def _earlier(self, iteration: int) -> History:
        if not iteration:
            return History()
        try:
            records = read_metrics(self._folder / "metrics.jsonl")
            return History(records, until=iteration)
        except OSError:
            return History()

    def logged(self, trainer: Engine) -> None:
        state: Any = trainer.state
        logged: LoggedMetrics = state.logged
        lr = {"lr": logged["lr"][0]} if logged["lr"] else {}
        terms = {f"train/{name}": value for name, value in logged["metrics"].items()}
        self._history.add({"epoch": logged["epoch"], "iteration": logged["iteration"], **lr, **terms})
        self._undrawn = True

    def evaluated(self, trainer: Engine) -> None:
        state: Any = trainer.state
        values = {f"{state.evaluated}/{name}": value for name, value in state.evaluations[state.evaluated].items()}
        self._history.add({"epoch": state.epoch, "iteration": state.iteration, **values})
        self._draw()

    def completed(self) -> None:
        if self._undrawn:
            self._draw()

    def _draw(self) -> None:
        self._undrawn = False
        if self._guard.off:
            return
        with self._guard:
            for name, figure in (
                ("loss_and_lr", loss_and_lr_figure(self._history)),
                ("metric", metric_figure(self._history, self._metrics)),
            ):
                if figure is not None:
                    write_atomically(self._folder / "plots" / f"{name}.png", array_to_png(figure_to_array(figure)))


def loss_and_lr_figure(history: History) -> Figure | None:
    """Losses and learning rate over the iterations; ``None`` where there are no losses.

    Args:
        history: what was logged.
    """
    names = loss_names(history)
    if not names:
        return None
    has_lr = "lr" in history.names
    figure, axes = create_figure(2 if has_lr else 1)
    # The sum of the terms stands out; an evaluation's losses are dotted, as there are few of them.
    for name in names[:_MAX_LINES]:
        total = name.endswith("/loss")
        style: dict[str, Any] = {"linewidth": 2.0 if total else 1.1, "zorder": 3 if total else 2}
        if total and name.startswith("train/"):
            style["color"] = "black"
        if not name.startswith("train/"):
            style |= {"linestyle": ":", "marker": "o", "markersize": 4}
        axes[0].plot(*thinned(*history.points(name)), label=name.removeprefix("train/"), **style)
    axes[0].set_title("Losses", loc="left")
    axes[0].legend(frameon=False, fontsize="small", ncols=2)
    _fit_losses(axes[0], np.concatenate([history.points(name)[1] for name in names[:_MAX_LINES]]))
    if has_lr:
        axes[1].plot(*thinned(*history.points("lr")), color="tab:blue")
        axes[1].set_title("Learning rate", loc="left")
        axes[1].set_ylim(bottom=0)
    axes[-1].set_xlabel("iteration")
    return figure


def _fit_losses(ax: Axes, values: np.ndarray) -> None:
    """Begin at zero, and let a few outliers, usually the first iterations, not press the rest together."""
    finite = np.sort(values[np.isfinite(values)])
    if len(finite) and finite[0] >= 0:
        high = finite[math.ceil(0.98 * len(finite)) - 1]
        ax.set_ylim(0, 1.1 * high if high > 0 and finite[-1] > 2 * high else None)


def metric_figure(history: History, metrics: Sequence[str] | None = None) -> Figure | None:
    """Metrics of the evaluations over the iterations; ``None`` where there are none.

    Args:
        history: what was logged.
        metrics: see :func:`attach_curves`.
    """
    names = metric_names(history, metrics)
    if not names:
        return None
    figure, (ax,) = create_figure()
    for name in names[:_MAX_LINES]:
        iterations, values = history.points(name)
        word, best = "lowest" if is_error(name) else "highest", best_place(name, values)
        label = name if best is None else f"{name}, {word} {values[best]:.3f}"
        label = label.replace("$", r"\$")  # a name of a class in it may look like a formula
        (line,) = ax.plot(*thinned(iterations, values), marker="o", markersize=4, label=label)
        if best is not None:
            color = line.get_color()
            ax.plot(iterations[best], values[best], marker="o", markersize=10, markerfacecolor="none", color=color)
    ax.set_title("Evaluation", loc="left")
    ax.set_xlabel("iteration")
    ax.legend(frameon=False, fontsize="small")
    return figure


def loss_names(history: History) -> list[str]:
    """The losses among the entries of records, those of evaluations too."""
    return _names(history, lambda name: "loss" in name.rsplit("/", 1)[-1] and not name.endswith("loss_scale"))


def is_error(name: str) -> bool:
    """Whether less of a metric is better."""
    return name.rsplit("/", 1)[-1] in _ERRORS


def best_place(name: str, values: np.ndarray) -> int | None:
    """Where the best of the values of a metric is, the first of equal ones; ``None`` where there is none."""
    finite = [place for place, value in enumerate(values) if math.isfinite(value)]
    choose: Callable[..., int] = min if is_error(name) else max
    return choose(finite, key=lambda place: values[place]) if finite else None


def _names(history: History, wanted: Any) -> list[str]:
    return [name for name in history.names if "/" in name and wanted(name)]


def metric_names(history: History, metrics: Sequence[str] | None = None) -> list[str]:
    """The metrics that are drawn, see :func:`attach_curves`."""
    # Of "val/bbox/AP" the metric is "bbox/AP"; "val/bbox/AP/cat" is of a single class.
    found = _names(history, lambda name: not name.startswith("train/") and "loss" not in name)
    if metrics is not None:
        return [name for name in found if name.split("/", 1)[1] in metrics]
    known = [name for name in found if name.count("/") < 3 and name.rsplit("/", 1)[-1] in _KNOWN]
    return known or [name for name in found if name.count("/") < 3]
