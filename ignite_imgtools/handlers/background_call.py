"""One function at a time on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

__all__ = ["BackgroundCall"]

_logger = logging.getLogger(__name__)


class BackgroundCall:
    """Calls a function while the caller goes on.

    The thread lives as long as the call and is no daemon: when the interpreter ends, for whatever reason, it first
    lets the call finish. Only a kill, or ``os._exit``, ends it earlier.
    """

    def __init__(self, name: str):
        self._name = name
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, function: Callable[[], None]) -> None:
        """Call ``function`` on a new thread; the one before must have been waited for."""
        if self._thread is not None:
            raise RuntimeError(f"{self._name}: started again before wait()")
        self._thread = threading.Thread(target=self._run, args=(function,), name=self._name, daemon=False)
        self._thread.start()

    def wait(self) -> BaseException | None:
        """Wait for the call, and return what it raised, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        return error

    def _run(self, function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            # Said at once as well: if the run fails before it waits for this call, nobody else would say it.
            _logger.warning("%s: %s", self._name, error)
            self._error = error
