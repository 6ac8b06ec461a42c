"""Curves of a training: losses, learning rates and metrics over its iterations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Engine, Events

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.formats import LoggedMetrics, TrainerEvents, register_trainer_events
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.curve_names import best_place, is_error, loss_names, metric_names
from ignite_imgtools.handlers.figures import (
    add_legend,
    array_to_png,
    create_figure,
    figure_to_array,
    label_text,
    legend_width,
    line_look,
    show_iterations,
)
from ignite_imgtools.handlers.history import History, thinned
from ignite_imgtools.handlers.run_files import WriteGuard, read_metrics, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["attach_curves", "loss_and_lr_figure", "metric_figure"]

_MAX_LINES = 12


def attach_curves(output_dir: str | Path, trainer: Engine, *, metrics: Sequence[str] | None = None) -> Attachments:
    """Draw ``plots/loss_and_lr.png`` and ``plots/metric.png`` after every evaluation, and at the end of a run.

    They show what a MetricLogger logs and what :func:`evaluate_on_epoch` finds. After a resume the curves begin where
    ``metrics.jsonl`` in ``output_dir`` does. One process draws; call it on every process.

    Args:
        metrics: which ones to draw, as ``"bbox/AP"``. By default ``AP``, ``AP50`` and ``AP75`` of each kind, or
            whatever there is where those are not, without the values of single classes where their mean is.

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
    names = loss_names(history)[:_MAX_LINES]
    if not names:
        return None
    has_lr = "lr" in history.names
    labels = [label_text(name.removeprefix("train/")) for name in names]
    figure, axes = create_figure(2 if has_lr else 1, legend_width=legend_width(labels))
    # The training's sum is black, and takes no colour from the others.
    order = [name for name in names if name != "train/loss"]
    for name, label in zip(names, labels, strict=True):
        style = _loss_style(name, order.index(name) if name in order else 0)
        axes[0].plot(*thinned(*history.curve(name)), label=label, **style)
    axes[0].set_title("Losses", loc="left")
    add_legend(axes[0])
    _fit_losses(axes[0], np.concatenate([history.curve(name)[1] for name in names]))
    if has_lr:
        axes[1].plot(*thinned(*history.points("lr")), color="tab:blue")
        axes[1].set_title("Learning rate", loc="left")
        axes[1].set_ylim(bottom=0)
    show_iterations(axes)
    return figure


def _loss_style(name: str, number: int) -> dict[str, Any]:
    """The sum of the terms stands out; an evaluation's losses are dotted, as there are few of them."""
    total, of_training = name.endswith("/loss"), name.startswith("train/")
    style: dict[str, Any] = {"linewidth": 2.0 if total else 1.1, "zorder": 3 if total else 2}
    if not of_training:
        return style | line_look(number, (":", "-.")) | {"marker": "o", "markersize": 4}
    return style | ({"color": "black"} if total else line_look(number, ("-", "--")))


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
    names = metric_names(history, metrics)[:_MAX_LINES]
    if not names:
        return None
    labels = [_metric_label(name, history.points(name)[1]) for name in names]
    figure, (ax,) = create_figure(legend_width=legend_width(labels))
    for number, (name, label) in enumerate(zip(names, labels, strict=True)):
        iterations, values = history.points(name)
        look = line_look(number)
        ax.plot(*thinned(iterations, values), marker="o", markersize=4, label=label, **look)
        best = best_place(name, values)
        if best is not None:
            color = look["color"]
            ax.plot(iterations[best], values[best], marker="o", markersize=10, markerfacecolor="none", color=color)
    ax.set_title("Evaluation", loc="left")
    show_iterations([ax])
    add_legend(ax)
    return figure


def _metric_label(name: str, values: np.ndarray) -> str:
    best = best_place(name, values)
    word = "lowest" if is_error(name) else "highest"
    return label_text(name if best is None else f"{name}, {word} {values[best]:.3f}")
