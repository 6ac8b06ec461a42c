"""The search for a learning rate, and the profile of a training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ignite_imgtools.engines import GradientUpdate, create_trainer
from ignite_imgtools.recipes.config import ConfigError
from ignite_imgtools.recipes.lr_search import LrSearch, _is_lost, _smooth, _steepest


def _training(scale: float = 1.0) -> tuple[nn.Linear, GradientUpdate, object, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    update = GradientUpdate(optimizer, scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
    truth = torch.tensor([[1.0], [2.0], [3.0], [4.0]])

    def step(engine: object, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return update(engine, model, lambda: scale * (model(batch) - batch @ truth).square().mean())

    return model, update, create_trainer(step, model, update), [torch.randn(8, 4) for _ in range(10)]


def test_a_rate_below_the_divergence_is_suggested_and_the_weights_are_as_before(tmp_path: Path) -> None:
    model, update, trainer, batches = _training()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    LrSearch(tmp_path, iterations=60, start=1e-4, end=100.0).run(trainer, batches, model, update)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    found = json.loads((tmp_path / "find_lr.json").read_text())
    assert len(found["lr"]) == len(found["loss"]) <= 60
    assert found["lr"][:2] == sorted(found["lr"][:2])
    assert all(math.isfinite(loss) for loss in found["loss"])
    # Steps of this quadratic diverge from a rate of about 1 on.
    assert 1e-3 < found["suggestion"] < 1.0
    assert (tmp_path / "find_lr.png").stat().st_size > 1000


def test_the_first_batch_does_not_decide() -> None:
    """Losses of batches that differ much, of which the first one is by chance the lowest of all."""
    rng = np.random.default_rng(0)
    falling = np.concatenate([np.full(30, 10.0), np.linspace(10.0, 2.0, 30), np.linspace(2.0, 20.0, 20)])
    losses = falling * rng.uniform(0.8, 1.2, 80)
    losses[0] = 0.5
    smoothed = _smooth(losses)
    assert len(smoothed) == 80
    assert 25 <= _steepest(smoothed) <= 60
    assert _steepest(np.linspace(1.0, 2.0, 9)) is None
    assert np.allclose(_smooth(np.full(7, 3.0)), 3.0)


def test_a_search_ends_where_the_loss_is_lost() -> None:
    assert not _is_lost([])
    assert not _is_lost([0.1] + [5.0] * 20)  # the lowest one alone says nothing
    assert _is_lost([5.0] * 10 + [100.0] * 5)
    assert _is_lost([5.0, math.nan])


def test_rates_that_are_all_too_high_are_refused(tmp_path: Path) -> None:
    model, update, trainer, batches = _training(scale=1e30)
    with pytest.raises(ConfigError, match="no rate between 10 and 1000 lowers the loss"):
        LrSearch(tmp_path, iterations=20, start=10.0, end=1000.0).run(trainer, batches, model, update)
    assert (tmp_path / "find_lr.json").is_file()
