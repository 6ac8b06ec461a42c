"""When an evaluation runs in a training, and what it leaves on the trainer's state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from ignite_imgtools.formats import TrainerEvents
from ignite_imgtools.handlers import evaluate_on_epoch
from ignite_imgtools.handlers.evaluation import flat_metrics


class _Trial:
    """A trainer with evaluations, and the iterations after which they took place."""

    def __init__(self, every: int = 1) -> None:
        self.trainer = Engine(lambda engine, batch: None)
        self.evaluator = Engine(lambda engine, batch: batch)
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self._measure)
        self.told: list[int] = []
        self.handle = evaluate_on_epoch(self.trainer, self.evaluator, [1, 2], name="test", every=every)
        self.trainer.add_event_handler(
            TrainerEvents.EVALUATION_COMPLETED, lambda: self.told.append(self.trainer.state.iteration)
        )

    def _measure(self, evaluator: Engine) -> None:
        evaluator.state.metrics["batches"] = evaluator.state.iteration


@pytest.mark.parametrize(
    ("every", "run", "expected"),
    [
        (1, {"max_epochs": 3}, [4, 8, 12]),
        (2, {"max_epochs": 5}, [8, 16, 20]),
        (1, {"max_iters": 10}, [4, 8, 10]),
        (1, {"max_iters": 8}, [4, 8]),
        (3, {"max_iters": 8}, [8]),
        (1, {"max_iters": 3}, [3]),
    ],
)
def test_it_runs_after_epochs_and_at_the_end(every: int, run: dict[str, int], expected: list[int]) -> None:
    trial = _Trial(every)
    trial.trainer.run(range(4), **run)
    assert trial.told == expected
    assert trial.trainer.state.evaluations == {"test": {"batches": 2.0}}
    assert trial.trainer.state.evaluated == "test"


def test_a_training_that_is_stopped_does_not_wait_for_an_evaluation() -> None:
    trial = _Trial()
    trial.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6), lambda: trial.trainer.terminate())
    trial.trainer.run(range(4), max_epochs=3)
    assert trial.told == [4]


@pytest.mark.parametrize(("resumed_at", "expected"), [(4, [8]), (6, [8]), (8, [])])
def test_a_resumed_run_evaluates_what_the_first_would_have(resumed_at: int, expected: list[int]) -> None:
    trial = _Trial()

    @trial.trainer.on(Events.STARTED)
    def resume() -> None:
        trial.trainer.state.iteration, trial.trainer.state.epoch = resumed_at, resumed_at // 4

    trial.trainer.run(range(4), max_iters=8)
    assert trial.told == expected


def test_an_evaluation_that_failed_begins_again() -> None:
    trial = _Trial()

    def fail(evaluator: Engine) -> None:
        if len(trial.told) == 0:
            raise RuntimeError("once")

    trial.evaluator.add_event_handler(Events.ITERATION_COMPLETED, fail)
    with pytest.raises(RuntimeError, match="once"):
        trial.trainer.run(range(4), max_epochs=1)
    trial.evaluator.remove_event_handler(fail, Events.ITERATION_COMPLETED)
    trial.trainer.state.max_epochs = None
    trial.trainer.run(range(4), max_epochs=1)
    assert trial.trainer.state.evaluations["test"] == {"batches": 2.0}


def test_what_an_earlier_evaluation_found_is_gone() -> None:
    trial = _Trial()
    trial.evaluator.state.metrics["old"] = 1.0
    trial.trainer.run(range(4), max_epochs=1)
    assert trial.trainer.state.evaluations["test"] == {"batches": 2.0}


def test_removed_it_is_gone_and_two_of_them_have_names() -> None:
    trial = _Trial()
    other = Engine(lambda engine, batch: None)
    evaluate_on_epoch(trial.trainer, other, [0], name="other")
    trial.trainer.run(range(4), max_epochs=1)
    assert set(trial.trainer.state.evaluations) == {"test", "other"}
    assert trial.told == [4, 4]
    trial.handle.remove()
    trial.handle.detach()
    trial.trainer.run(range(4), max_epochs=2)
    assert trial.told == [4, 4, 8]  # of the other one


def test_numbers_alone_are_flat_metrics() -> None:
    metrics: dict[str, Any] = {
        "float": 0.5,
        "int": 2,
        "numpy": np.float32(0.25),
        "tensor": torch.tensor(1.5),
        "array": np.zeros(3),
        "curve": torch.zeros(2, 2),
        "coco": {"AP": 0.1},
        "text": "x",
    }
    assert flat_metrics(metrics) == {"float": 0.5, "int": 2.0, "numpy": 0.25, "tensor": 1.5}
    assert all(type(value) is float for value in flat_metrics(metrics).values())


def test_every_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        _Trial(0)
