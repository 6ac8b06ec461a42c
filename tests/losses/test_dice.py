from __future__ import annotations

import pytest
import torch

from ignite_imgtools.losses import dice_loss
from tests.engines.reads import CountReads


def _by_loops(logits, targets, epsilon=1e-6, ignore_index=255):
    probs = logits.double().softmax(1)
    values = []
    for p, t in zip(probs, targets, strict=True):
        pixels = [(y, x) for y in range(t.shape[0]) for x in range(t.shape[1]) if t[y, x] != ignore_index]
        for c in range(len(p)):
            overlap = sum(float(p[c, y, x]) for y, x in pixels if t[y, x] == c)
            total = sum(float(p[c, y, x]) + float(t[y, x] == c) for y, x in pixels)
            values.append((2 * overlap + epsilon) / (total + epsilon))
    return 1 - sum(values) / len(values)


def _case(ignored=0.3, seed=0):
    torch.manual_seed(seed)
    targets = torch.randint(0, 4, (3, 5, 6))
    targets[torch.rand(targets.shape) < ignored] = 255
    return 3 * torch.randn(3, 4, 5, 6), targets


@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_equals_loops(ignored):
    logits, targets = _case(ignored)
    assert dice_loss(logits, targets).item() == pytest.approx(_by_loops(logits, targets), abs=1e-6)


def test_a_class_that_nothing_has_is_perfect():
    logits = torch.full((1, 3, 2, 2), -100.0)
    logits[:, 0] = 100.0
    assert dice_loss(logits, torch.zeros(1, 2, 2, dtype=torch.int64)).item() == 0
    # All ignored, so nothing is wrong, and the gradient is a number.
    logits.requires_grad_()
    loss = dice_loss(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_ignored_pixels_take_no_part():
    logits, targets = _case()
    logits.requires_grad_()
    dice_loss(logits, targets).backward()
    ignored = (targets == 255).unsqueeze(1).expand_as(logits)
    assert torch.equal(logits.grad[ignored], torch.zeros_like(logits.grad[ignored]))
    assert (logits.grad[~ignored] != 0).any()
    other = torch.where(ignored, 7.0, logits.detach())
    assert torch.equal(dice_loss(other, targets), dice_loss(logits, targets))


@pytest.mark.parametrize("ignore_index", [-1, 2])
def test_another_ignored_value(ignore_index):
    logits, targets = _case()
    targets[targets == 255] = ignore_index
    expected = _by_loops(logits, targets, ignore_index=ignore_index)
    assert dice_loss(logits, targets, ignore_index=ignore_index).item() == pytest.approx(expected, abs=1e-6)


def test_gradient():
    logits, targets = _case()
    logits = logits.double().requires_grad_()
    step = torch.randn_like(logits)
    (gradient,) = torch.autograd.grad(dice_loss(logits, targets), logits)
    h = 1e-5
    rise = _by_loops(logits.detach() + h * step, targets) - _by_loops(logits.detach() - h * step, targets)
    assert (gradient * step).sum().item() == pytest.approx(rise / (2 * h), rel=1e-4)


def test_low_precision_is_summed_in_float32():
    logits, targets = _case()
    logits = logits.bfloat16()
    loss = dice_loss(logits, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(_by_loops(logits, targets), abs=1e-6)


def test_does_not_wait_for_the_device():
    logits, targets = _case()
    logits.requires_grad_()
    with CountReads() as counter:
        dice_loss(logits, targets).backward()
    assert not counter.reads
