"""How the arguments of a command are parsed: by tyro, out of dataclasses, with errors of one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from ignite_imgtools.commands import COMMANDS
from ignite_imgtools.commands.wording import expectation, in_flags, perhaps, value_types, values_of
from ignite_imgtools.recipes import RECIPES

__all__ = ["PROG", "UsageError", "check_known", "in_words_of_command", "parse", "recipe_name"]

PROG = "ignite-imgtools"
"""Name of the console script."""


_flags: dict[str, Any] = {}  # of the command that runs, with the types of their values


class UsageError(Exception):
    """Bad arguments: one line."""


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Refuse a ``name`` that is none of those ``known``."""
    known = list(known)
    if name not in known:
        raise UsageError(f"there is no {what} {name!r}; choose one of: {', '.join(known)}{perhaps(name, known)}")


def in_words_of_command(message: str, args: Sequence[str]) -> str:
    """A message of a component, with the flags of the command that was parsed last in place of arguments."""
    return in_flags(message, _flags, args)


def recipe_name(command: str, args: list[str]) -> str:
    """The recipe that ``args`` begin with; help, and an error, where they do not."""
    if not args or args[0] in ("-h", "--help"):
        lines = [f"usage: {PROG} {COMMANDS[command].split(': ', 1)[1]}", "", "recipes:"]
        lines += [f"  {name:<16}{what}" for name, what in RECIPES.items()]
        print("\n".join([*lines, "", f"`{PROG} {command} RECIPE --help` shows the options of a recipe."]))
        raise SystemExit(0 if args else 2)
    check_known("recipe", args[0], RECIPES)
    return args[0]


def parse(kind: type, args: Sequence[str], command: str, description: str | None) -> Any:
    """Parse ``args`` into ``kind``; what is wrong with them becomes one line."""
    import tyro  # here, so that help on the commands need not wait for it

    from ignite_imgtools.commands.told_defaults import asks_for_help, without_none

    if asks_for_help(args):
        kind = without_none(kind)
    _flags.clear()
    _flags.update(value_types(kind))
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
        message = _first_message(stderr.getvalue())
        raise UsageError(f"{_bad_value(message, args) or message} (see {PROG} {command} --help)") from None


def _bad_value(message: str, args: Sequence[str]) -> str | None:
    """What tyro says of a value that a flag cannot have, without ``None``, which nobody needs to give."""
    match = re.match(r"(?:Error parsing|invalid choice .* for argument) '?(--[\w-]+)", message)
    kind = _flags.get(match[1][2:].replace("-", "_")) if match else None
    wanted = expectation(kind)
    came = values_of(match[1], args) if match else ""
    if match is None or wanted is None or not came:
        return None
    choices = [choice for part in (kind, *get_args(kind)) for choice in get_args(part)]
    return f"{match[1]}: expected {wanted}, got {came!r}" + perhaps(came, [c for c in choices if isinstance(c, str)])


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
