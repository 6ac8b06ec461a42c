"""``find-lr``: the learning rate that a recipe may begin with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from ignite_imgtools.commands.parsing import parse, recipe_name
from ignite_imgtools.commands.told_defaults import with_told_defaults
from ignite_imgtools.recipes import load_recipe

__all__ = ["Search", "main"]

DESCRIPTION = "Let the learning rate of a short training rise, draw the loss over it, and suggest a rate."
_Int, _Float = tyro.conf.arg(metavar="N"), tyro.conf.arg(metavar="X")


@dataclasses.dataclass(frozen=True)
class Search:
    """What is asked beside the flags of the recipe."""

    iterations: Annotated[int, _Int] = 100
    """Iterations, at most."""
    start_lr: Annotated[float, _Float] = 1e-6
    """The rate to begin with,"""
    end_lr: Annotated[float, _Float] = 1.0
    """and to end with, if the loss does not rise before."""


def arguments(config_kind: type) -> type:
    """What the command takes for a recipe with this configuration."""
    fields: list[Any] = [("search", Search), ("config", config_kind)]
    return dataclasses.make_dataclass("FindLr", fields)


def run(recipe: Any, name: str, parsed: Any) -> None:
    """Search, in a folder of its own."""
    from ignite_imgtools.recipes.config import ConfigError
    from ignite_imgtools.recipes.lr_search import LrSearch

    search = parsed.search
    if search.iterations < 10:
        raise ConfigError(f"--iterations must be at least 10, got {search.iterations}")
    if not 0 < search.start_lr < search.end_lr < float("inf"):
        raise ConfigError(f"--start-lr must be above 0 and below --end-lr, got {search.start_lr} and {search.end_lr}")
    folder = parsed.config.output_dir or Path("runs") / f"{name}_find_lr"
    config = dataclasses.replace(parsed.config, output_dir=folder)
    recipe.train(config, LrSearch(folder, search.iterations, search.start_lr, search.end_lr))


def main(args: list[str]) -> int:
    """Print what is suggested, and draw why."""
    name = recipe_name("find-lr", args)
    recipe = load_recipe(name)
    kind = with_told_defaults(recipe.Config, name, args)
    run(recipe, name, parse(arguments(kind), args[1:], f"find-lr {name}", DESCRIPTION))
    return 0
