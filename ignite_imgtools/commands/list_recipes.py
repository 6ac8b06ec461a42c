"""``list``: the recipes there are."""

from __future__ import annotations

import dataclasses

from ignite_imgtools.commands.parsing import parse
from ignite_imgtools.recipes import RECIPES

__all__ = ["main"]


def main(args: list[str]) -> int:
    """Print their names and what they are for."""
    parse(dataclasses.make_dataclass("List", []), args, "list", "List the recipes.")
    for name, what in RECIPES.items():
        print(f"{name:<16}{what}")
    return 0
