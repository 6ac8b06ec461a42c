"""Help that says which defaults a recipe has, and what may be given, where a ``None`` stands in its flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

__all__ = ["asks_for_help", "with_defaults_of_run", "with_told_defaults", "without_none"]


def with_told_defaults(config_kind: type, name: str, args: Sequence[str]) -> type:
    """The configuration of a recipe, with defaults for people to read where ``args`` ask for help.

    Args:
        config_kind: the dataclass of the recipe's flags.
        name: of the recipe.
        args: of the command.
    """
    if not asks_for_help(args):
        return config_kind
    blank: Any = config_kind(device="cpu")
    on_data, on_built_in = config_kind(device="cpu", data=Path()).filled(name), blank.filled(name)
    missing = [field.name for field in dataclasses.fields(config_kind) if getattr(blank, field.name) is None]
    told = {flag: _hint(getattr(on_data, flag), getattr(on_built_in, flag)) for flag in missing}
    return _with_hints(config_kind, told | {"data": "", "output_dir": ""}, config_kind.__doc__)


def with_defaults_of_run(config_kind: type, args: Sequence[str]) -> type:
    """The configuration of a recipe for a command that has the flags of a run as defaults, told nowhere in the help."""
    if not asks_for_help(args):
        return config_kind
    title = (config_kind.__doc__ or "").partition("\n")[0]
    return _with_hints(config_kind, {field.name: "" for field in dataclasses.fields(config_kind)}, title)


def without_none(arguments_kind: type) -> type:
    """The arguments of a command, with no word in the help on defaults that are ``None`` and told in no other way."""
    types = get_type_hints(arguments_kind, include_extras=True)
    silent = {
        field.name: ""
        for field in dataclasses.fields(arguments_kind)
        if field.default is None
        and all(getattr(part, "help_behavior_hint", None) is None for part in get_args(types[field.name])[1:])
    }
    return _with_hints(arguments_kind, silent, arguments_kind.__doc__) if silent else arguments_kind


def asks_for_help(args: Sequence[str]) -> bool:
    """Whether the arguments of a command ask for its help."""
    return "-h" in args or "--help" in args


def _with_hints(config_kind: Any, hints: Mapping[str, str], doc: str | None) -> type:
    types = get_type_hints(config_kind, include_extras=True)
    annotations: dict[str, Any] = {}
    for flag, hint in hints.items():
        kind, metavar = types[flag], None
        if get_origin(kind) is not Annotated:
            metavar = _metavar(*(choice for choice in get_args(kind) if choice is not type(None)))
        annotations[flag] = Annotated[kind, tyro.conf.arg(help_behavior_hint=hint, metavar=metavar)]
    # Fields of a base class keep their order and their help.
    fields = {field.name: field.default for field in dataclasses.fields(config_kind) if field.name in hints}
    members = {"__annotations__": annotations, "__doc__": doc, **fields}
    is_frozen = config_kind.__dataclass_params__.frozen
    return dataclasses.dataclass(frozen=is_frozen, kw_only=True)(type(config_kind.__name__, (config_kind,), members))


def _hint(on_data: Any, on_built_in: Any) -> str:
    if on_data == on_built_in:
        return "" if on_data is None else f"(default: {_text(on_data)})"
    if on_data is None:
        return f"(default for the built-in set on a CPU: {_text(on_built_in)})"
    return f"(default: {_text(on_data)}; for the built-in set on a CPU {_text(on_built_in)})"


def _text(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _metavar(kind: Any = None, *others: Any) -> str | None:
    """What may be given for a flag, without the ``None`` that nobody needs to give; ``None`` for tyro's own words."""
    if others:
        return None
    if kind is bool:
        return "True|False"
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if get_origin(kind) is not tuple:
        return None
    first, *more = get_args(kind)
    letter = "N" if first is int else "X"
    return f"{letter}..." if more == [...] else " ".join([letter] * (1 + len(more)))
