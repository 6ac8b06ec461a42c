from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ignite_imgtools.losses import SegmentationLoss, cross_entropy, dice_loss
from tests.engines.reads import CountReads


def _case(num_classes=4, ignored=0.3):
    torch.manual_seed(0)
    targets = torch.randint(0, num_classes, (2, 5, 6))
    targets[torch.rand(targets.shape) < ignored] = 255
    return torch.randn(2, num_classes, 5, 6), targets


@pytest.mark.parametrize("class_weights", [None, [1.0, 2.0, 0.0, 0.5]])
@pytest.mark.parametrize("ignore_index", [255, -100, 1])
def test_cross_entropy_equals_torchs(class_weights, ignore_index):
    logits, targets = _case()
    targets[targets == 255] = ignore_index
    weights = None if class_weights is None else torch.tensor(class_weights)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = cross_entropy(ours, targets, weights, ignore_index=ignore_index)
    expected = F.cross_entropy(theirs, targets, weights, ignore_index=ignore_index)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("class_weights", [None, torch.tensor([1.0, 2.0])])
def test_a_batch_without_a_pixel_to_learn_from(class_weights):
    logits, targets = torch.randn(1, 2, 3, 3, requires_grad=True), torch.full((1, 3, 3), 255)
    loss = cross_entropy(logits, targets, class_weights)
    loss.backward()
    assert loss.item() == 0  # torch's is NaN
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_classes_of_weight_0_alone():
    loss = cross_entropy(torch.randn(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.int64), torch.tensor([0.0, 1.0]))
    assert loss.item() == 0


def test_terms_sum_to_the_loss_of_the_recipe():
    logits, targets = _case(num_classes=2)
    aux = torch.randn_like(logits)
    weights = torch.tensor([1.0, 2.0])
    terms = SegmentationLoss([1.0, 2.0], dice=True)({"out": logits, "aux": aux}, targets)

    def both(logits):
        return F.cross_entropy(logits, targets, weights, ignore_index=255) + dice_loss(logits, targets)

    assert list(terms) == ["loss_ce", "loss_dice", "loss_aux"]
    assert {term.dim() for term in terms.values()} == {0}
    torch.testing.assert_close(terms["loss_aux"], 0.5 * both(aux))
    torch.testing.assert_close(sum(terms.values()), both(logits) + 0.5 * both(aux))


def test_terms_follow_the_output_and_the_arguments():
    logits, targets = _case()
    assert list(SegmentationLoss()({"out": logits}, targets)) == ["loss_ce"]
    assert list(SegmentationLoss(dice=True)({"out": logits}, targets)) == ["loss_ce", "loss_dice"]
    terms = SegmentationLoss(aux_weight=0.25)({"out": logits, "aux": logits}, targets)
    torch.testing.assert_close(terms["loss_aux"], terms["loss_ce"] / 4)


def test_class_weights():
    logits, targets = _case()
    with pytest.raises(ValueError, match="class_weights must have one for each of 4 classes, got 2"):
        SegmentationLoss([1.0, 2.0])({"out": logits}, targets)
    loss_fn = SegmentationLoss([1, 2, 3, 4])
    assert loss_fn.class_weights.dtype == torch.float32
    assert not loss_fn.state_dict()  # an argument, no state


@pytest.mark.parametrize("class_weights", [None, [1.0, 2.0, 0.0, 0.5]])
def test_does_not_wait_for_the_device(class_weights):
    logits, targets = _case()
    logits.requires_grad_()
    loss_fn = SegmentationLoss(class_weights, dice=True)
    with CountReads() as counter:
        torch.stack(list(loss_fn({"out": logits, "aux": logits}, targets).values())).sum().backward()
    assert not counter.reads


def test_low_precision():
    logits, targets = _case()
    terms = SegmentationLoss(dice=True)({"out": logits.bfloat16()}, targets)
    assert {term.dtype for term in terms.values()} == {torch.float32}
