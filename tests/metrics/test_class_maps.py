from __future__ import annotations

import pytest
import torch

from ignite_imgtools.metrics import class_maps
from ignite_imgtools.metrics.class_maps import pairs_of_class_maps, predicted_classes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "shape", [(2, 21, 9, 7), (1, 2, 1, 1), (3, 1, 4, 4), (2, 255, 3, 5), (2, 300, 3, 5), (0, 4, 3, 3)]
)
def test_equals_argmax(dtype, shape, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(class_maps, "_BLOCK", 10)
    logits = torch.randn(shape).to(dtype)
    assert torch.equal(predicted_classes(logits).long(), logits.argmax(1))


def test_the_first_of_equals():
    torch.manual_seed(0)
    logits = torch.randint(-2, 2, (3, 6, 8, 5)).float()
    logits[0, :, 0, 0] = -torch.inf
    logits[0, 2:4, 1, 1] = torch.inf
    best = logits.max(1).values
    expected = torch.full_like(best, 5)
    for c in reversed(range(5)):
        expected[logits[:, c] == best] = c
    assert torch.equal(predicted_classes(logits).float(), expected)


def test_strides_and_nan():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 6, 7)
    for view in (logits.to(memory_format=torch.channels_last), logits[:, :, ::2, 1:], logits.transpose(2, 3)):
        assert torch.equal(predicted_classes(view).long(), view.argmax(1))
    logits[0, 3, 2, 2] = torch.nan
    assert torch.equal(predicted_classes(logits), logits.argmax(1))


def test_tensors_and_lists_give_the_same_pairs():
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    ((predicted, true),) = pairs_of_class_maps(logits, truth, 3)
    assert torch.equal(true, truth)
    assert torch.equal(predicted.long(), logits.argmax(1))
    for y_pred in (
        list(logits),
        [x[None] for x in logits],
        list(logits.argmax(1)),
        [x[None] for x in logits.argmax(1)],
    ):
        for y in (list(truth), [x[None] for x in truth]):
            pairs = list(pairs_of_class_maps(y_pred, y, 3))
            assert torch.equal(torch.cat([p for p, _ in pairs]).long(), predicted.long())
            assert torch.equal(torch.cat([t for _, t in pairs]), truth)
    assert list(pairs_of_class_maps([], [], 3)) == []


@pytest.mark.parametrize(
    ("y_pred", "y", "message"),
    [
        (torch.zeros(1, 3, 4, 4), [torch.zeros(4, 4).long()], "two tensors or two lists, got a tensor and a list"),
        ([torch.zeros(3, 4, 4)], [], "one prediction for each target is needed, got 1 and 0"),
        (torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4).long(), r"logits must be \[B, 3, H, W\], got \[1, 2, 4, 4\]"),
        (torch.zeros(4, 4), torch.zeros(4, 4).long(), r"logits must be \[B, 3, H, W\], got \[4, 4\]"),
        (
            torch.zeros(1, 3, 4, 4),
            torch.zeros(1, 8, 8).long(),
            r"y must be integer \[1, 4, 4\] .* \[1, 8, 8\]; enlarge",
        ),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4), "y must be integer .* got torch.float32"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1, 4, 4).long(), r"y must be integer \[2, 4, 4\]"),
        (torch.full((1, 2, 2), 3), torch.zeros(1, 2, 2).long(), r"predicted classes must be in 0\.\.2, got 3\.\.3"),
        (torch.full((1, 2, 2), -1), torch.zeros(1, 2, 2).long(), r"predicted classes must be in 0\.\.2, got -1\.\.-1"),
    ],
)
def test_what_does_not_fit(y_pred, y, message):
    with pytest.raises(ValueError, match=message):
        list(pairs_of_class_maps(y_pred, y, 3))
