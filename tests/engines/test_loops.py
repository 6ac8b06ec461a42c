"""The trainer is an Engine that leaves out what nobody reads; to users it is the stock one."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from ignite_imgtools.engines import create_evaluator, create_trainer

_EVENTS = [event for event in Events if event not in (Events.EXCEPTION_RAISED, Events.INTERRUPT)]


def _engines() -> dict[str, Engine]:
    def step(engine: Engine, batch: int) -> int:
        return batch

    return {"ours": create_trainer(step, torch.nn.Identity()), "stock": Engine(step)}


def _events(engine: Engine, **when: Any) -> list[Any]:
    """What fires, with what, of two epochs of three iterations."""
    seen: list[Any] = []

    def listen(name: str) -> None:
        def with_engine(engine: Engine, *words: Any, **more: Any) -> None:
            seen.append((name, engine.state.epoch, engine.state.iteration, words, more))

        def without(word: str) -> None:
            seen.append((name, word))

        engine.add_event_handler(Events[name], with_engine, "x")
        if name != "TERMINATE_SINGLE_EPOCH":  # its handlers are given more
            engine.add_event_handler(Events[name], without, "y")

    for event in _EVENTS:
        listen(event.name)
    for name, act in when.items():
        engine.add_event_handler(Events[name](once=2), getattr(engine, act))
    engine.run([1, 2, 3], max_epochs=2)
    return seen


@pytest.mark.parametrize(
    "when",
    [
        {},
        {"ITERATION_COMPLETED": "terminate"},
        {"ITERATION_STARTED": "terminate_epoch"},
        {"GET_BATCH_STARTED": "terminate"},
        {"GET_BATCH_COMPLETED": "terminate_epoch"},
        {"EPOCH_STARTED": "terminate"},
    ],
)
def test_events_are_those_of_a_stock_engine(when: dict[str, str]) -> None:
    ours, stock = (_events(engine, **when) for engine in _engines().values())
    assert ours == stock
    assert len(ours) > 10


def test_an_interrupted_run_goes_on() -> None:
    seen = {}
    for name, engine in _engines().items():
        iterations: list[int] = []
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e, into=iterations: into.append(e.state.iteration))
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda engine=engine: engine.interrupt())
        engine.run([1, 2, 3], max_epochs=2)
        stopped = list(iterations)
        engine.run([1, 2, 3], max_epochs=2)
        seen[name] = (stopped, iterations)
    assert seen["ours"] == seen["stock"]
    assert seen["ours"] == ([1, 2], [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_messages_are_there_for_who_asks(level: int, caplog: pytest.LogCaptureFixture) -> None:
    for engine in _engines().values():
        caplog.clear()
        engine.logger = logging.getLogger("test_loops")
        engine.logger.setLevel(level)
        engine.run([1, 2])
        told = [record.message for record in caplog.records if "iteration_completed" in record.message.lower()]
        assert len(told) == (2 if level == logging.DEBUG else 0)


def test_an_evaluator_that_failed_evaluates_anew() -> None:
    seen: list[int] = []
    fails = [True]

    def step(engine: Engine, batch: int) -> None:
        seen.append(batch)
        if fails[0] and batch == 1:
            raise KeyboardInterrupt

    evaluator = create_evaluator(step, torch.nn.Linear(1, 1))
    with pytest.raises(KeyboardInterrupt):
        evaluator.run([0, 1, 2])
    fails[0] = False
    assert evaluator.run([0, 1, 2, 3]).iteration == 4
    assert seen == [0, 1, 0, 1, 2, 3]
