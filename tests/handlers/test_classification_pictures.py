from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from ignite_imgtools.handlers import ClassPanels, attach_classification_analysis
from ignite_imgtools.handlers.classification_analysis import classification_rows
from ignite_imgtools.metrics import ClassificationMetric
from tests.distributed.spawn import run_processes

NAMES = ["ant", "bee", "cat"]


def _sample(number: int) -> tuple[torch.Tensor, int, torch.Tensor]:
    """An image, its label, and logits that are right for two images of three."""
    generator = torch.Generator().manual_seed(number)
    image = torch.randint(0, 256, (3, 20, 24), generator=generator).to(torch.uint8)
    label = number % 2  # never a cat
    logits = torch.rand(3, generator=generator)
    logits[label if number % 3 else 2] += 1 + number / 10
    return image, label, logits


def _evaluator() -> Engine:
    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        return {"y_pred": batch[2], "y": batch[1], "batch_size": len(batch[0])}

    return Engine(step)


def _batches(numbers: list[int], size: int) -> list[Any]:
    batches = []
    for start in range(0, len(numbers), size):
        images, labels, logits = zip(*map(_sample, numbers[start : start + size]), strict=True)
        batches.append((torch.stack(images), torch.tensor(labels), torch.stack(logits)))
    return batches or [([], [], torch.zeros(0, 0))]


def test_the_analysis_is_in_the_run_folder(tmp_path: Path) -> None:
    evaluator, metric = _evaluator(), ClassificationMetric(3, class_names=NAMES)
    metric.attach(evaluator, "classification")
    attached = attach_classification_analysis(tmp_path, evaluator, metric)
    evaluator.run(_batches(list(range(12)), 5))
    assert set(evaluator.state.figures) == {"confusion_matrix", "class_recall"}  # type: ignore[attr-defined]
    with (tmp_path / "eval" / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == NAMES
    assert [(row["images"], row["predicted"]) for row in rows] == [("6", "4"), ("6", "4"), ("0", "4")]
    assert [float(rows[0][name]) for name in ("precision", "recall", "F1")] == pytest.approx([1, 4 / 6, 0.8])
    assert float(rows[2]["recall"]) == -1
    for name in ("confusion_matrix", "class_recall"):
        with Image.open(tmp_path / "plots" / f"{name}.png") as picture:
            assert min(picture.size) > 100
    attached.detach()
    before = (tmp_path / "eval" / "per_class.csv").stat().st_mtime_ns
    evaluator.run(_batches([0], 1))
    assert (tmp_path / "eval" / "per_class.csv").stat().st_mtime_ns == before


def test_rows_of_many_classes() -> None:
    matrix = np.random.default_rng(0).integers(0, 5, (40, 40))
    rows = classification_rows(matrix, [f"class {i}" for i in range(40)])
    assert rows[7]["recall"] == matrix[7, 7] / matrix[7].sum()
    assert rows[7]["precision"] == matrix[7, 7] / matrix[:, 7].sum()


def _panels(shards: list[list[int]], size: int) -> dict[str, np.ndarray]:
    import ignite.distributed as idist

    evaluator = _evaluator()
    ClassPanels(None, NAMES, num_images=3, height=40).attach(evaluator)
    evaluator.run(_batches(shards[idist.get_rank()], size))
    return getattr(evaluator.state, "images", {})


def test_panels_are_the_same_on_any_number_of_processes() -> None:
    (expected,) = run_processes(_panels, 1, [list(range(12))], 12)
    assert set(expected) == {"predictions", "misclassified"}
    for shards, size in (
        ([[5, 0, 3], [9, 7, 1, 2, 4, 10, 6, 8, 11]], 2),
        ([[11, 3], [], [*range(3), *range(4, 11)]], 4),
    ):
        found, *others = run_processes(_panels, len(shards), shards, size)
        assert others == [{}] * len(others)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_the_most_confident_mistakes_are_drawn(tmp_path: Path) -> None:
    evaluator = _evaluator()
    panels = ClassPanels(tmp_path, NAMES, num_images=2, height=20).attach(evaluator)
    evaluator.run(_batches(list(range(12)), 5))
    contents = sorted(panels._wrong._kept.items())
    wrong = [number for number in range(12) if number % 3 == 0]
    confidence = {number: float(_sample(number)[2].softmax(0)[2]) for number in wrong}
    best = sorted(wrong, key=lambda number: -confidence[number])[:2]
    for (_, (_, content)), number in zip(contents, best, strict=True):
        assert np.array_equal(content[0], _sample(number)[0].permute(1, 2, 0).numpy())
        assert content[1:4] == (number % 2, 2, pytest.approx(confidence[number]))
    with Image.open(tmp_path / "plots" / "misclassified.png") as picture:
        before = picture.size
    evaluator.run(_batches([1, 2, 4], 5))  # all of them right
    with Image.open(tmp_path / "plots" / "misclassified.png") as picture:
        assert picture.size != before
    panels.detach()
    (tmp_path / "plots" / "misclassified.png").unlink()
    evaluator.run(_batches([0], 1))
    assert not (tmp_path / "plots" / "misclassified.png").exists()


def test_panels_have_a_size() -> None:
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        ClassPanels(None, NAMES, num_images=0)
