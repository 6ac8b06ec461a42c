"""VocMetric gives the same numbers on any number of processes."""

from __future__ import annotations

import ignite.distributed as idist
import numpy as np
import torch

from ignite_imgtools.metrics import VocMetric
from tests.distributed.spawn import run_processes
from tests.metrics.test_voc import index_of

_BOXES = [(0.0, 0.0, 10.0, 10.0), (5.0, 0.0, 15.0, 10.0), (20.0, 20.0, 40.0, 40.0), (20.0, 20.0, 30.0, 40.0)]


def _numbers(shards: list[list[list[int]]], state_of_half: bool) -> dict[str, float]:
    rng = np.random.default_rng(0)
    images = range(10, 23)
    objects = {i: [(int(rng.integers(1, 4)), _BOXES[b], b == 1 and i % 2 == 0) for b in range(4)] for i in images}
    predictions = {}
    for image in images:
        boxes = torch.tensor(_BOXES)[torch.from_numpy(rng.integers(4, size=6))]
        # Equal scores, within and across images.
        scores = torch.from_numpy(rng.choice([0.25, 0.5, 0.75], size=6))
        predictions[image] = {"boxes": boxes, "scores": scores, "labels": torch.from_numpy(rng.integers(1, 4, size=6))}
    index = index_of(objects, ["a", "b", "c"])
    metric = VocMetric(index, per_class=True, chunk_images=2)
    for number, batch in enumerate(shards[idist.get_rank()]):
        if state_of_half and number == 1:
            state = metric.state_dict()
            metric = VocMetric(index, per_class=True)
            metric.load_state_dict(state)
        metric.update(([predictions[i] for i in batch], [{"image_id": i} for i in batch]))
    return metric.compute()


def test_the_same_on_any_number_of_processes() -> None:
    images = list(range(10, 23))
    (expected,) = run_processes(_numbers, 1, [[images]], False)
    assert 0 < expected["voc/AP50"] < 1
    two = [[[22, 10], [11, 12, 13], [14]], [[15, 16, 17, 10], [18, 19, 20, 21]]]
    three = [[[i] for i in reversed(images[:7])], [], [images[5:]]]
    for shards in (two, three):
        for result in run_processes(_numbers, len(shards), shards, True):
            assert result == expected
