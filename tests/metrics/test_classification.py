from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_precision, multiclass_recall

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics import ClassificationMetric, class_precision_recall, ranks_of_truth


def _cases(count: int = 60, classes: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Few values, so that many are equal.
    logits = torch.randint(0, 6, (count, classes), generator=generator).float() / 2
    return logits, torch.randint(0, classes - 1, (count,), generator=generator)  # the last class is absent


def test_ranks_are_those_of_a_stable_sort() -> None:
    logits, labels = _cases()
    for row, label, rank in zip(logits.tolist(), labels.tolist(), ranks_of_truth(logits, labels).tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda c: (-row[c], c))
        assert order.index(label) == rank
    assert torch.equal(ranks_of_truth(logits, labels) == 0, logits.argmax(1) == labels)


def test_what_is_no_number_is_never_right() -> None:
    logits = torch.tensor([[math.nan, 1.0, 2.0], [1.0, math.nan, 0.0], [math.nan] * 3])
    assert ranks_of_truth(logits, torch.tensor([0, 0, 0])).tolist() == [3, 1, 3]
    metric = ClassificationMetric(3)
    metric.update((logits, torch.tensor([0, 0, 0])))
    assert metric.compute()["top1"] == 0


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_numbers_as_counted_one_by_one(batch_size: int) -> None:
    logits, labels = _cases()
    names = list("abcdefg")
    metric = ClassificationMetric(7, class_names=names, top_k=(1, 3, 5), per_class=True)
    for start in range(0, 60, batch_size):
        metric.update((logits[start : start + batch_size], labels[start : start + batch_size]))
    result = metric.compute()
    ranks = [sorted(range(7), key=lambda c, row=row: (-row[c], c)) for row in logits.tolist()]
    for k in (1, 3, 5):
        right = sum(label in order[:k] for order, label in zip(ranks, labels.tolist(), strict=True))
        assert result[f"top{k}"] == right / 60
    predicted = logits.argmax(1)
    matrix = np.zeros((7, 7), dtype=int)
    for true, found in zip(labels.tolist(), predicted.tolist(), strict=True):
        matrix[true, found] += 1
    assert np.array_equal(metric.matrix(), matrix)
    assert metric.absent_classes() == ["g"]
    assert (result["precision/g"], result["recall/g"]) == (-1, -1)
    expected = {
        "precision": multiclass_precision(predicted, labels, 7, average=None),
        "recall": multiclass_recall(predicted, labels, 7, average=None),
        "F1": multiclass_f1_score(predicted, labels, 7, average=None),
    }
    for name, values in expected.items():
        assert class_precision_recall(matrix)[name][:6] == pytest.approx(values[:6].tolist(), rel=1e-6)
        assert result[f"mean_{name}"] == pytest.approx(float(values[:6].mean()), rel=1e-6)
    assert result["recall/b"] == matrix[1, 1] / matrix[1].sum()


def test_top5_of_fewer_classes_is_one() -> None:
    metric = ClassificationMetric(3)
    metric.update((torch.randn(4, 3), torch.tensor([0, 1, 2, 0])))
    assert metric.compute()["top5"] == 1


def test_without_images_all_is_minus_one() -> None:
    metric = ClassificationMetric(3, per_class=True)
    metric.update((torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)))
    assert set(metric.compute().values()) == {-1}
    metric.update((torch.eye(3), torch.arange(3)))
    assert metric.compute()["top1"] == 1


def test_a_state_goes_on() -> None:
    logits, labels = _cases()
    whole, first, second = (ClassificationMetric(7) for _ in range(3))
    whole.update((logits, labels))
    first.update((logits[:20], labels[:20]))
    second.load_state_dict(first.state_dict())
    second.update((logits[20:], labels[20:]))
    assert second.compute() == whole.compute()
    with pytest.raises(ValueError, match="the state is of 7 classes, the metric of 3"):
        ClassificationMetric(3).load_state_dict(first.state_dict())


def test_bad_labels_are_counted_and_refused_in_the_end() -> None:
    metric = ClassificationMetric(3)
    metric.update((torch.eye(3), torch.tensor([0, 3, -1])))
    with pytest.raises(DataError, match=r"the truth has 2 images whose label is not in 0\.\.2"):
        metric.compute()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        ClassificationMetric(1)
    with pytest.raises(ValueError, match="class_names must be 2 different names"):
        ClassificationMetric(2, class_names=["a", "a"])
    with pytest.raises(ValueError, match="top_k must be numbers of classes"):
        ClassificationMetric(2, top_k=(0,))
    with pytest.raises(ValueError, match=r"y_pred must be \[B, 3\] and y integers \[B\], got \[2, 4\] and \[2\]"):
        ClassificationMetric(3).update((torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(ValueError, match="one prediction for each label is needed, got 2 and 1"):
        ClassificationMetric(3).update((torch.zeros(2, 3), torch.zeros(1, dtype=torch.int64)))
