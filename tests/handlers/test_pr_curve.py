"""Precision over recall is what the metric's arrays say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ignite_imgtools.handlers import attach_pr_curve
from ignite_imgtools.handlers.pr_curve import pr_curve_figure
from tests.handlers.coco_evaluator import create_evaluator, create_truth


def test_the_curve_is_published_and_written(tmp_path: Path) -> None:
    evaluator, metric = create_evaluator(create_truth())
    attach_pr_curve(tmp_path, evaluator, metric)
    evaluator.run(range(12))
    (ax,) = evaluator.state.figures["pr_curve"].axes
    assert (tmp_path / "plots" / "pr_curve.png").stat().st_size > 10_000
    precision = metric.arrays("bbox")["precision"][:, :, :2, 0, -1]
    lines = {line.get_label().split("  ")[0]: line for line in ax.lines}
    assert set(lines) == {"cat", "dog", "mean at IoU 0.5", "mean at IoU 0.75", "mean at IoU 0.5:0.95"}
    assert (lines["dog"].get_ydata() == precision[0, :, 1]).all()
    np.testing.assert_allclose(lines["mean at IoU 0.75"].get_ydata(), precision[5].mean(axis=1))
    np.testing.assert_allclose(lines["mean at IoU 0.5:0.95"].get_ydata(), precision.mean(axis=(0, 2)))
    assert lines["mean at IoU 0.5:0.95"].get_label().endswith(f"{evaluator.state.metrics['bbox/AP']:.3f}")


@pytest.mark.parametrize("classes", [1, 3, 80])
def test_any_number_of_classes_and_thresholds_has_a_curve(classes: int) -> None:
    precision = np.random.default_rng(0).random((2, 11, classes))
    precision[:, :, 0] = -1
    names = [f"class {k}" for k in range(classes)]
    figure = pr_curve_figure(precision, np.array([0.3, 0.6]), np.linspace(0, 1, 11), names)
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert sum(label.startswith("class") for label in labels) == (classes - 1 if classes < 10 else 0)
    assert ("each of 79 classes" in labels) == (classes == 80)
    assert ("nothing to be found" in figure.axes[0].get_title(loc="left")) == (classes == 1)
