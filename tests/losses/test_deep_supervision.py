from __future__ import annotations

import math

import pytest
import torch

from ignite_imgtools.losses import DeepSupervisionLoss
from tests.engines.reads import CountReads


def test_seven_terms():
    torch.manual_seed(0)
    maps = [torch.randn(2, 1, 3, 4) for _ in range(7)]
    targets = torch.rand(2, 1, 3, 4)
    terms = DeepSupervisionLoss()({"out": maps[0], "sides": maps[1:]}, targets)
    assert list(terms) == ["loss_fused", *(f"loss_side{number}" for number in range(1, 7))]
    for logits, term in zip(maps, terms.values(), strict=True):
        pairs = zip(logits.double().flatten().tolist(), targets.double().flatten().tolist(), strict=True)
        losses = [t * math.log1p(math.exp(-x)) + (1 - t) * math.log1p(math.exp(x)) for x, t in pairs]
        assert term.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_the_output_alone_in_evaluation():
    assert list(DeepSupervisionLoss()({"out": torch.zeros(1, 1, 2, 2)}, torch.zeros(1, 1, 2, 2))) == ["loss_fused"]


def test_does_not_wait_for_the_device():
    maps = [torch.randn(1, 1, 3, 4, requires_grad=True) for _ in range(7)]
    with CountReads() as counter:
        terms = DeepSupervisionLoss()({"out": maps[0], "sides": maps[1:]}, torch.rand(1, 1, 3, 4))
        torch.stack(list(terms.values())).sum().backward()
    assert not counter.reads


def test_large_logits_in_low_precision():
    logits = torch.full((1, 1, 2, 2), 1000.0, dtype=torch.float16)
    terms = DeepSupervisionLoss()({"out": logits}, torch.zeros(1, 1, 2, 2))
    assert terms["loss_fused"].dtype == torch.float32
    assert terms["loss_fused"].item() == 1000
