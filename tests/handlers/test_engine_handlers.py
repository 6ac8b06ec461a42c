"""The order of handlers, and errors that must not get lost."""

from __future__ import annotations

from typing import Any

import pytest
from ignite.engine import Engine, Events

from ignite_imgtools.handlers import attach_error_guard
from ignite_imgtools.handlers.engine_handlers import move_to_end, move_to_front, remove_handler


class _Three:
    def __init__(self) -> None:
        self.called: list[str] = []
        self.engine = Engine(lambda engine, batch: None)
        for handler in (self.a, self.b, self.c):
            self.engine.add_event_handler(Events.STARTED, handler)

    def a(self) -> None:
        self.called.append("a")

    def b(self, engine: Engine) -> None:
        self.called.append("b")

    def c(self) -> None:
        self.called.append("c")

    def order(self) -> str:
        self.called.clear()
        self.engine.fire_event(Events.STARTED)
        return "".join(self.called)


def test_handlers_move() -> None:
    three = _Three()
    move_to_end(three.engine, Events.STARTED, three.a)
    assert three.order() == "bca"
    move_to_front(three.engine, Events.STARTED, three.c)
    assert three.order() == "cba"
    remove_handler(three.engine, Events.STARTED, three.b)
    remove_handler(three.engine, Events.STARTED, three.b)
    assert three.order() == "ca"


def test_moving_while_the_event_is_fired_counts_from_the_next_time_on() -> None:
    three = _Three()
    three.engine.add_event_handler(Events.STARTED, lambda: move_to_front(three.engine, Events.STARTED, three.c))
    assert three.order() == "abc"
    assert three.order() == "cab"


def _failing() -> Engine:
    def step(engine: Engine, batch: Any) -> None:
        raise ZeroDivisionError

    return Engine(step)


def test_with_its_last_handler_the_event_of_errors_is_gone_so_that_ignite_raises_again() -> None:
    engine = _failing()

    def look(engine: Engine, error: BaseException) -> None: ...

    engine.add_event_handler(Events.EXCEPTION_RAISED, look)
    engine.run([0])  # as ignite has it: swallowed
    remove_handler(engine, Events.EXCEPTION_RAISED, look)
    with pytest.raises(ZeroDivisionError):
        engine.run([0])


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("event", [Events.STARTED, Events.ITERATION_STARTED, Events.COMPLETED])
def test_the_guard_raises_each_error_once_all_handlers_have_seen_it(event: Any, error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    seen: list[str] = []
    engine = Engine(lambda engine, batch: None)
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: seen.append("before"))
    attach_error_guard(engine)
    attach_error_guard(engine)
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: seen.append("after"))
    engine.add_event_handler(event, fail)
    for _ in range(2):
        with pytest.raises(error):
            engine.run([0])
        engine.state.max_epochs = None
    assert seen == ["before", "after"] * 2
