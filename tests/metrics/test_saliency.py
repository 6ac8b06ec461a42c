"""SaliencyMetric against loops over pixels and thresholds, against ignite and against torchmetrics."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from ignite.metrics import MeanAbsoluteError

from ignite_imgtools.metrics import SaliencyMetric, f_measure


def by_loops(probs, truth, beta_squared=0.3):
    """Threshold by threshold, pixel by pixel."""
    precision, recall, errors = np.zeros(255), np.zeros(255), []
    for p, t in zip(probs, truth, strict=True):
        p, t = p.flatten().tolist(), t.flatten().tolist()
        errors.append(sum(abs(a - b) for a, b in zip(p, t, strict=True)) / len(p))
        salient = sum(b > 0.5 for b in t)
        for k in range(255):
            found = [b > 0.5 for a, b in zip(p, t, strict=True) if a * 255 >= k]
            precision[k] += sum(found) / len(found) if found else 0
            recall[k] += sum(found) / salient if salient else 0
    if not errors:
        return {"MAE": -1.0, "max_F": -1.0}
    pairs = [(a / len(errors), b / len(errors)) for a, b in zip(precision, recall, strict=True)]
    f = [(1 + beta_squared) * a * b / (beta_squared * a + b) if a or b else 0.0 for a, b in pairs]
    return {"MAE": sum(errors) / len(errors), "max_F": max(f)}


def _case(images=3, seed=0, salient=0.4):
    generator = torch.Generator().manual_seed(seed)
    sizes = [torch.randint(1, 7, (2,), generator=generator).tolist() for _ in range(images)]
    # Levels of 8 bits and between them, so that a * 255 is not rounded across a threshold.
    levels = [torch.randint(0, 511, (1, 1, *size), generator=generator) for size in sizes]
    truth = [(torch.rand(1, *size, generator=generator) < salient).float() for size in sizes]
    return [((level / 2 + 0.1).double() / 255).clamp(max=1).float() for level in levels], truth


def _computed(*updates, **options):
    metric = SaliencyMetric(from_logits=False, **options)
    for update in updates:
        metric.update(update)
    return metric.compute()


@settings(max_examples=25, deadline=None)
@given(
    images=st.integers(0, 3),
    seed=st.integers(0, 9999),
    salient=st.sampled_from([0, 0.4, 1]),
    beta=st.sampled_from([0.3, 1]),
)
def test_equals_loops(images, seed, salient, beta):
    probs, truth = _case(images, seed, salient)
    ours = _computed((probs, truth), beta_squared=beta)
    assert ours == pytest.approx(by_loops(probs, truth, beta), abs=2e-9)


def test_borders_of_the_levels():
    probs = torch.tensor([[[[0.0, 1.0, 254.5 / 255, 0.4 / 255]]]])
    metric = SaliencyMetric(from_logits=False)
    metric.update((probs, torch.tensor([[[[0.0, 1.0, 1.0, 0.0]]]])))
    precision, recall, thresholds = metric.curves()
    assert (precision[0], recall[0], thresholds[0]) == (0.5, 1, 0)  # everything is found
    assert precision[1:].tolist() == recall.tolist()[1:] == [1.0] * 254
    assert thresholds[-1] == 254 / 255


def test_soft_truth_counts_in_the_error_and_at_its_half_in_the_curves():
    probs, truth = [torch.tensor([[0.25, 0.75]])], [torch.tensor([[0.5, 0.75]])]
    assert _computed((probs, truth)) == {"MAE": 0.125, "max_F": 1.0}


def test_logits_and_probabilities():
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 1, 8, 9), (torch.rand(2, 1, 8, 9) < 0.5).float()
    metric = SaliencyMetric()
    metric.update((logits, truth))
    assert metric.compute() == pytest.approx(_computed((logits.sigmoid(), truth)), abs=1e-7)


def test_any_batching_gives_the_same_bits():
    torch.manual_seed(0)
    logits, truth = torch.randn(5, 1, 31, 37), (torch.rand(5, 1, 31, 37) < 0.3).float()

    def numbers(*updates):
        metric = SaliencyMetric()
        for update in updates:
            metric.update(update)
        return metric.compute(), [curve.tolist() for curve in metric.curves()]

    whole = numbers((logits, truth))
    assert numbers(*((logits[i : i + 1], truth[i : i + 1]) for i in (3, 1, 4, 0, 2))) == whole
    assert numbers((list(logits[:2, 0]), list(truth[:2, 0])), ([], []), (list(logits[2:]), list(truth[2:]))) == whole
    assert numbers(([x[None] for x in logits], list(truth.bool()))) == whole


def test_mean_absolute_error_equals_ignites():
    torch.manual_seed(0)
    probs, truth = torch.rand(4, 1, 20, 30), (torch.rand(4, 1, 20, 30) < 0.5).float()
    theirs = MeanAbsoluteError()
    theirs.update((probs, truth))
    assert _computed((probs, truth))["MAE"] == pytest.approx(theirs.compute() / (20 * 30), abs=1e-7)


def test_curves_equal_torchmetrics():
    classification = pytest.importorskip("torchmetrics.functional.classification")
    probs, truth = _case(images=1, seed=4)
    metric = SaliencyMetric(from_logits=False)
    metric.update((probs, truth))
    precision, recall, thresholds = metric.curves()
    theirs = classification.binary_precision_recall_curve(
        probs[0].flatten(), truth[0].flatten().long(), thresholds=torch.from_numpy(thresholds).float()
    )
    # Where nothing is found torchmetrics has no precision.
    np.testing.assert_allclose(precision, theirs[0][:-1].nan_to_num(0), atol=1e-6)
    np.testing.assert_allclose(recall, theirs[1][:-1], atol=1e-6)


def test_f_measure():
    f = f_measure(np.array([0.0, 1.0, 0.5, 0.0]), np.array([0.0, 1.0, 0.25, 1.0]))
    assert f.tolist() == pytest.approx([0, 1, 1.3 * 0.125 / 0.4, 0])


def test_without_an_image():
    metric = SaliencyMetric()
    assert metric.compute() == {"MAE": -1.0, "max_F": -1.0}
    assert [curve.shape for curve in metric.curves()] == [(255,)] * 3
    assert metric.curves()[0].max() == 0


def test_in_an_evaluator_and_again_after_a_reset():
    logits = [torch.randn(1, 1, 6, 7), torch.randn(1, 1, 4, 5)]
    truth = [(x[0] > 0).float() for x in logits]
    metric = SaliencyMetric()
    evaluator = Engine(lambda engine, batch: {"y_pred": batch[0], "y": batch[1], "batch_size": 1})
    metric.attach(evaluator, "saliency")
    batches = [([x], [t]) for x, t in zip(logits, truth, strict=True)]
    first = dict(evaluator.run(batches).metrics)
    assert list(first) == ["MAE", "max_F"]
    assert first["max_F"] == 1
    assert evaluator.run(batches).metrics == first


def test_state():
    probs, truth = _case()
    metric, other = SaliencyMetric(from_logits=False), SaliencyMetric(from_logits=False)
    metric.update((probs[:2], truth[:2]))
    state = copy.deepcopy(metric.state_dict())
    metric.update((probs[2:], truth[2:]))
    other.load_state_dict(state)
    other.update((probs[2:], truth[2:]))
    assert other.compute() == metric.compute()
    with pytest.raises(ValueError, match=r"the state has rows of \[3\] integers, the metric of \[512\]"):
        other.load_state_dict({"rows": torch.zeros(2, 3, dtype=torch.int64)})


@pytest.mark.parametrize(
    ("y_pred", "y", "message"),
    [
        ([torch.zeros(2, 2)], [], "one prediction for each target is needed, got 1 and 0"),
        (torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 8, 8), r"must be of one size, got \[4, 4\] and \[8, 8\]"),
        (torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), r"y_pred must have one map .* an image of \[2, 4, 4\]"),
        (torch.zeros(1, 1, 0, 4), torch.zeros(1, 1, 0, 4), r"an image must have pixels, got \[0, 4\]"),
        (torch.full((1, 1, 2, 2), 1.5), torch.zeros(1, 1, 2, 2), r"y_pred must be in 0\.\.1, got 1\.5\.\.1\.5"),
        (torch.full((1, 1, 2, 2), torch.nan), torch.zeros(1, 1, 2, 2), r"y_pred must be in 0\.\.1, got nan\.\.nan"),
        (torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 255), r"y must be in 0\.\.1, got 255\.\.255"),
    ],
)
def test_what_does_not_fit(y_pred, y, message):
    with pytest.raises(ValueError, match=message):
        SaliencyMetric(from_logits=False).update((y_pred, y))


def test_logits_that_are_nan():
    with pytest.raises(ValueError, match=r"the sigmoid of y_pred must be in 0\.\.1, got nan"):
        SaliencyMetric().update((torch.full((1, 1, 2, 2), torch.nan), torch.zeros(1, 1, 2, 2)))
