from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from ignite.engine import Engine
from PIL import Image

from ignite_imgtools.handlers import (
    attach_evaluation_files,
    attach_saliency_analysis,
    attach_segmentation_analysis,
    attach_tensorboard,
)
from ignite_imgtools.handlers.saliency_analysis import saliency_curve_figure
from ignite_imgtools.handlers.segmentation_analysis import segmentation_rows
from ignite_imgtools.handlers.segmentation_pictures import pixel_confusion_figure
from ignite_imgtools.metrics import SaliencyMetric, SegmentationMetric
from tests.handlers.dense_evaluators import NAMES, dense_batches, saliency_evaluator, segmentation_evaluator


def _labels(classes: int = 4, missing: int = 2) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    truth = random.integers(0, classes, 5000)
    truth[truth == missing] = 0
    found = np.where(random.random(5000) < 0.7, truth, random.integers(0, classes, 5000))
    return truth, found


def test_the_table_counts_pixels() -> None:
    truth, found = _labels()
    matrix = np.array([[((truth == i) & (found == j)).sum() for j in range(4)] for i in range(4)])
    rows = segmentation_rows(matrix, NAMES)
    assert [row["class"] for row in rows] == NAMES
    for label in (0, 1, 3):
        row, of, as_it = rows[label], truth == label, found == label
        assert row["pixels"] == of.sum()
        assert row["accuracy"] == pytest.approx(as_it[of].mean())
        assert row["precision"] == pytest.approx(of[as_it].mean())
        assert row["IoU"] == pytest.approx((of & as_it).sum() / (of | as_it).sum())
        assert row["dice"] == pytest.approx(2 / (1 / row["accuracy"] + 1 / row["precision"]))
    # Found where it never is: nothing can be said.
    assert rows[2] == {"class": "dog", "IoU": -1.0, "dice": -1.0, "accuracy": -1.0, "precision": -1.0, "pixels": 0}


def test_the_analysis_is_in_the_run_folder_and_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    evaluator = segmentation_evaluator()
    metric = SegmentationMetric(4, class_names=NAMES, per_class=True)
    metric.attach(evaluator, "segmentation")
    attached = attach_segmentation_analysis(tmp_path, evaluator, metric)
    attach_evaluation_files(tmp_path, None, evaluator)
    attach_tensorboard(tmp_path, Engine(lambda engine, batch: None), None, {"val": evaluator})
    evaluator.run(dense_batches(range(6)))
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert written["mean_IoU"] == evaluator.state.metrics["mean_IoU"] > 0.3
    with (tmp_path / "eval" / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["class"]: float(row["IoU"]) for row in rows} == {name: written[f"IoU/{name}"] for name in NAMES}
    assert "background" in (tmp_path / "eval" / "per_class.txt").read_text()
    for name in ("confusion_matrix", "class_iou"):
        with Image.open(tmp_path / "plots" / f"{name}.png") as picture:
            picture.verify()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"val/mean_IoU", "val/IoU/cat"} <= set(events.Tags()["scalars"])
    assert {"val/confusion_matrix", "val/class_iou"} <= set(events.Tags()["images"])
    attached.remove()
    (tmp_path / "eval" / "per_class.csv").unlink()
    evaluator.run(dense_batches(range(2)))
    assert not (tmp_path / "eval" / "per_class.csv").exists()


def test_the_confusion_matrix_has_percent_of_each_row() -> None:
    matrix = np.array([[90, 10, 0], [1, 999, 0], [0, 0, 0]])
    ax = pixel_confusion_figure(matrix, ["a", "b", "c"]).axes[0]
    texts = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in ax.texts}
    assert texts == {(0, 0): "90", (0, 1): "10", (1, 1): "100"}
    cells = ax.images[0].get_array()
    assert (cells[2] == 0.92).all()  # nothing is of class c


def test_many_classes_have_a_list_of_confusions() -> None:
    matrix = np.eye(40, dtype=np.int64) * 80
    matrix[7, 3] = 20
    ax = pixel_confusion_figure(matrix, [f"class {i}" for i in range(40)]).axes[0]
    assert "20.0 %  of class 7 as class 3" in ax.texts[0].get_text()


def test_the_saliency_curve_is_drawn_and_written(tmp_path: Path) -> None:
    evaluator = saliency_evaluator()
    metric = SaliencyMetric()
    metric.attach(evaluator, "saliency")
    attach_saliency_analysis(tmp_path, evaluator, metric)
    evaluator.run(dense_batches(range(6), saliency=True))
    with Image.open(tmp_path / "plots" / "pr_curve.png") as picture:
        picture.verify()
    curve = evaluator.state.figures["pr_curve"].axes[0]
    precision, recall, _ = metric.curves()
    assert (curve.lines[0].get_xydata() == np.stack([recall, precision], axis=1)).all()
    assert f"largest F {evaluator.state.metrics['max_F']:.3f}" in curve.texts[0].get_text()


def test_a_curve_of_nothing_is_drawn_too() -> None:
    zeros = np.zeros(255)
    assert len(saliency_curve_figure(zeros, zeros, np.arange(255) / 255).axes) == 2
