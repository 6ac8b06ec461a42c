from __future__ import annotations

import math

import pytest
import torch

from ignite_imgtools.losses import ClassificationLoss


def _slow(logits: torch.Tensor, shares: list[list[float]]) -> float:
    losses = []
    for row, share in zip(logits.tolist(), shares, strict=True):
        total = math.log(math.fsum(math.exp(value) for value in row))
        losses.append(math.fsum(s * (total - value) for s, value in zip(share, row, strict=True)))
    return math.fsum(losses) / len(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_labels_and_shares_as_by_hand(smoothing: float) -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 3, 1, 1, 2])
    loss_fn = ClassificationLoss(smoothing)
    truth = [[smoothing / 4 + (1 - smoothing) * (c == label) for c in range(4)] for label in labels.tolist()]
    assert float(loss_fn({"out": logits}, labels)["loss_ce"]) == pytest.approx(_slow(logits, truth), rel=1e-12)
    mixed = 0.3 * torch.eye(4, dtype=torch.float64)[labels] + 0.7 * torch.eye(4, dtype=torch.float64)[labels.roll(1)]
    truth = [[smoothing / 4 + (1 - smoothing) * share for share in row] for row in mixed.tolist()]
    assert float(loss_fn({"out": logits}, mixed)["loss_ce"]) == pytest.approx(_slow(logits, truth), rel=1e-12)


def test_smoothing_has_a_range() -> None:
    with pytest.raises(ValueError, match="label_smoothing must be 0 or more and below 1, got 1"):
        ClassificationLoss(1)
