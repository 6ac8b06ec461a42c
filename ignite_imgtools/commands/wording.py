"""Errors in the words of the command line: flags where a message names arguments, and what was perhaps meant."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["expectation", "in_flags", "perhaps", "values_of", "value_types"]


def perhaps(name: str, known: Iterable[str]) -> str:
    """What to add to an error about ``name``, if one of the ``known`` names is like it.

    >>> perhaps("trian", ["list", "train"])
    '; perhaps you meant train'
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; perhaps you meant {near[0]}" if near else ""


def value_types(kind: type) -> dict[str, Any]:
    """The type of the value of each flag of a command, by the name of the field; ``kind`` may nest dataclasses."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        parts = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if dataclasses.is_dataclass(parts[0]) and isinstance(parts[0], type):
            found |= value_types(parts[0])
        elif "Positional" not in str(hint):
            found[name] = parts[0]
    return found


def expectation(kind: Any) -> str | None:
    """What a flag of this type takes, in words; ``None`` where there are none.

    >>> expectation(tuple[float, float] | None)
    '2 numbers'
    """
    if get_origin(kind) in (Union, UnionType):
        (kind, *others) = [part for part in get_args(kind) if part is not NoneType]
        return None if others else expectation(kind)
    if get_origin(kind) is Literal:
        *first, last = map(str, get_args(kind))
        return f"{', '.join(first)} or {last}" if first else last
    if get_origin(kind) is tuple:
        one, *more = get_args(kind)
        words = {int: "whole numbers", float: "numbers"}.get(one)
        return words if words is None or more == [...] else f"{1 + len(more)} {words}"
    return {int: "a whole number", float: "a number", bool: "True or False"}.get(kind)


def values_of(flag: str, args: Sequence[str]) -> str:
    """What ``args`` give for ``flag``; empty if that cannot be found."""
    for place, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") != flag:
            continue
        behind = list(args[place + 1 :])
        end = next((i for i, text in enumerate(behind) if text.startswith("--")), len(behind))
        return value if equals else " ".join(behind[:end])
    return ""


def in_flags(message: str, types: Mapping[str, Any], args: Sequence[str]) -> str:
    """``message`` with flags in place of arguments of Python, and with what was perhaps meant.

    Args:
        message: of a component, which does not know that its caller is a command line.
        types: of the command's flags, as of :func:`value_types`.
        args: of the command; what they name is left as it is, as a folder called ``lr=0.1``.
    """
    if not types:
        return message
    name = "|".join(map(re.escape, sorted(types, key=len, reverse=True)))
    values = [arg.partition("=")[2] if arg.startswith("--") else arg for arg in args]
    given = "|".join(re.escape(value) for value in values if value[:1] != "-" and re.search(r"[_=]", value))
    # An argument begins the message, has a value, or is no word of English; a part of a path is none.
    argument = (
        rf"^(?P<subject>{name})(?= must )|(?<![^\s(])(?P<named>{name})=(?=\w+(?:[\s,;)]|$))"
        rf"|(?<=\s)(?P<word>{name})(?=[\s,;)]|$)"
    )

    def flag(match: re.Match[str]) -> str:
        found = match.groupdict()
        if found["word"] and "_" not in found["word"]:
            return match[0]
        argument = found["subject"] or found["named"] or found["word"]
        return f"--{argument.replace('_', '-')}{' ' if found['named'] else ''}" if argument else match[0]

    text = re.sub(f"{given}|{argument}" if given else argument, flag, message)
    choice = re.search(r" must be one of (.+), got '([^']*)'$", text)
    return text + (perhaps(choice[2], choice[1].split(", ")) if choice else "")
