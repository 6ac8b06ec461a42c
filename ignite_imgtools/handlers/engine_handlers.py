"""Where a handler stands among those of its event, and errors that no handler may swallow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ignite.engine import Engine, Events

from ignite_imgtools.distributed import failure_of

__all__ = ["attach_error_guard", "move_to_end", "move_to_front", "remove_handler"]


def move_to_front(engine: Engine, event: Any, handler: Callable[..., Any]) -> None:
    """Call ``handler`` before all others of ``event``, from its next firing on."""
    mine, others = _split(engine, event, handler)
    engine._event_handlers[event] = mine + others


def move_to_end(engine: Engine, event: Any, handler: Callable[..., Any]) -> None:
    """Call ``handler`` after all others of ``event``, from its next firing on."""
    mine, others = _split(engine, event, handler)
    engine._event_handlers[event] = others + mine


def remove_handler(engine: Engine, event: Any, handler: Callable[..., Any]) -> None:
    """Remove ``handler`` where it is attached, and all trace of the event with its last handler.

    ignite takes even an empty list of handlers of EXCEPTION_RAISED for a reason to swallow an error.
    """
    mine, others = _split(engine, event, handler)
    if others:
        engine._event_handlers[event] = others
    elif mine:
        del engine._event_handlers[event]


def _split(engine: Engine, event: Any, handler: Callable[..., Any]) -> tuple[list[Any], list[Any]]:
    mine: list[Any] = []
    others: list[Any] = []
    for entry in engine._event_handlers.get(event, ()):
        (mine if Engine._compare_handlers(handler, entry[0]) else others).append(entry)
    return mine, others


class _ErrorGuard:
    """Raises an error again once the handlers of EXCEPTION_RAISED have seen it, so that ``run`` does.

    ignite fires the event twice for an error in a step: where it is raised and where the run ends.
    """

    def __init__(self) -> None:
        self._seen: BaseException | None = None
        self._told: BaseException | None = None

    def first(self, engine: Engine, error: BaseException) -> None:
        if error is self._seen:
            raise error
        # Before the other handlers: what they do then must not keep the news from the other processes.
        self._told = failure_of(error)

    def last(self, engine: Engine, error: BaseException) -> None:
        self._seen = error
        if self._told is not None and self._told is not error:
            self._seen = self._told
            raise self._told from None
        raise error

    def take_places(self, engine: Engine) -> None:
        move_to_front(engine, Events.EXCEPTION_RAISED, self.first)
        move_to_end(engine, Events.EXCEPTION_RAISED, self.last)


def attach_error_guard(engine: Engine) -> None:
    """Let no handler of EXCEPTION_RAISED swallow an error of ``engine``: ``run`` raises it whatever is attached.

    Handlers of that event see each error once. A second call changes nothing.
    """
    state: Any = engine.state
    if getattr(state, "error_guard", None) is not None:
        return
    guard = state.error_guard = _ErrorGuard()
    engine.add_event_handler(Events.EXCEPTION_RAISED, guard.first)
    engine.add_event_handler(Events.EXCEPTION_RAISED, guard.last)
    engine.add_event_handler(Events.STARTED, guard.take_places)
