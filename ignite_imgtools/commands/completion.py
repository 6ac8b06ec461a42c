"""``completion``: the scripts by which shells complete the commands."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from ignite_imgtools.commands import COMMANDS
from ignite_imgtools.commands.parsing import PROG, UsageError
from ignite_imgtools.recipes import RECIPES, load_recipe

__all__ = ["main"]

_SHELLS = ("bash", "zsh", "fish")


def main(args: list[str]) -> int:
    """Print the script."""
    import shtab

    if args in (["-h"], ["--help"]):
        print(
            f"usage: {PROG} completion {'|'.join(_SHELLS)}\n\n"
            "Print the script for tab completion. For bash, in the file ~/.bashrc:\n\n"
            f'    eval "$({PROG} completion bash)"'
        )
        return 0
    if len(args) != 1 or args[0] not in _SHELLS:
        raise UsageError(f"completion takes the name of a shell: {', '.join(_SHELLS)}")
    print(shtab.complete(_parser(), shell=args[0]))
    return 0


def _parser() -> argparse.ArgumentParser:
    # tyro's own completion knows one command at a time; shtab needs no more than the names of all the options.
    import shtab

    from ignite_imgtools.commands import coco_eval, convert, export, find_lr, import_weights, predict
    from ignite_imgtools.data import check
    from ignite_imgtools.data.make_data import FORMATS

    parser = argparse.ArgumentParser(PROG)
    commands = parser.add_subparsers()
    parsers = {name: commands.add_parser(name, help=what.split(":")[0]) for name, what in COMMANDS.items()}
    for command in ("train", "evaluate", "predict", "find-lr", "import", "export"):
        recipes = parsers[command].add_subparsers()
        for name, what in RECIPES.items():
            options = recipes.add_parser(name, help=what)
            if command == "predict":
                _add_options(options, predict.arguments(load_recipe(name)))
                continue
            if command == "export":
                _add_options(options, export.Arguments)
                continue
            _add_options(options, load_recipe(name).Config)
            if command == "find-lr":
                _add_options(options, find_lr.Search)
            if command == "import":
                options.add_argument("file").complete = shtab.FILE  # type: ignore[attr-defined]
                _add_options(options, import_weights.Source)
            if command == "evaluate":
                options.add_argument("--checkpoint").complete = shtab.FILE  # type: ignore[attr-defined]
                options.add_argument("--plots").complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    parsers["check"].add_argument("format", choices=list(check.FORMATS))
    parsers["check"].add_argument("--data").complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    parsers["check"].add_argument("--decode")
    parsers["make-data"].add_argument("format", choices=list(FORMATS))
    parsers["make-data"].add_argument("directory").complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    for name in ("folder", "directory"):
        parsers["convert"].add_argument(name).complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    _add_options(parsers["convert"], convert.Arguments)
    _add_options(parsers["coco-eval"], coco_eval.Arguments)
    for name in ("report", "compare"):
        parsers[name].add_argument("runs", nargs="*").complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    parsers["compare"].add_argument("--figure").complete = shtab.FILE  # type: ignore[attr-defined]
    parsers["completion"].add_argument("shell", choices=_SHELLS)
    return parser


def _add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    import shtab

    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        choices = [value for part in (hint, *get_args(hint)) if get_origin(part) is Literal for value in get_args(part)]
        if field.name == "images" and not choices:
            parser.add_argument("images", nargs="*").complete = shtab.FILE  # type: ignore[attr-defined]
            continue
        if "Positional" in str(field.type):
            continue
        option = parser.add_argument(f"--{field.name.replace('_', '-')}", choices=choices or None)
        if Path in (hint, *get_args(hint)):
            option.complete = shtab.FILE  # type: ignore[attr-defined]
