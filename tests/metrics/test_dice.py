from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics import DiceMetric
from tests.metrics.random_maps import random_maps


def by_loops(logits, truth, num_classes, ignore_index=255):
    images = []
    for x, t in zip(logits, truth, strict=True):
        p, t = x.argmax(1).flatten().tolist(), t.flatten().tolist()
        pixels = [i for i in range(len(t)) if t[i] != ignore_index]
        values = []
        for c in range(1, num_classes):
            mine, found = [i for i in pixels if t[i] == c], [i for i in pixels if p[i] == c]
            hits = len(set(mine) & set(found))
            values.append(2 * hits / (len(mine) + len(found)) if mine or found else 1.0)
        images.append(sum(values) / len(values))
    return sum(images) / len(images) if images else -1.0


def _computed(num_classes, *updates):
    metric = DiceMetric(num_classes)
    for update in updates:
        metric.update(update)
    return metric.compute()


@settings(max_examples=40, deadline=None)
@given(
    num_classes=st.integers(2, 5),
    images=st.integers(0, 4),
    seed=st.integers(0, 9999),
    ignored=st.sampled_from([0, 0.9]),
)
def test_equals_loops(num_classes, images, seed, ignored):
    logits, truth = random_maps(num_classes, images, seed, classes=max(1, num_classes - seed % 3), ignored=ignored)
    assert _computed(num_classes, (logits, truth)) == pytest.approx(by_loops(logits, truth, num_classes), abs=1e-12)


def test_equals_torchmetrics():
    segmentation = pytest.importorskip("torchmetrics.functional.segmentation")
    torch.manual_seed(0)
    logits, truth = torch.randn(4, 3, 9, 8), torch.randint(0, 3, (4, 9, 8))
    theirs = segmentation.dice_score(
        logits.argmax(1), truth, num_classes=3, include_background=False, average="macro", input_format="index"
    )
    assert _computed(3, (logits, truth)) == pytest.approx(theirs.mean().item(), abs=1e-6)


def test_any_batching_gives_the_same_bits():
    logits, truth = random_maps(3, images=7)
    whole = _computed(3, (logits, truth))
    assert _computed(3, *(([x], [t]) for x, t in zip(logits[::-1], truth[::-1], strict=True))) == whole
    same = [x[..., :1, :1] for x in logits]
    corner = [t[..., :1, :1] for t in truth]
    assert _computed(3, (same, corner)) == _computed(3, (torch.cat(same), torch.cat(corner)))


def test_it_can_be_reset_and_runs_in_an_evaluator():
    logits, truth = random_maps(3)
    metric = DiceMetric(3)
    evaluator = Engine(lambda engine, batch: {"y_pred": batch[0], "y": batch[1], "batch_size": 1})
    metric.attach(evaluator, "dice")
    batches = [([x], [t]) for x, t in zip(logits, truth, strict=True)]
    for _ in range(2):
        assert evaluator.run(batches).metrics == {"dice": metric.compute()}
    assert metric.compute() == _computed(3, (logits, truth))


def test_state():
    logits, truth = random_maps(3)
    metric, other = DiceMetric(3), DiceMetric(3)
    metric.update((logits[:2], truth[:2]))
    state = copy.deepcopy(metric.state_dict())
    metric.update((logits[2:], truth[2:]))
    other.load_state_dict(state)
    other.update((logits[2:], truth[2:]))
    assert other.compute() == metric.compute()
    with pytest.raises(ValueError, match=r"the state has rows of \[5\] integers, the metric of \[3\]"):
        DiceMetric(2).load_state_dict(state)


def test_errors():
    with pytest.raises(ValueError, match="must be at least 2, got 1"):
        DiceMetric(1)
    metric = DiceMetric(2)
    metric.update((torch.zeros(1, 1, 3, dtype=torch.int64), torch.tensor([[[0, 7, 255]]])))
    with pytest.raises(DataError, match=r"has 1 pixels whose class is neither in 0\.\.1 nor 255"):
        metric.compute()


def test_the_mean_is_exact():
    metric = DiceMetric(2)
    values = []
    for width in range(1, 60):
        predicted, truth = torch.zeros(1, 1, width, dtype=torch.int64), torch.ones(1, 1, width, dtype=torch.int64)
        predicted[..., : (width + 1) // 3] = 1
        metric.update((predicted, truth))
        values.append(2 * ((width + 1) // 3) / (width + (width + 1) // 3))
    assert metric.compute() == math.fsum(values) / len(values)
