"""What a recipe says on the console beside its log."""

from __future__ import annotations

import logging
import sys

from ignite_imgtools.distributed import is_main_process

__all__ = ["show_messages"]


def show_messages() -> None:
    """Show what the package has to say (INFO on one process, WARNING on all), each message in one line."""
    logger = logging.getLogger("ignite_imgtools")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    logger.setLevel(logging.INFO if is_main_process() else logging.WARNING)
    # ignite logs each error that it raises again; whoever catches it says it once.
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
