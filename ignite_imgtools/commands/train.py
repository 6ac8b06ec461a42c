"""``train``: a training by a recipe."""

from __future__ import annotations

import inspect

from ignite_imgtools.commands.parsing import parse, recipe_name
from ignite_imgtools.commands.told_defaults import with_told_defaults
from ignite_imgtools.recipes import load_recipe

__all__ = ["main"]


def main(args: list[str]) -> int:
    """Train, on as many processes as the flags ask for."""
    name = recipe_name("train", args)
    recipe = load_recipe(name)
    kind = with_told_defaults(recipe.Config, name, args)
    config = parse(kind, args[1:], f"train {name}", inspect.getdoc(recipe.Config))
    recipe.train(config)
    return 0
