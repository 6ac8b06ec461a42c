"""How far a wait is: a bar on a terminal, now and then a line elsewhere, nothing unless it was asked for.

Whoever waits for long says so by :class:`Wait` or :func:`waiting`, at no cost to those who did not call
:func:`show_progress`, as the command line and the recipes do. Everything goes to standard error. There are no colours.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import wraps
from typing import Any, ParamSpec, TypeVar

__all__ = ["Wait", "line_handler", "say", "show_progress", "tick", "waited", "waiting"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_BAR_AFTER, _LINE_AFTER, _LINE_EVERY = 2.0, 5.0, 10.0
_shown = False
_open: list[Wait] = []


def show_progress(shown: bool = True) -> None:
    """Whether waits are shown from now on, on this process."""
    global _shown
    _shown = shown


def say(text: str) -> None:
    """Say what is waited for where nobody can count how far it is."""
    if _shown:
        with _without_bars(sys.stderr):
            _write(text)


class Wait:
    """``with Wait("indexing", total) as wait:`` and ``wait.advance()`` for each thing done.

    A bar appears after two seconds; where standard error is no terminal, a line after five and then every ten.

    Args:
        what: is done.
        total: of things to do; ``None`` for a number unknown.
        unit: what is counted.
    """

    def __init__(self, what: str, total: int | None = None, unit: str = "images"):
        self._what, self._total, self._unit = what, total, unit
        self._done = 0
        self._bar: Any = None
        self._on = False

    def __enter__(self) -> Wait:
        # Of waits within waits the outermost is shown.
        self._on = _shown and not any(wait._on for wait in _open)
        _open.append(self)
        self._begun = time.monotonic()
        if self._on and sys.stderr.isatty():
            from tqdm import tqdm

            form = (
                None if self._total is None else "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{remaining}]"
            )
            self._bar = tqdm(
                desc=self._what,
                total=self._total,
                unit=f" {self._unit}",
                bar_format=form,
                leave=False,
                dynamic_ncols=True,
                delay=_BAR_AFTER,
                file=sys.stderr,
            )
        self._next_line = self._begun + _LINE_AFTER
        return self

    def __exit__(self, *error: object) -> None:
        _open.remove(self)
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        if not self._on:
            return
        if self._bar is not None:
            self._bar.update()
        elif time.monotonic() >= self._next_line:
            self._write_line()

    def _write_line(self) -> None:
        now = time.monotonic()
        self._next_line = now + _LINE_EVERY
        seconds = now - self._begun
        line = f"{self._what}: {self._done:,} {self._unit}"
        if self._total:
            left = seconds / self._done * (self._total - self._done)
            line = f"{self._what}: {self._done:,} of {self._total:,} {self._unit}, {left:.0f} s to go"
        _write(line)


def waiting(what: str, items: Iterable[T], total: int | None = None, unit: str = "images") -> Iterator[T]:
    """``items``, with a :class:`Wait` around their use."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Wait(what, total, unit) as wait:
        for item in items:
            yield item
            wait.advance()


def waited(what: str, unit: str = "images") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: the call is a :class:`Wait`, in which what it calls counts by :func:`tick`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with Wait(what, unit=unit):
                return function(*args, **kwargs)

        return call

    return decorate


def tick() -> None:
    """One more is done of the innermost wait; without one nothing happens."""
    if _open:
        (next((wait for wait in _open if wait._on), None) or _open[-1]).advance()


def _write(line: str) -> None:
    # Nobody may be there to read it any more; that is no reason to stop.
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def line_handler() -> logging.Handler:
    """A handler that writes log lines to standard output above a bar, if there is one."""
    return _AboveBars(sys.stdout)


class _AboveBars(logging.StreamHandler):
    def emit(self, record: logging.LogRecord) -> None:
        with _without_bars(self.stream):
            super().emit(record)


def _without_bars(stream: Any) -> AbstractContextManager[Any]:
    if "tqdm" not in sys.modules:
        return nullcontext()
    from tqdm import tqdm

    manager: AbstractContextManager[Any] = tqdm.external_write_mode(file=stream)
    return manager
