"""The metrics of segmentation and saliency give the same numbers on any number of processes."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import pytest
import torch

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics import DiceMetric, SaliencyMetric, SegmentationMetric
from tests.distributed.spawn import run_processes


def _image(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    height, width = (int(size) for size in torch.randint(5, 40, (2,), generator=generator))
    logits = torch.randn(1, 4, height, width, generator=generator)
    truth = torch.randint(0, 3, (1, height, width), generator=generator)  # class 3 is absent
    truth[torch.rand(truth.shape, generator=generator) < 0.1] = 255
    return logits, truth, logits[:, :1], (truth == 1).float()


def _numbers(shards: list[list[list[int]]]) -> dict[str, Any]:
    segmentation, dice, saliency = SegmentationMetric(4, per_class=True), DiceMetric(4), SaliencyMetric()
    for batch in shards[idist.get_rank()]:
        columns = [list(column) for column in zip(*map(_image, batch), strict=True)] or [[], [], [], []]
        segmentation.update((columns[0], columns[1]))
        dice.update((columns[0], columns[1]))
        saliency.update((columns[2], columns[3]))
    return {
        **segmentation.compute(),
        **saliency.compute(),
        "dice": dice.compute(),
        "matrix": segmentation.matrix().tolist(),
        "absent": segmentation.absent_classes(),
        "curves": [curve.tolist() for curve in saliency.curves()],
    }


def test_the_same_on_any_number_of_processes() -> None:
    images = list(range(11))
    (expected,) = run_processes(_numbers, 1, [[images]])
    assert expected["absent"] == ["3"]
    assert 0 < expected["mean_IoU"] < 1
    assert 0 < expected["MAE"] < 1
    two = [[[5, 0], [3], [9, 7, 1]], [[2, 4], [10, 6, 8]]]
    three = [[[i] for i in reversed(images[:6])], [], [images[6:], []]]
    for shards in (two, three):
        for result in run_processes(_numbers, len(shards), shards):
            assert result == expected


def _error_of_bad_truth() -> str:
    metric = SegmentationMetric(2)
    wrong = 7 if idist.get_rank() == 1 else 1
    metric.update((torch.zeros(1, 1, 2, dtype=torch.int64), torch.tensor([[[0, wrong]]])))
    with pytest.raises(DataError) as error:
        metric.compute()
    return str(error.value)


def test_all_processes_learn_of_bad_truth() -> None:
    assert set(run_processes(_error_of_bad_truth, 2)) == {
        "the truth has 1 pixels whose class is neither in 0..1 nor 255 (ignored); set num_classes, or let "
        "ignite-imgtools check name the files"
    }
