"""Handlers that are removed again."""

from __future__ import annotations

from ignite.engine import Engine, Events

from ignite_imgtools.handlers.attachments import Attachments


class _Counter:
    def __init__(self) -> None:
        self.calls = 0

    def count(self) -> None:
        self.calls += 1


def test_bound_methods_and_functions_are_removed() -> None:
    engine, counter, attachments = Engine(lambda engine, batch: None), _Counter(), Attachments()
    attachments.add(engine, Events.ITERATION_COMPLETED, counter.count)
    attachments.add(engine, Events.EPOCH_COMPLETED, lambda: counter.count())
    engine.run(range(3))
    assert counter.calls == 4
    attachments.detach()
    attachments.remove()
    engine.run(range(3))
    assert counter.calls == 4


def test_what_another_has_removed_is_no_error() -> None:
    engine, counter, attachments = Engine(lambda engine, batch: None), _Counter(), Attachments()
    attachments.add(engine, Events.STARTED, counter.count)
    engine.remove_event_handler(counter.count, Events.STARTED)
    attachments.detach()
