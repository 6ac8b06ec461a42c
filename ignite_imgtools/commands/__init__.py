"""The commands of the command line: one module each, imported when its command is given.

A module has ``main(args)``, which parses what stands behind the command's name, runs it, and returns the exit status.
What is wrong with arguments is raised as :class:`~ignite_imgtools.commands.parsing.UsageError`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

__all__ = ["COMMANDS", "load_command"]

COMMANDS: dict[str, str] = {
    "list": "list the recipes",
    "train": "train a recipe: train RECIPE [OPTIONS]",
    "evaluate": "evaluate a checkpoint: evaluate RECIPE --checkpoint PATH [OPTIONS]",
    "predict": "draw and write predictions: predict RECIPE --checkpoint PATH IMAGE... [OPTIONS]",
    "find-lr": "suggest a learning rate: find-lr RECIPE [OPTIONS]",
    "import": "take over a checkpoint of another program: import RECIPE FILE --data DIR [OPTIONS]",
    "export": "write a model for other programs: export RECIPE --checkpoint PATH --to FORMAT OUT",
    "report": "write the report of a run: report RUN",
    "compare": "curves and numbers of several runs: compare RUN RUN...",
    "check": "find what is wrong with a data set: check FORMAT --data DIR",
    "make-data": "write the built-in data set: make-data FORMAT DIR [OPTIONS]",
    "convert": "write a detection data set in another format: convert DIR NEW_DIR --to FORMAT [OPTIONS]",
    "coco-eval": "evaluate COCO results: coco-eval --ground-truth FILE --results FILE [OPTIONS]",
    "completion": "print the script for tab completion: completion bash|zsh|fish",
}
"""Every command by its name, with what it is for."""

# Words that Python keeps for itself.
_MODULES = {"import": "import_weights", "list": "list_recipes"}


def load_command(name: str) -> Callable[[list[str]], int]:
    """``main`` of the command ``name``, one of :data:`COMMANDS`."""
    module = import_module(f"ignite_imgtools.commands.{_MODULES.get(name, name.replace('-', '_'))}")
    main: Callable[[list[str]], int] = module.main
    return main
