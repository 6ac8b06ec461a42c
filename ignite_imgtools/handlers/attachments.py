"""What a handler has connected, so that it can be taken off again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ignite.engine import Engine

__all__ = ["Attachments"]


class Attachments:
    """Handlers added to engines, removed together.

    ignite's own handle knows its handler by a weak reference, so for a bound method it removes nothing; and it
    compares filtered events in the same way. This keeps the handlers themselves.
    """

    def __init__(self) -> None:
        self._added: list[tuple[Engine, Any, Callable[..., Any]]] = []

    def add(self, engine: Engine, event: Any, handler: Callable[..., Any]) -> None:
        """Call ``handler`` on ``event``, one without a filter."""
        engine.add_event_handler(event, handler)
        self._added.append((engine, event, handler))

    def detach(self) -> None:
        """Remove every handler; once removed, nothing happens."""
        for engine, event, handler in self._added:
            if engine.has_event_handler(handler, event):
                engine.remove_event_handler(handler, event)
        self._added = []

    remove = detach
