from __future__ import annotations

import math

import ignite.distributed as idist
import pytest
import torch

from ignite_imgtools.engines import MeanLosses
from tests.distributed.spawn import run_processes

IMAGES = 7


def _losses(image_ids):
    values = torch.tensor([[math.sin(i), math.exp(i / 3)] for i in image_ids], dtype=torch.float32)
    return {"a": values[:, 0], "b": values[:, 1]}, [{"image_id": i} for i in image_ids]


def _mean_of_shards(batch_size):
    metric = MeanLosses()
    own = list(range(IMAGES))[idist.get_rank() :: idist.get_world_size()]
    for start in range(0, len(own), batch_size):
        metric.update(_losses(own[start : start + batch_size]))
    metric.update(({}, []))
    return metric.compute()


@pytest.mark.parametrize("world_size", [1, 2, 8])  # of 8 processes one has no image
def test_the_mean_does_not_depend_on_the_processes(world_size):
    values, _ = _losses(range(IMAGES))
    a, b = (values[name].double().mean().item() for name in "ab")
    results = run_processes(_mean_of_shards, world_size, 2)
    assert results == [_mean_of_shards(3)] * world_size
    assert results[0] == pytest.approx({"loss": a + b, "a": a, "b": b}, abs=1e-12)


def test_an_image_counts_once():
    metric = MeanLosses()
    metric.update(_losses([1, 2]))
    metric.update(_losses([2]))
    other = MeanLosses()
    other.update(_losses([2, 1]))
    assert metric.compute() == other.compute()
    metric.reset()
    assert math.isnan(metric.compute()["loss"])


def test_terms_must_stay_the_same():
    metric = MeanLosses()
    metric.update(_losses([1]))
    with pytest.raises(ValueError, match=r"must be the same in all batches, got \['c'\] after \['a', 'b'\]"):
        metric.update(({"c": torch.zeros(1)}, [{"image_id": 2}]))
