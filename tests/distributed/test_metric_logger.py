"""The log of several processes: means over all of them, one exchange for each line, one writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events

from ignite_imgtools.formats import resumables
from ignite_imgtools.handlers import MetricLogger
from ignite_imgtools.metrics import MeterBank, SmoothedValue
from tests.distributed.spawn import run_processes


def _step(engine: Engine, batch: Any) -> dict[str, Any]:
    rank, iteration = idist.get_rank(), engine.state.iteration
    return {"loss": torch.tensor(1.0 / (iteration + 10 * rank)), "batch_size": 1 + (iteration + rank) % 3}


def _mean(first: int, last: int, world_size: int = 2) -> float:
    pairs = [(i, rank) for i in range(first, last + 1) for rank in range(world_size)]
    return sum((1 + (i + r) % 3) / (i + 10 * r) for i, r in pairs) / sum(1 + (i + r) % 3 for i, r in pairs)


def _train(folder: str, stop: int | None = None, state: Any = None) -> tuple[Any, Any, int]:
    """Three epochs of seven iterations; returns the logger's state at ``stop``, the last means and the exchanges."""
    trainer = Engine(_step)
    MetricLogger(folder, console=False).attach(trainer, every=3)
    saved: dict[str, Any] = {}
    if stop is not None:

        @trainer.on(Events.ITERATION_COMPLETED(once=stop))
        def save() -> None:
            saved.update(resumables(trainer)["metric_logger"].state_dict())
            trainer.terminate()

    if state is not None:

        @trainer.on(Events.STARTED)
        def load() -> None:
            resumables(trainer)["metric_logger"].load_state_dict(state)
            trainer.state.iteration, trainer.state.epoch = 10, 1

    with patch("torch.distributed.all_reduce", wraps=torch.distributed.all_reduce) as reductions:
        trainer.run(range(7), max_epochs=3)
    return saved, trainer.state.logged, reductions.call_count


def _records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_means_are_over_both_processes_at_one_reduction_a_line(tmp_path: Path) -> None:
    results = run_processes(_train, 2, str(tmp_path))
    records = _records(tmp_path)
    limits = [(1, 3), (4, 6), (7, 7), (8, 10), (11, 13), (14, 14), (15, 17), (18, 20), (21, 21)]
    assert [record["iteration"] for record in records] == [last for _, last in limits]
    assert [r["train/loss"] for r in records] == pytest.approx([_mean(*pair) for pair in limits], rel=1e-6)
    assert [reductions for *_, reductions in results] == [9, 9]
    assert results[0][1]["metrics"] == results[1][1]["metrics"]


def test_a_resumed_run_writes_the_same_lines(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    run_processes(_train, 2, str(straight))
    saved = run_processes(_train, 2, str(broken), 10)[0][0]
    run_processes(_train, 2, str(broken), None, saved)
    assert (broken / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


def test_another_number_of_processes_goes_on_from_the_same_sums(tmp_path: Path) -> None:
    # Stopped within the second interval of the second epoch: 10 is its third iteration.
    saved = run_processes(_train, 2, str(tmp_path), 9)[0][0]
    trainer = Engine(_step)
    logger = MetricLogger(console=False).attach(trainer, every=3)
    logger._meters.load_state_dict(saved)
    assert logger._meters._bank.means()["loss"] == (pytest.approx(_mean(8, 9)), pytest.approx(_mean(8, 9)))


def _uneven() -> tuple[dict[str, float], float]:
    bank = MeterBank()
    rank = idist.get_rank()
    for i in range(3):
        bank.append({"loss": float(i + rank), f"term_{rank}": 1.0 + rank} if rank != 2 else {"text": ""}, rank + 1)
    meter = SmoothedValue()
    if rank != 2:
        meter.update((torch.tensor(float(rank)), 2))
    return {name: mean.total for name, mean in bank.means().items()}, meter.global_avg


def test_processes_may_have_other_terms_or_none() -> None:
    results = run_processes(_uneven, 3)
    means = {"loss": (3 * 1 + 6 * 2) / 9, "term_0": 1.0, "term_1": 2.0}
    for found, global_avg in results:
        assert found == pytest.approx(means)
        assert list(found) == list(results[0][0])
        assert global_avg == 0.5
