"""The log: its line, its files, and what they say after a resume."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch.utils._python_dispatch import TorchDispatchMode

from ignite_imgtools.formats import TrainerEvents, resumables
from ignite_imgtools.handlers import MetricLogger, evaluate_on_epoch
from ignite_imgtools.handlers.metric_logger import evaluation_line, training_line
from ignite_imgtools.handlers.training_meters import TermReading, TrainingReading

_READING = TrainingReading(
    epoch=1,
    iteration=10,
    position=10,
    epoch_length=25,
    eta=72.9,
    lr=[0.001, 0.01],
    terms={"loss": TermReading(0.0909, 0.27449, 0.3)},
    time=0.01034,
    data_time=0.00021,
    interval_time=0.011,
    interval_data_time=0.0003,
)


def _trainer(step: Any = None) -> Engine:
    def default(engine: Engine, batch: Any) -> dict[str, Any]:
        engine.state.lr = [0.1 / engine.state.epoch]
        return {"loss": torch.tensor(1.0 / engine.state.iteration), "batch_size": 1 + engine.state.iteration % 3}

    return Engine(step or default)


def _records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _mean(first: int, last: int) -> float:
    iterations = range(first, last + 1)
    return sum((1 + i % 3) / i for i in iterations) / sum(1 + i % 3 for i in iterations)


def test_the_line_is_the_one_people_know() -> None:
    assert training_line(_READING) == (
        "Epoch: [1]  [10/25]  eta: 0:01:12  lr: 0.001000  loss: 0.0909 (0.2745)  time: 0.0103  data: 0.0002"
    )
    early = _READING._replace(position=7, lr=[])
    assert training_line(early).startswith("Epoch: [1]  [ 7/25]  eta: 0:01:12  loss: ")
    assert training_line(_READING._replace(epoch_length=None, eta=None)).startswith("Epoch: [1]  [10/?]  eta: ?  lr: ")
    assert evaluation_line("val", 2, {"bbox/AP": math.nan}) == "Evaluation: [2]  val/bbox/AP: nan"


def test_files_hold_a_line_every_few_iterations_and_at_the_end_of_each_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, evaluator = _trainer(), Engine(lambda engine, batch: None)
    logger = MetricLogger(tmp_path, bar=False)
    assert logger.attach(trainer, every=3) is logger
    evaluate_on_epoch(trainer, evaluator, [0])

    @evaluator.on(Events.EPOCH_COMPLETED)
    def metrics() -> None:
        evaluator.state.metrics.update({"AP": 0.5, "bad": math.nan, "matrix": torch.eye(2), "bbox/AP/cat": 0.25})

    trainer.run(range(7), max_epochs=2)
    records = _records(tmp_path)
    train = [record for record in records if "train/loss" in record]
    assert [(r["epoch"], r["iteration"], r["lr"]) for r in train] == [
        *((1, i, 0.1) for i in (3, 6, 7)),
        *((2, i, 0.05) for i in (10, 13, 14)),
    ]
    expected = [_mean(*limits) for limits in ((1, 3), (4, 6), (7, 7), (8, 10), (11, 13), (14, 14))]
    assert [r["train/loss"] for r in train] == pytest.approx(expected, rel=1e-6)
    assert records[3] == {"epoch": 1, "iteration": 7, "val/AP": 0.5, "val/bad": None, "val/bbox/AP/cat": 0.25}
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()

    log = (tmp_path / "log.txt").read_text()
    assert capsys.readouterr().out == log
    lines = log.splitlines()
    assert re.fullmatch(
        r"Epoch: \[1\]  \[3/7\]  eta: 0:00:00  lr: 0\.100000  loss: 0\.5000 \(0\.6389\)"
        r"  time: \d\.\d{4}  data: \d\.\d{4}(  max mem: \d+)?",
        lines[0],
    )
    assert re.fullmatch(r"Epoch: \[1\]  Total time: 0:00:00 \(\d\.\d{4} s / it\)", lines[3])
    assert lines[4] == "Evaluation: [1]  val/AP: 0.5000  val/bad: nan"
    # Median of the window and mean of the epoch, both from the epoch's first iteration on.
    assert f"loss: {1 / 11:.4f} ({_mean(8, 14):.4f})" in lines[7]


def test_it_tells_others_what_it_logged() -> None:
    trainer, told = _trainer(), []
    MetricLogger(console=False).attach(trainer, every=2)
    assert trainer.state.log_every == 2
    trainer.add_event_handler(TrainerEvents.METRICS_LOGGED, lambda: told.append(trainer.state.logged))
    trainer.run(range(4), max_epochs=1)
    assert [logged["iteration"] for logged in told] == [2, 4]
    assert told[1]["metrics"] == {"loss": pytest.approx(_mean(3, 4))}
    assert told[1]["lr"] == [0.1]
    assert told[1]["time"] >= told[1]["data_time"] >= 0


@pytest.mark.parametrize("output", [2.0, 2, torch.tensor(2.0), torch.tensor([2.0]), {"loss": 2.0}])
def test_a_plain_engine_may_return_a_number_a_tensor_or_a_dict(tmp_path: Path, output: Any) -> None:
    trainer = _trainer(lambda engine, batch: output)
    MetricLogger(tmp_path, console=False).attach(trainer, every=2)
    trainer.run(range(3), max_epochs=1)
    assert _records(tmp_path) == [{"epoch": 1, "iteration": i, "train/loss": 2.0} for i in (2, 3)]


@pytest.mark.parametrize("output", [(torch.zeros(3), "text"), {"losses": {"a": 1.0}}, None])
def test_an_output_without_numbers_is_logged_by_its_times_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, output: Any
) -> None:
    trainer = _trainer(lambda engine, batch: output)
    MetricLogger(tmp_path, console=False).attach(trainer, every=2)
    trainer.run(range(2), max_epochs=2)
    assert _records(tmp_path) == [{"epoch": 1, "iteration": 2}, {"epoch": 2, "iteration": 4}]
    told = [record.getMessage() for record in caplog.records]
    assert [f"the step returns a {type(output).__name__} without a number" in text for text in told] == [True] * (
        output is not None
    )


def test_the_length_of_an_epoch_may_be_unknown(tmp_path: Path) -> None:
    trainer = _trainer()
    MetricLogger(tmp_path, console=False).attach(trainer, every=4)
    trainer.run(iter(range(6)), max_epochs=1)
    assert [record["iteration"] for record in _records(tmp_path)] == [4, 6]
    assert "[4/?]  eta: ?" in (tmp_path / "log.txt").read_text()


def test_the_end_by_max_iters_is_logged_and_leaves_the_interval_as_it_was(tmp_path: Path) -> None:
    trainer = _trainer()
    logger = MetricLogger(tmp_path, console=False).attach(trainer, every=4)
    trainer.run(range(10), max_iters=6)
    assert [record["iteration"] for record in _records(tmp_path)] == [4, 6]
    sums = logger._meters.state_dict()["processes"][0]["sums"]
    assert sums[0, 1] / sums[0, 3] == pytest.approx(_mean(5, 6))


def test_an_epoch_that_is_broken_off_ends_with_a_line(tmp_path: Path) -> None:
    trainer = _trainer()
    MetricLogger(tmp_path, console=False).attach(trainer, every=4)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), lambda: trainer.terminate_epoch())
    trainer.run(range(8), max_epochs=2)
    # ignite counts iterations, not what is left of an epoch: the run is over at 16.
    assert [record["iteration"] for record in _records(tmp_path)][:4] == [4, 6, 10, 14]
    assert _records(tmp_path)[2]["train/loss"] == pytest.approx(_mean(7, 10))


def _resume(trainer: Engine, logger_state: Any, iteration: int) -> None:
    """What a checkpoint does: load at STARTED, then go on from ``iteration``."""

    def load() -> None:
        resumables(trainer)["metric_logger"].load_state_dict(logger_state)
        trainer.state.iteration = iteration
        trainer.state.epoch = iteration // 7

    trainer.add_event_handler(Events.STARTED, load)


@pytest.mark.parametrize("stop", [2, 7, 9, 10])
def test_a_resumed_run_writes_the_same_lines(tmp_path: Path, stop: int) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    trainer = _trainer()
    MetricLogger(straight, console=False).attach(trainer, every=3)
    trainer.run(range(7), max_epochs=3)

    first = _trainer()
    MetricLogger(broken, console=False).attach(first, every=3)
    saved: dict[str, Any] = {}
    first.add_event_handler(
        Events.ITERATION_COMPLETED(once=stop), lambda: saved.update(resumables(first)["metric_logger"].state_dict())
    )
    # It came further than its checkpoint, and broke off within a line.
    first.add_event_handler(Events.ITERATION_COMPLETED(once=stop + 4), lambda: first.terminate())
    first.run(range(7), max_epochs=3)
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "itera')

    second = _trainer()
    MetricLogger(broken, console=False).attach(second, every=3)
    _resume(second, saved, stop)
    second.run(range(7), max_epochs=3)
    assert (broken / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    assert not list(broken.glob(".tmp-*"))


def test_a_run_from_the_beginning_replaces_the_lines_of_the_run_before(tmp_path: Path) -> None:
    for _ in range(2):
        trainer = _trainer()
        MetricLogger(tmp_path, console=False).attach(trainer, every=3)
        trainer.run(range(3), max_epochs=2)
    assert [record["iteration"] for record in _records(tmp_path)] == [3, 6]
    assert (tmp_path / "log.txt").read_text().count("Total time") == 4


class _ScalarsCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.scalars = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.scalars += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_no_value_is_read_in_a_step() -> None:
    trainer = _trainer(lambda engine, batch: {name: torch.ones(()) for name in "abcdefg"})
    MetricLogger(console=False).attach(trainer, every=50)
    with _ScalarsCounter() as counter:
        trainer.run(range(100), max_epochs=1)
    assert counter.scalars == 0  # and a reading is one stack: see the tests of the meters


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    trainer = _trainer()
    MetricLogger(blocked, console=False).attach(trainer, every=2)
    with pytest.warns(
        RuntimeWarning, match=re.escape(f"cannot write log.txt and metrics.jsonl in {blocked}")
    ) as warned:
        trainer.run(range(5), max_epochs=2)
    assert len(warned) == 1
    assert trainer.state.iteration == 10


def test_a_folder_that_is_removed_comes_again_or_costs_nothing(tmp_path: Path) -> None:
    trainer = _trainer()
    MetricLogger(tmp_path / "run", console=False).attach(trainer, every=2)

    @trainer.on(Events.ITERATION_COMPLETED(once=3))
    def remove() -> None:
        for file in (tmp_path / "run").iterdir():
            file.unlink()
        (tmp_path / "run").rmdir()

    trainer.run(range(4), max_epochs=1)
    assert [record["iteration"] for record in _records(tmp_path / "run")] == [4]


def test_detached_it_is_gone(tmp_path: Path) -> None:
    trainer = _trainer()
    logger = MetricLogger(tmp_path, console=False, bar=True)
    for _ in range(2):
        logger.attach(trainer, every=1)
        assert "metric_logger" in resumables(trainer)
        logger.detach()
        logger.detach()
    assert not resumables(trainer)
    trainer.run(range(2), max_epochs=1)
    assert list(tmp_path.iterdir()) == []
    assert not hasattr(trainer.state, "log_every")


def test_what_cannot_be_is_refused() -> None:
    trainer, logger = _trainer(), MetricLogger()
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        logger.attach(trainer, every=0)
    with pytest.raises(ValueError, match="window must be at least 1"):
        MetricLogger(window=0)
    logger.attach(trainer)
    with pytest.raises(ValueError, match="attached already"):
        logger.attach(trainer)
    with pytest.raises(ValueError, match="metric_logger"):
        MetricLogger().attach(trainer)


def test_a_bar_follows_the_iterations(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = _trainer()
    MetricLogger(bar=True).attach(trainer, every=5)
    trainer.run(range(5), max_epochs=2)
    shown = capsys.readouterr()
    assert "Epoch [2]:   0%" in shown.err
    assert shown.out.count("[5/5]") == 2
