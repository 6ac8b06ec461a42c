"""Where the time of a step goes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import nn

from ignite_imgtools.engines import GradientUpdate, create_trainer
from ignite_imgtools.handlers import attach_profile
from ignite_imgtools.handlers.profile import PHASES


class _Slow(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return super().forward(x)


def _run(folder: Path, epochs: int, **options: int) -> nn.Module:
    model = _Slow(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    update = GradientUpdate(optimizer)

    def step(engine: Any, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return update(engine, model, lambda: model(batch).square().mean())

    trainer = create_trainer(step, model, update)
    attach_profile(folder, trainer, model, optimizer, **options)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: time.sleep(0.01))
    # Evaluations and the like are no part of an iteration.
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: time.sleep(0.3))
    trainer.run([torch.ones(2, 4)] * 3, max_epochs=epochs)
    return model


def test_the_table_has_the_time_of_each_phase_and_the_trace_loads(tmp_path: Path) -> None:
    model = _run(tmp_path, epochs=4, warmup=2, steps=5)
    lines = (tmp_path / "profile" / "table.txt").read_text().splitlines()
    seconds = {line[:20].strip(): float(line[20:35]) / 1000 for line in lines[1 : len(PHASES) + 2]}
    assert list(seconds)[:-1] == list(PHASES)
    assert 0.02 <= seconds["forward"] < 0.2
    assert 0.01 <= seconds["handlers"] < 0.2
    assert lines[len(PHASES) + 1].startswith("all, of 5 iterations")
    assert max(seconds["to device"], seconds["data wait"]) < 0.02
    events = json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]
    assert {"forward", "loss and backward", "optimizer"} <= {event.get("name") for event in events}
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


@pytest.mark.parametrize(("warmup", "written"), [(100, False), (4, True)])
def test_a_run_that_ends_before_has_what_there_was(warmup: int, written: bool, tmp_path: Path) -> None:
    model = _run(tmp_path, epochs=2, warmup=warmup, steps=50)
    assert (tmp_path / "profile" / "table.txt").exists() == written
    assert not model._forward_hooks
