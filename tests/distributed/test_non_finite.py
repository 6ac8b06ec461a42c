"""Losses that are not finite on one process stop all of them together, with one message."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine
from torch import nn

from ignite_imgtools.distributed import create_parallel_model
from ignite_imgtools.formats import NonFiniteError
from ignite_imgtools.handlers import NonFiniteWatch, attach_checkpoints, load_checkpoint
from tests.distributed.spawn import run_processes


def _train(folder: Path, rank_at_fault: int, told: str) -> tuple[int, str]:
    torch.manual_seed(0)
    model = create_parallel_model(nn.Linear(3, 2), "cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        bad = engine.state.iteration == 4 and idist.get_rank() == rank_at_fault
        optimizer.zero_grad()
        loss = model(torch.full((2, 3), math.nan if bad else 1.0)).pow(2).sum()
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
        optimizer.step()
        if told == "loss as a number":
            return {"loss": loss.item(), "loss_box": loss.item()}
        output = {"loss": loss.detach(), "loss_box": loss.detach()}
        return output | {"grad_norm": norm} if told == "gradient norm" else output

    trainer = Engine(step)
    attach_checkpoints(trainer, None, {"model": model}, folder, every=1)
    rank = idist.get_rank()
    batches = [(None, [{"image_id": 100 * rank + i}]) for i in range(1, 11)]
    with pytest.raises(NonFiniteError) as caught:
        trainer.run(batches)
    return trainer.state.iteration, str(caught.value)


@pytest.mark.parametrize("told", ["gradient norm", "loss", "loss as a number"])
@pytest.mark.parametrize("rank", [0, 1])
def test_all_stop_with_the_one_message_that_names_the_rank(tmp_path: Path, rank: int, told: str) -> None:
    stopped = run_processes(_train, 2, tmp_path, rank, told)
    assert stopped[0] == stopped[1]
    iteration, message = stopped[0]
    assert iteration == 4  # the checkpoint that was due looks first
    what = "gradient norm" if told == "gradient norm" else "loss"
    assert message.startswith(
        f"iteration 4: the {what} is nan; rank {rank}: loss nan, loss_box nan, image ids [{100 * rank + 4}]; no "
    )
    state = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    assert state["trainer"]["iteration"] == 3
    assert all(weight.isfinite().all() for weight in state["model"].values())


def _overflow() -> int:
    # Gradients overflow on one process and are reduced: all see the norm, each its own finite loss.
    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        norm = torch.tensor(math.inf if engine.state.iteration == 2 else 1.0)
        return {"loss": torch.tensor(1.0), "grad_norm": norm, "loss_scale": torch.tensor(8.0)}

    trainer = Engine(step)
    NonFiniteWatch().attach(trainer)
    return trainer.run(range(5)).iteration


def test_overflows_of_a_loss_scaler_are_tolerated() -> None:
    assert run_processes(_overflow, 2) == [5, 5]


def _losses_of_different_types(kinds: tuple[str, str]) -> tuple[int, str]:
    create = {
        "number": lambda value: value,
        "float32": lambda value: torch.tensor(value),
        "float64": lambda value: torch.tensor(value, dtype=torch.float64),
        "bfloat16": lambda value: torch.tensor([value], dtype=torch.bfloat16),
        "int64": lambda value: torch.tensor(0),
    }[kinds[idist.get_rank()]]
    trainer = Engine(lambda engine, batch: {"loss": create(math.nan if engine.state.iteration == 3 else 1.0)})
    NonFiniteWatch().attach(trainer)
    with pytest.raises(NonFiniteError) as caught:
        trainer.run(range(5))
    return trainer.state.iteration, str(caught.value)


@pytest.mark.parametrize(
    "kinds", [("number", "float32"), ("float64", "float32"), ("float32", "bfloat16"), ("int64", "float32")]
)
def test_processes_may_have_losses_of_different_types(kinds: tuple[str, str]) -> None:
    one, other = run_processes(_losses_of_different_types, 2, kinds)
    assert one == other
    assert one[0] == 4
    assert one[1].startswith("iteration 3: the loss is nan; ")
