"""Logs, TensorBoard and curves of a run that broke off and went on are those of one without a break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ignite_imgtools import handlers
from ignite_imgtools.handlers.run_files import read_metrics


def _train(folder: Path, fail_at: int | None = None, max_epochs: int = 3) -> None:
    weight = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(weight.weight, 2.0)
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.1, momentum=0.5)

    def step(engine: Engine, batch: int) -> dict[str, Any]:
        if engine.state.iteration == fail_at:
            raise RuntimeError("power cut")
        optimizer.zero_grad()
        loss = (weight(torch.ones(1, 1)) * engine.state.iteration).pow(2).mean() / 100
        loss.backward()
        optimizer.step()
        engine.state.lr = [group["lr"] for group in optimizer.param_groups]
        return {"loss": loss.detach(), "batch_size": 1 + engine.state.iteration % 4}

    trainer, evaluator = Engine(step), Engine(lambda engine, batch: None)

    @evaluator.on(Events.EPOCH_COMPLETED)
    def measure() -> None:
        evaluator.state.metrics["AP"] = weight.weight.item()

    to_save = {"model": weight, "optimizer": optimizer}
    # The order of attachment must not matter, so it is an unusual one.
    handlers.attach_checkpoints(trainer, evaluator, to_save, folder, best="AP", every=4, resume="auto")
    handlers.attach_tensorboard(folder, trainer, optimizer, {"val": evaluator})
    handlers.attach_curves(folder, trainer)
    handlers.evaluate_on_epoch(trainer, evaluator, [0])
    handlers.MetricLogger(folder, console=False).attach(trainer, every=3)
    handlers.attach_evaluation_files(folder, trainer, evaluator)
    trainer.run(range(7), max_epochs=max_epochs)


def _points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if "time" not in tag]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    _train(folder)
    return folder


@pytest.mark.parametrize("fail_at", [2, 8, 11, 14])
def test_everything_that_is_logged_is_the_same(straight: Path, tmp_path: Path, fail_at: int) -> None:
    broken = tmp_path / "broken"
    with pytest.raises(RuntimeError, match="power cut"):
        _train(broken, fail_at)
    _train(broken)
    assert (broken / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    assert len(list(read_metrics(straight / "metrics.jsonl"))) == 12
    assert _points(broken) == _points(straight)
    assert set(_points(straight)) == {"train/loss", "train/lr/group_0", "val/AP"}
    for name in ("plots/loss_and_lr.png", "plots/metric.png", "eval/metrics.json"):
        assert (broken / name).read_bytes() == (straight / name).read_bytes()


def test_a_finished_run_that_is_prolonged_goes_on_with_its_lines(straight: Path, tmp_path: Path) -> None:
    prolonged = tmp_path / "prolonged"
    _train(prolonged, max_epochs=2)
    _train(prolonged, max_epochs=3)
    assert (prolonged / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    before = (prolonged / "metrics.jsonl").read_bytes()
    _train(prolonged, max_epochs=3)  # nothing is left to do
    assert (prolonged / "metrics.jsonl").read_bytes() == before
