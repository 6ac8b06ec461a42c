"""Files of an evaluation, beside pycocotools."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from ignite.engine import Engine, Events
from pycocotools.cocoeval import COCOeval

from ignite_imgtools.handlers import attach_evaluation_files, evaluate_on_epoch
from tests.handlers.coco_evaluator import NAMES, create_evaluator, create_truth


def test_files_hold_the_numbers_of_pycocotools(tmp_path: Path) -> None:
    coco = create_truth()
    evaluator, metric = create_evaluator(coco, keep_results=True, per_class=True)
    trainer = Engine(lambda engine, batch: None)
    attach_evaluation_files(tmp_path, trainer, evaluator, metric)
    evaluate_on_epoch(trainer, evaluator, range(12))
    trainer.run(range(3), max_epochs=2)

    numbers = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert (numbers.pop("epoch"), numbers.pop("iteration")) == (2, 6)
    assert numbers == evaluator.state.metrics
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "eval" / "coco_results_bbox.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[:2].tolist() == [numbers["bbox/AP"], numbers["bbox/AP50"]]

    with (tmp_path / "eval" / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["class", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "iou_type"]
    assert [row["class"] for row in rows] == NAMES
    for k, row in enumerate(rows[:2]):
        own = evaluation.eval["precision"][:, :, k, 0, -1]
        assert float(row["AP"]) == numbers[f"bbox/AP/{row['class']}"] == np.mean(own)
        assert float(row["AP50"]) == np.mean(own[0])
        assert float(row["AR100"]) == np.mean(evaluation.eval["recall"][:, k, 0, -1])
    assert {float(rows[2][name]) for name in ("AP", "AP75", "APl", "AR100")} == {-1.0}
    assert not list((tmp_path / "eval").glob(".tmp-*"))


def test_results_may_have_the_ids_of_another_file_or_be_left_out(tmp_path: Path) -> None:
    coco = create_truth()
    evaluator, metric = create_evaluator(coco, keep_results=True)
    handle = attach_evaluation_files(tmp_path, None, evaluator, metric, category_ids={1: 17, 2: 18})
    evaluator.run(range(12))
    results = json.loads((tmp_path / "eval" / "coco_results_bbox.json").read_text())
    assert {result["category_id"] for result in results} == {17, 18}
    assert "iteration" not in json.loads((tmp_path / "eval" / "metrics.json").read_text())
    handle.detach()

    evaluator, metric = create_evaluator(coco)
    with pytest.raises(ValueError, match="keep_results=True"):
        attach_evaluation_files(tmp_path, None, evaluator, metric)
    attach_evaluation_files(tmp_path / "b", None, evaluator, metric, results=False)
    evaluator.run(range(12))
    assert sorted(path.name for path in (tmp_path / "b" / "eval").iterdir()) == [
        "metrics.json",
        "per_class.csv",
        "per_class.txt",
    ]


def test_any_evaluator_has_a_file_of_its_numbers(tmp_path: Path) -> None:
    evaluator = Engine(lambda engine, batch: None)
    attach_evaluation_files(tmp_path, None, evaluator)

    @evaluator.on(Events.EPOCH_COMPLETED)
    def measure() -> None:
        evaluator.state.metrics = {"mIoU": 0.5, "nme": float("nan"), "matrix": np.eye(2)}

    evaluator.run([0])
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text()) == {"mIoU": 0.5, "nme": None}
    (tmp_path / "eval" / "metrics.json").unlink()
    (tmp_path / "eval").rmdir()
    (tmp_path / "eval").write_text("")
    with pytest.warns(RuntimeWarning, match=re.escape(f"cannot write the files in {tmp_path / 'eval'}")):
        evaluator.run([0])
