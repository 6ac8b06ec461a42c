"""What a person sees of a training: lines, and a bar on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.formats import one_line
from ignite_imgtools.handlers.run_files import WriteGuard
from ignite_imgtools.progress import line_handler, show_progress

__all__ = ["Console", "show_messages"]


class Console:
    """Prints lines to standard output, and shows a bar on standard error where that is a terminal.

    Args:
        lines: whether to print lines.
        bar: ``"auto"`` for a bar on a terminal only, or whether to show one.
    """

    def __init__(self, *, lines: bool = True, bar: bool | Literal["auto"] = "auto"):
        self._lines = lines
        self._bar_wanted = sys.stderr.isatty() if bar == "auto" else bar
        self._bar: Any = None
        self._guard = WriteGuard("to the terminal")

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        if not self._lines or self._guard.off:
            return
        with self._guard:
            if self._bar is None:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
            else:
                self._bar.write(line, file=sys.stdout)

    def start_bar(self, description: str, total: int | None, position: int) -> None:
        """Begin a bar of ``total`` iterations, ``position`` of which are done; ``None`` for a number unknown."""
        if not self._bar_wanted or self._guard.off:
            return
        from tqdm import tqdm

        self.close_bar()
        self._bar = tqdm(total=total, initial=position, desc=description, leave=False, dynamic_ncols=True)

    @property
    def shows_bar(self) -> bool:
        """Whether bars are shown at all."""
        return self._bar_wanted

    def advance(self) -> None:
        """Move the bar on by an iteration; without one nothing happens."""
        if self._bar is not None and not self._guard.off:
            with self._guard:
                self._bar.update()

    def close_bar(self) -> None:
        """Take the bar away; without one nothing happens."""
        bar, self._bar = self._bar, None
        if bar is not None:
            with self._guard:
                bar.close()


class _OneLineFormatter(logging.Formatter):
    """Names of files and classes are in the messages, and they may hold what terminals obey."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))


def show_messages() -> None:
    """Show what the package has to say (INFO on one process, WARNING on all), each message in one line."""
    logger = logging.getLogger("ignite_imgtools")
    if not logger.handlers:
        handler = line_handler()
        handler.setFormatter(_OneLineFormatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    show_progress(is_main_process())
    logger.setLevel(logging.INFO if is_main_process() else logging.WARNING)
    # ignite logs each error that it raises again; whoever catches it says it once.
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
