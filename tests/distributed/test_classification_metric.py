"""The metric of classification gives the same numbers on any number of processes."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import pytest
import torch

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics import ClassificationMetric
from tests.distributed.spawn import run_processes


def _image(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(7, generator=generator), torch.randint(0, 6, (), generator=generator)


def _numbers(shards: list[list[list[int]]]) -> dict[str, Any]:
    metric = ClassificationMetric(7, per_class=True)
    for batch in shards[idist.get_rank()]:
        columns = list(zip(*map(_image, batch), strict=True)) or [(), ()]
        logits, labels = columns
        if batch:
            metric.update((torch.stack(logits), torch.stack(labels)))
        else:
            metric.update((torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)))
    return {**metric.compute(), "matrix": metric.matrix().tolist(), "absent": metric.absent_classes()}


def test_the_same_on_any_number_of_processes() -> None:
    images = list(range(23))
    (expected,) = run_processes(_numbers, 1, [[images]])
    assert "6" in expected["absent"]
    assert 0 < expected["top1"] < expected["top5"] < 1
    two = [[images[3:9], [0]], [[2, 1], images[9:]]]
    three = [[[i] for i in reversed(images[:6])], [[]], [images[6:]]]
    for shards in (two, three):
        for result in run_processes(_numbers, len(shards), shards):
            assert result == expected


def _error_of_bad_truth() -> str:
    metric = ClassificationMetric(2)
    metric.update((torch.zeros(1, 2), torch.tensor([7 if idist.get_rank() == 1 else 1])))
    with pytest.raises(DataError) as error:
        metric.compute()
    return str(error.value)


def test_all_processes_learn_of_bad_truth() -> None:
    assert set(run_processes(_error_of_bad_truth, 2)) == {
        "the truth has 1 images whose label is not in 0..1; set num_classes, or correct the labels"
    }
