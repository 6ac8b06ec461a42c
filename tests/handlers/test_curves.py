"""What the curves show, and from which records."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from PIL import Image

from ignite_imgtools.handlers import MetricLogger, attach_curves, evaluate_on_epoch
from ignite_imgtools.handlers.curve_names import is_error
from ignite_imgtools.handlers.curves import loss_and_lr_figure, metric_figure
from ignite_imgtools.handlers.history import History

_RECORDS: list[dict[str, Any]] = [
    {"epoch": 1, "iteration": 5, "lr": 0.1, "train/loss": 9.0, "train/loss_box": 6.0, "train/grad_norm": 3.0},
    {"epoch": 1, "iteration": 10, "lr": 0.2, "train/loss": 5.0, "train/loss_box": None, "train/grad_norm": 3.0},
    {"epoch": 1, "iteration": 10, "val/bbox/AP": 0.25, "val/bbox/APs": -1, "val/bbox/AP/cat": 0.1, "val/loss": 4.0},
    {"epoch": 2, "iteration": 20, "val/bbox/AP": 0.125, "val/bbox/APs": -1, "val/bbox/AP/cat": 0.1, "val/loss": 3.0},
]


def _lines(ax: Any) -> dict[str, tuple[list[float], list[float]]]:
    found = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}
    return {label: data for label, data in found.items() if not label.startswith("_")}


def test_losses_and_learning_rate_over_iterations() -> None:
    figure = loss_and_lr_figure(History(_RECORDS))
    assert figure is not None
    losses, lr = figure.axes
    lines = _lines(losses)
    assert set(lines) == {"loss", "loss_box", "val/loss"}
    assert lines["loss"] == ([5, 10], [9.0, 5.0])
    assert lines["val/loss"] == ([10, 20], [4.0, 3.0])
    assert math.isnan(lines["loss_box"][1][1])
    assert list(lr.lines[0].get_ydata()) == [0.1, 0.2]
    assert loss_and_lr_figure(History(_RECORDS[2:3])) is not None  # the losses of evaluations alone
    assert loss_and_lr_figure(History([{"iteration": 1, "lr": 0.1}])) is None


def test_the_own_terms_of_a_step_are_drawn_and_what_is_no_loss_is_not() -> None:
    others = {"train/grad_norm": 9.0, "train/loss_scale": 65536.0, "train/batch_size": 4}
    own = {"train/ce": 1.0, "train/dice": 0.5, "train/edge": 0.25}
    figure = loss_and_lr_figure(History([{"iteration": 1, **own, "train/loss": 1.75, **others, "val/dice": 0.5}]))
    assert figure is not None
    assert list(_lines(figure.axes[0])) == ["loss", "ce", "dice", "edge"]


def test_a_term_that_is_the_sum_is_not_drawn_under_it() -> None:
    records = [{"iteration": i, "train/loss": 1 / i, "train/loss_ce": 1 / i, "val/loss": 2.0} for i in (1, 2)]
    figure = loss_and_lr_figure(History([*records, {"iteration": 3, "val/loss_ce": 2.0}]))
    assert figure is not None
    assert list(_lines(figure.axes[0])) == ["loss", "val/loss", "val/loss_ce"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("MAE", "edge_mae", "NME", "val_RMSE", "mse", "failure_rate", "top1_error")),
        *((name, True) for name in ("meanAbsoluteError", "bce_loss", "bbox/false_positive_rate")),
        *((name, False) for name in ("mean_IoU", "bbox/AP", "max_F", "mAP", "true_positive_rate", "error_free")),
    ],
)
def test_of_an_error_less_is_better_by_its_last_word(name: str, expected: bool) -> None:
    assert is_error(f"val/{name}") is expected


def test_single_classes_are_left_out_beside_their_mean() -> None:
    classes = {f"val/{kind}/{name}": 0.5 for kind in ("IoU", "dice") for name in ("cat", "dog")}
    figure = metric_figure(History([{"iteration": 1, "val/mean_IoU": 0.5, "val/mDice": 0.5, **classes}]))
    assert figure is not None
    assert list(_lines(figure.axes[0])) == ["val/mean_IoU, highest 0.500", "val/mDice, highest 0.500"]
    alone = metric_figure(History([{"iteration": 1, **classes}]))
    assert alone is not None
    assert len(_lines(alone.axes[0])) == 4


def test_many_lines_all_look_different_and_their_legend_is_beside_them() -> None:
    records = [{"iteration": i, **{f"val/number_{k}": k + i for k in range(12)}} for i in (1, 2)]
    figure = metric_figure(History(records))
    assert figure is not None
    (ax,) = figure.axes
    lines = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12
    figure.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    assert ax.get_window_extent().x1 < legend.x0
    assert legend.x1 <= figure.bbox.x1


@pytest.mark.parametrize("last", [1, 2, 4, 9, 30, 1234])
def test_ticks_of_iterations_are_integers(last: int) -> None:
    records = [{"iteration": i, "lr": 0.1, "train/loss": 1.0, "val/AP": 0.5} for i in sorted({1, last})]
    for figure in (loss_and_lr_figure(History(records)), metric_figure(History(records))):
        assert figure is not None
        assert all(float(tick).is_integer() for ax in figure.axes for tick in ax.get_xticks())


def test_metrics_over_iterations_with_the_highest_value_named() -> None:
    figure = metric_figure(History(_RECORDS))
    assert figure is not None
    assert _lines(figure.axes[0]) == {"val/bbox/AP, highest 0.250": ([10, 20], [0.25, 0.125])}
    chosen = metric_figure(History(_RECORDS), ["bbox/AP/cat", "bbox/APs"])
    assert chosen is not None
    assert list(_lines(chosen.axes[0])) == ["val/bbox/APs", "val/bbox/AP/cat, highest 0.100"]
    other = metric_figure(History([{"iteration": 3, "val/mIoU": 0.5}]))
    assert other is not None
    assert list(_lines(other.axes[0])) == ["val/mIoU, highest 0.500"]
    assert metric_figure(History(_RECORDS[:2])) is None


def _train(folder: Path, resume_at: int | None = None, *, logger: bool = True) -> list[int]:
    """Two epochs of four iterations; returns the iterations of the loss and of the metric that are drawn at the end."""
    trainer = Engine(lambda engine, batch: {"loss": torch.tensor(1.0 / engine.state.iteration)})
    evaluator = Engine(lambda engine, batch: None)

    @evaluator.on(Events.EPOCH_COMPLETED)
    def measure() -> None:
        evaluator.state.metrics["AP"] = 0.5

    curves = attach_curves(folder, trainer)
    if logger:
        MetricLogger(folder, console=False).attach(trainer, every=2)
    evaluate_on_epoch(trainer, evaluator, [0])
    if resume_at is not None:

        @trainer.on(Events.STARTED)
        def resume() -> None:
            trainer.state.iteration, trainer.state.epoch = resume_at, resume_at // 4

    drawn: list[int] = []
    draw = loss_and_lr_figure

    def spy(history: History) -> Any:
        drawn[:] = [int(iteration) for name in ("train/loss", "val/AP") for iteration in history.points(name)[0]]
        return draw(history)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ignite_imgtools.handlers.curves.loss_and_lr_figure", spy)
        trainer.run(range(4), max_epochs=2)
        curves.detach()
        trainer.state.max_epochs = None
    return drawn


def test_they_are_drawn_after_each_evaluation_and_go_on_after_a_resume(tmp_path: Path) -> None:
    matplotlib.use("Agg")
    straight = _train(tmp_path)
    assert straight == [2, 4, 6, 8, 4, 8]
    for name in ("loss_and_lr", "metric"):
        picture = np.asarray(Image.open(tmp_path / "plots" / f"{name}.png"))
        assert picture.shape[0] > 400
        assert picture.std() > 10
    assert _train(tmp_path, resume_at=4) == straight
    assert _train(tmp_path) == straight  # from the beginning: nothing is left of the run before


def test_the_smallest_error_and_the_largest_score_are_marked() -> None:
    records = [{"iteration": i, "val/MAE": mae, "val/max_F": f} for i, mae, f in ((1, 0.3, 0.5), (2, 0.1, 0.7))]
    figure = metric_figure(History(records))
    assert figure is not None
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["val/MAE, lowest 0.100", "val/max_F, highest 0.700"]


def test_without_a_logger_metrics_alone_are_drawn(tmp_path: Path) -> None:
    _train(tmp_path, logger=False)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["metric.png"]


def test_no_global_figure_is_made(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    _train(tmp_path)
    assert plt.get_fignums() == before


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("")
    with pytest.warns(RuntimeWarning, match="cannot write the curves in") as warned:
        _train(tmp_path)
    assert len(warned) == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["val/AP"] == 0.5
