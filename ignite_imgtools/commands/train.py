"""``train``: a training by a recipe."""

from __future__ import annotations

from ignite_imgtools.commands.parsing import parse, recipe_name
from ignite_imgtools.recipes import load_recipe

__all__ = ["main"]


def main(args: list[str]) -> int:
    """Train, on as many processes as the flags ask for."""
    name = recipe_name("train", args)
    recipe = load_recipe(name)
    config = parse(recipe.Config, args[1:], f"train {name}", recipe.Config.__doc__)
    recipe.train(config)
    return 0
