"""How the arguments of a command are parsed: by tyro, out of dataclasses, with errors of one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from ignite_imgtools.commands import COMMANDS
from ignite_imgtools.recipes import RECIPES

__all__ = ["PROG", "UsageError", "parse", "recipe_name"]

PROG = "ignite-imgtools"
"""Name of the console script."""


class UsageError(Exception):
    """Bad arguments: one line."""


def recipe_name(command: str, args: list[str]) -> str:
    """The recipe that ``args`` begin with; help, and an error, where they do not."""
    if not args or args[0] in ("-h", "--help"):
        lines = [f"usage: {PROG} {COMMANDS[command].split(': ', 1)[1]}", "", "recipes:"]
        lines += [f"  {name:<16}{what}" for name, what in RECIPES.items()]
        print("\n".join([*lines, "", f"`{PROG} {command} RECIPE --help` shows the options of a recipe."]))
        raise SystemExit(0 if args else 2)
    if args[0] not in RECIPES:
        raise UsageError(f"there is no recipe {args[0]!r}; choose one of: {', '.join(RECIPES)}")
    return args[0]


def parse(kind: type, args: Sequence[str], command: str, description: str | None) -> Any:
    """Parse ``args`` into ``kind``; what is wrong with them becomes one line."""
    import tyro  # here, so that help on the commands need not wait for it

    from ignite_imgtools.commands.told_defaults import asks_for_help, without_none

    if asks_for_help(args):
        kind = without_none(kind)
    stderr = io.StringIO()
    # A terminal is what tyro has colours for; what is no terminal gets none.
    plain = io.StringIO() if os.environ.get("NO_COLOR") else None
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(plain or sys.stdout):
            return tyro.cli(
                kind,
                args=list(args),
                prog=f"{PROG} {command}",
                description=description,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if plain is not None:
            print(plain.getvalue(), end="")
        if stop.code in (0, None):
            raise
        raise UsageError(f"{_first_message(stderr.getvalue())} (see {PROG} {command} --help)") from None


def _first_message(box: str) -> str:
    # tyro frames its errors where the terminal can, with the title in the frame; elsewhere the title has a section of
    # its own. Rules part the sections.
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip(" │|")
        if re.fullmatch(r"[─-]{5,}", text):
            sections.append([])
        elif not re.match(r"[╭╰]", text):
            sections[-1].append(text)
    framed = "╭" in box
    texts = [" ".join(" ".join(section).split()) for section in (sections if framed else sections[1:])]
    hint = next((re.search(r"--[\w-]+", text) for text in texts if text.startswith("Perhaps you meant")), None)
    return (texts[0] if texts else "bad arguments") + (f"; perhaps you meant {hint.group()}" if hint else "")
