"""``import``: a checkpoint of another program becomes one of a recipe."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated, Any

import tyro

from ignite_imgtools.commands.parsing import parse, recipe_name
from ignite_imgtools.commands.told_defaults import with_told_defaults
from ignite_imgtools.recipes import load_recipe

__all__ = ["Source", "main"]

DESCRIPTION = (
    "Make a checkpoint that evaluate, predict, export and --weights take, out of one of the copied training scripts or "
    "of torchvision's references. No code in the file is executed. Give the flags that it was trained with, and the "
    "data set, which the names of the classes come from."
)


@dataclasses.dataclass(frozen=True)
class Source:
    """What is asked beside the flags of the recipe."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """Checkpoint file, with weights or with more beside them."""
    key: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """Under which the weights are in the file, such as model_ema. By default model, state_dict or model_state_dict."""


def arguments(config_kind: type) -> type:
    """What the command takes for a recipe with this configuration."""
    fields: list[Any] = [("source", Source), ("config", config_kind)]
    return dataclasses.make_dataclass("Import", fields)


def run(recipe: Any, name: str, parsed: Any) -> str:
    """Write the checkpoint, and tell what was taken and what was left."""
    from ignite_imgtools.handlers import close_run_folder
    from ignite_imgtools.models.weights import read_checkpoint, watch_loading
    from ignite_imgtools.recipes.config import ConfigError, refused_arguments
    from ignite_imgtools.recipes.weights_import import WeightsImport

    file, key, config = parsed.source.file, parsed.source.key, parsed.config
    if config.data is None:
        raise ConfigError("import needs --data, the data set that the weights were trained for")
    if config.weights != "none":
        raise ConfigError(f"import takes its weights from {file}; leave out --weights")
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; give a checkpoint")
    with refused_arguments():
        found = read_checkpoint(file, key)
    out = (config.output_dir or Path("runs") / f"{name}_imported") / "checkpoints" / "imported.pt"
    with tempfile.TemporaryDirectory() as folder, watch_loading(key) as reports:
        # What a training needs and an import does not: a run folder, several processes, batches of like shapes.
        aside = {"output_dir": Path(folder), "nproc_per_node": None, "group_by": "none", "resume": "never"}
        settings = {field: getattr(config, field) for field in aside} | {"output_dir": out.parent.parent}
        changed = dataclasses.replace(config, weights=str(file), **aside)
        try:
            recipe.train(changed, WeightsImport(out, settings, reports))
        finally:
            close_run_folder(folder)
    loaded, unused = reports[-1].loaded, reports[-1].unexpected
    told = f"{out}: {len(loaded)} weights of {file}{found.where}"
    if unused:
        told += f"; {len(unused)} not used ({', '.join(unused[:4])}{', ...' if len(unused) > 4 else ''})"
    if found.left:
        told += f"; left behind: {', '.join(found.left)}, of which a training here could not go on exactly"
    return told


def main(args: list[str]) -> int:
    """Write the checkpoint, and print what was taken and what was left."""
    name = recipe_name("import", args)
    recipe = load_recipe(name)
    kind = with_told_defaults(recipe.Config, name, args)
    print(run(recipe, name, parse(arguments(kind), args[1:], f"import {name}", DESCRIPTION)))
    return 0
