"""What an evaluation leaves of its errors: files, figures, one warning where it cannot write."""

from __future__ import annotations

import json
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import pytest
from ignite.engine import Engine
from PIL import Image

from ignite_imgtools.handlers import attach_evaluation_analysis, attach_tensorboard, evaluate_on_epoch
from ignite_imgtools.handlers.evaluation_pictures import class_precision_figure, confusion_figure, error_figure
from ignite_imgtools.handlers.figures import figure_to_array
from ignite_imgtools.metrics import error_breakdown
from ignite_imgtools.metrics.coco_analysis import ERROR_KINDS, ErrorBreakdown
from tests.distributed.spawn import run_processes
from tests.handlers.coco_evaluator import create_evaluator, create_truth


def test_files_and_figures_after_every_evaluation(tmp_path: Path) -> None:
    coco = create_truth()
    evaluator, metric = create_evaluator(coco, keep_results=True)
    trainer = Engine(lambda engine, batch: None)
    handle = attach_evaluation_analysis(tmp_path, trainer, evaluator, metric)
    attach_tensorboard(tmp_path, trainer, evaluators={"val": evaluator})
    evaluate_on_epoch(trainer, evaluator, range(12))
    trainer.run(range(3), max_epochs=2)

    written = json.loads((tmp_path / "eval" / "errors.json").read_text())
    assert (written["epoch"], written["iteration"]) == (2, 6)
    assert written["bbox"] == error_breakdown(coco, metric.results("bbox")).to_dict()
    assert written["bbox"]["ap"] == evaluator.state.metrics["bbox/AP50"]
    names = ["class_precision.png", "confusion_matrix.png", "errors.png"]
    assert sorted(file.name for file in (tmp_path / "plots").iterdir()) == names
    for name in names:
        with Image.open(tmp_path / "plots" / name) as picture:
            assert picture.size[0] > 300
    assert list(evaluator.state.figures) == ["confusion_matrix", "errors"]
    events = b"".join(file.read_bytes() for file in (tmp_path / "tensorboard").iterdir())
    assert b"val/confusion_matrix" in events

    handle.detach()
    (tmp_path / "eval" / "errors.json").unlink()
    evaluator.run(range(12))
    assert not (tmp_path / "eval" / "errors.json").exists()


@pytest.mark.parametrize("images", ["seen", "all"])
def test_images_that_were_not_seen_count_as_for_the_metric(tmp_path: Path, images: str) -> None:
    evaluator, metric = create_evaluator(create_truth(), keep_results=True, images=images)
    attach_evaluation_analysis(tmp_path, None, evaluator, metric)
    evaluator.run(range(5))
    written = json.loads((tmp_path / "eval" / "errors.json").read_text())
    assert written["bbox"]["ap"] == evaluator.state.metrics["bbox/AP50"]
    assert "epoch" not in written


def test_no_folder_no_files() -> None:
    evaluator, metric = create_evaluator(create_truth(), keep_results=True)
    attach_evaluation_analysis(None, None, evaluator, metric)
    evaluator.run(range(12))
    assert list(evaluator.state.figures) == ["confusion_matrix", "errors"]  # type: ignore[attr-defined]


def test_a_folder_that_cannot_be_written_gives_one_warning(tmp_path: Path) -> None:
    evaluator, metric = create_evaluator(create_truth(), keep_results=True)
    (tmp_path / "file").write_text("")
    attach_evaluation_analysis(tmp_path / "file", None, evaluator, metric)
    with pytest.warns(RuntimeWarning, match="cannot write the analysis in"):
        evaluator.run(range(12))
    evaluator.run(range(12))  # a second warning would be an error


def test_a_metric_that_keeps_no_results_is_refused() -> None:
    evaluator, metric = create_evaluator(create_truth())
    with pytest.raises(ValueError, match="keep_results=True"):
        attach_evaluation_analysis(None, None, evaluator, metric)


def _analyse(folder: Path) -> bool:
    evaluator, metric = create_evaluator(create_truth(), keep_results=True)
    attach_evaluation_analysis(folder, None, evaluator, metric)
    evaluator.run(range(idist.get_rank(), 12, 2))
    return hasattr(evaluator.state, "figures")


def test_one_process_writes_what_all_have_found(tmp_path: Path) -> None:
    assert run_processes(_analyse, 2, tmp_path) == [True, False]
    assert sum(json.loads((tmp_path / "eval" / "errors.json").read_text())["bbox"]["count"].values()) > 0


@pytest.mark.parametrize("classes", [1, 3, 35, 130])
def test_pictures_of_any_number_of_classes(classes: int) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 50, size=(classes + 1, classes + 1))
    names = [f"a rather long name of class {k}" for k in range(classes)]
    figure = confusion_figure(matrix, names)
    assert len(figure.axes) == 2
    picture = figure_to_array(figure)
    # The margins are white: nothing is cut off.
    assert (picture[:, 0] == 255).all()
    assert (picture[-1] == 255).all()
    values = [*rng.random(classes - 1), -1.0]
    picture = figure_to_array(class_precision_figure(names, values))
    assert max(picture.shape) < 3000
    assert (picture[:, 0] == 255).all()


def test_numbers_stand_in_the_cells_of_a_small_matrix() -> None:
    figure = confusion_figure(np.array([[3, 0], [12345, 0]]), ["cat"])
    assert {text.get_text() for text in figure.axes[0].texts} == {"3", "12345"}


def test_bars_of_errors_have_their_numbers() -> None:
    gain, count = dict.fromkeys(ERROR_KINDS, 0.125), dict.fromkeys(ERROR_KINDS, 4321)
    figure = error_figure(ErrorBreakdown(0.5, gain, count, 0.25, 0.0))
    texts = [text.get_text().split() for text in figure.axes[0].texts]
    assert texts == [["12.5", "(4,321)"]] * 6 + [["25.0"], ["0.0"]]
    assert (figure_to_array(figure)[:, 0] == 255).all()
