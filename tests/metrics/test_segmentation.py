"""SegmentationMetric against loops over pixels, against ignite and against torchmetrics."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from ignite.metrics import ConfusionMatrix, DiceCoefficient, IoU, mIoU
from ignite.metrics.confusion_matrix import cmAccuracy

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics import SegmentationMetric, class_scores, pixel_confusion
from tests.metrics.random_maps import random_maps


def by_loops(predicted, true, num_classes, ignore_index=255):
    """All numbers from sets of pixels, class by class."""
    p, t = ([v for image in maps for v in image.flatten().tolist()] for maps in (predicted, true))
    pixels = [i for i in range(len(t)) if t[i] != ignore_index]
    classes = {}
    for c in range(num_classes):
        mine, found = {i for i in pixels if t[i] == c}, {i for i in pixels if p[i] == c}
        if mine:
            classes[c] = (
                len(mine & found) / len(mine),
                len(mine & found) / len(mine | found),
                2 * len(mine & found) / (len(mine) + len(found)),
            )
    result = {"pixel_accuracy": sum(p[i] == t[i] for i in pixels) / len(pixels) if pixels else -1.0}
    for k, name in enumerate(("accuracy", "IoU", "dice")):
        result[f"mean_{name}"] = sum(v[k] for v in classes.values()) / len(classes) if classes else -1.0
    foreground = [v[2] for c, v in classes.items() if c > 0]
    result["dice_foreground"] = sum(foreground) / len(foreground) if foreground else -1.0
    for k, name in ((1, "IoU"), (2, "dice")):
        result |= {f"{name}/{c}": classes[c][k] if c in classes else -1.0 for c in range(num_classes)}
    return result


def _computed(num_classes, *updates, **options):
    metric = SegmentationMetric(num_classes, per_class=True, **options)
    for update in updates:
        metric.update(update)
    return metric.compute()


@settings(max_examples=40, deadline=None)
@given(
    num_classes=st.integers(2, 7),
    images=st.integers(0, 4),
    seed=st.integers(0, 9999),
    ignored=st.sampled_from([0, 0.3, 1]),
)
def test_equals_loops(num_classes, images, seed, ignored):
    logits, truth = random_maps(num_classes, images, seed, classes=max(1, num_classes - seed % 3), ignored=ignored)
    expected = by_loops([x.argmax(1) for x in logits], truth, num_classes)
    assert _computed(num_classes, (logits, truth)) == pytest.approx(expected, abs=1e-12)


def test_any_batching_gives_the_same_bits():
    logits, truth = random_maps(images=6)
    whole = _computed(5, (logits, truth))
    assert _computed(5, *(([x], [t]) for x, t in zip(logits[::-1], truth[::-1], strict=True))) == whole
    assert _computed(5, (logits[:4], truth[:4]), ([], []), (logits[4:], truth[4:])) == whole
    # As maps, as one tensor, in other dtypes.
    assert _computed(5, ([x.argmax(1) for x in logits], [t.byte() for t in truth])) == whole
    flat = torch.cat([x.flatten(2) for x in logits], dim=2).unsqueeze(2)
    assert _computed(5, (flat, torch.cat([t.flatten(1) for t in truth], dim=1).unsqueeze(1).int())) == whole


def test_equals_ignite():
    torch.manual_seed(0)
    logits, truth = torch.randn(3, 4, 9, 8), torch.randint(0, 4, (3, 9, 8))
    truth[torch.rand(truth.shape) < 0.2] = 255
    cm = ConfusionMatrix(4)
    theirs = {"IoU": IoU(cm), "dice": DiceCoefficient(cm), "mean_IoU": mIoU(cm), "pixel_accuracy": cmAccuracy(cm)}
    cm.update((logits, truth))
    ours = _computed(4, (logits, truth))
    assert torch.equal(pixel_confusion(logits, truth, 4), cm.confusion_matrix)
    assert ours["mean_IoU"] == pytest.approx(theirs["mean_IoU"].compute().item(), abs=1e-12)
    assert ours["pixel_accuracy"] == pytest.approx(theirs["pixel_accuracy"].compute().item(), abs=1e-12)
    for name in ("IoU", "dice"):
        assert [ours[f"{name}/{c}"] for c in range(4)] == pytest.approx(theirs[name].compute().tolist(), abs=1e-12)


def test_equals_torchmetrics():
    classification = pytest.importorskip("torchmetrics.functional.classification")
    torch.manual_seed(0)
    logits, truth = torch.randn(3, 4, 9, 8), torch.randint(0, 4, (3, 9, 8))
    truth[torch.rand(truth.shape) < 0.2] = 255
    ours = _computed(4, (logits, truth))
    arguments = (logits, truth, 4)
    matrix = classification.multiclass_confusion_matrix(*arguments, ignore_index=255)
    assert torch.equal(pixel_confusion(*arguments), matrix)
    jaccard = classification.multiclass_jaccard_index(*arguments, average="none", ignore_index=255)
    assert [ours[f"IoU/{c}"] for c in range(4)] == pytest.approx(jaccard.tolist(), abs=1e-6)
    recall = classification.multiclass_recall(*arguments, average="macro", ignore_index=255)
    assert ours["mean_accuracy"] == pytest.approx(recall.item(), abs=1e-6)
    f1 = classification.multiclass_f1_score(*arguments, average="none", ignore_index=255)
    assert [ours[f"dice/{c}"] for c in range(4)] == pytest.approx(f1.tolist(), abs=1e-6)


def test_absent_classes_are_left_out_and_listed():
    # Perfect on two classes; the third is nowhere, the fourth only predicted on an ignored pixel.
    truth = torch.tensor([[[0, 0, 1, 255]]])
    predicted = torch.tensor([[[0, 0, 1, 3]]])
    metric = SegmentationMetric(4, class_names=["a", "b", "c", "d"], per_class=True)
    metric.update((predicted, truth))
    result = metric.compute()
    assert {result[f"mean_{name}"] for name in ("accuracy", "IoU", "dice")} == {1.0}
    assert (result["IoU/c"], result["dice/d"]) == (-1.0, -1.0)
    assert metric.absent_classes() == ["c", "d"]
    # Predicted where it is not, it is still left out of the mean; the class it was taken for suffers.
    metric.update((torch.tensor([[[2, 0]]]), torch.tensor([[[0, 0]]])))
    result = metric.compute()
    assert metric.absent_classes() == ["c", "d"]
    assert (result["mean_IoU"], result["IoU/c"]) == ((0.75 + 1) / 2, -1.0)
    zero = SegmentationMetric(4, absent_as_zero=True)
    zero.update((predicted, truth))
    cm = ConfusionMatrix(4)
    theirs = mIoU(cm)
    cm.update((torch.nn.functional.one_hot(predicted, 4).permute(0, 3, 1, 2), truth))
    assert zero.compute()["mean_IoU"] == pytest.approx(theirs.compute().item()) == 0.5


def test_without_an_image():
    metric = SegmentationMetric(2, per_class=True)
    assert set(metric.compute().values()) == {-1.0}
    assert metric.absent_classes() == ["0", "1"]


@pytest.mark.parametrize("ignore_index", [-1, -100, 0, 2, 255, 300])
@pytest.mark.parametrize("num_classes", [4, 120, 200, 254, 255, 256, 300])
def test_any_ignored_value_and_number_of_classes(ignore_index, num_classes):
    rng = np.random.default_rng(num_classes)
    predicted = torch.from_numpy(rng.integers(num_classes, size=(2, 30, 30)))
    true = torch.from_numpy(rng.integers(num_classes, size=(2, 30, 30)))
    true[torch.from_numpy(rng.random((2, 30, 30)) < 0.3)] = ignore_index
    expected = np.zeros((num_classes, num_classes), dtype=np.int64)
    for p, t in zip(predicted.flatten().tolist(), true.flatten().tolist(), strict=True):
        if t != ignore_index:
            expected[t, p] += 1
    matrix = pixel_confusion(predicted, true, num_classes, ignore_index=ignore_index)
    assert matrix.dtype == torch.int64
    assert np.array_equal(matrix.numpy(), expected)


@pytest.mark.parametrize("wrong", [-1, 3, 254, 256, 70000])
@pytest.mark.parametrize("ignore_index", [255, -100])
def test_true_classes_that_cannot_be(wrong, ignore_index):
    true = torch.tensor([[[0, 1, wrong, wrong, ignore_index]]])
    message = rf"has 2 pixels whose class is neither in 0\.\.2 nor {ignore_index} \(ignored\); set num_classes"
    with pytest.raises(DataError, match=message):
        pixel_confusion(torch.zeros(1, 1, 5, dtype=torch.int64), true, 3, ignore_index=ignore_index)
    metric = SegmentationMetric(3, ignore_index=ignore_index)
    metric.update((torch.zeros(1, 1, 5, dtype=torch.int64), true))  # found where all processes learn of it
    with pytest.raises(DataError, match=message):
        metric.compute()


def test_class_scores():
    scores = class_scores(np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))
    assert scores["accuracy"].tolist()[:2] == [3 / 4, 4 / 6]
    assert scores["IoU"].tolist()[:2] == [3 / 6, 4 / 7]
    assert scores["dice"].tolist()[:2] == [6 / 9, 8 / 11]
    assert np.isnan([values[2] for values in scores.values()]).all()


def test_in_an_evaluator_and_again_after_a_reset():
    logits, truth = random_maps()
    metric = SegmentationMetric(5, class_names=list("abcde"), per_class=True)
    evaluator = Engine(lambda engine, batch: {"y_pred": batch[0], "y": batch[1], "batch_size": 1})
    metric.attach(evaluator, "segmentation")
    batches = [([x], [t]) for x, t in zip(logits, truth, strict=True)]
    first = copy.deepcopy(evaluator.run(batches).metrics)
    assert first == metric.compute()
    assert list(first)[:6] == ["pixel_accuracy", "mean_accuracy", "mean_IoU", "mean_dice", "dice_foreground", "IoU/a"]
    assert evaluator.run(batches).metrics == first


def test_state():
    logits, truth = random_maps()
    metric, other = SegmentationMetric(5), SegmentationMetric(5)
    metric.update((logits[:2], truth[:2]))
    state = copy.deepcopy(metric.state_dict())
    metric.update((logits[2:], truth[2:]))
    other.load_state_dict(state)
    other.update((logits[2:], truth[2:]))
    assert other.compute() == metric.compute()
    assert {value.dtype for value in state.values()} == {torch.int64}
    with pytest.raises(ValueError, match="the state is of 5 classes, the metric of 4"):
        SegmentationMetric(4).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes counts the background and must be at least 2, got 1"),
        ({"num_classes": 2, "class_names": ["a"]}, r"class_names must be 2 different names, got \['a'\]"),
        ({"num_classes": 2, "class_names": ["a", "a"]}, "class_names must be 2 different names"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        SegmentationMetric(**arguments)
