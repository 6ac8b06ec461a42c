"""``evaluate``: a checkpoint on validation data."""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import tyro

from ignite_imgtools.commands.parsing import UsageError, parse, recipe_name
from ignite_imgtools.commands.told_defaults import asks_for_help, with_defaults_of_run
from ignite_imgtools.recipes import load_recipe

__all__ = ["main"]

_OTHER = "eval-"
_WHOSE = "data.txt"
"""In a folder of numbers on other data than the run's: which data."""


def main(args: list[str]) -> int:
    """Print the numbers, and write ``eval/`` and ``plots/``."""
    from ignite_imgtools.recipes.records import RecipeRecord

    name = recipe_name("evaluate", args)
    recipe = load_recipe(name)
    config_kind = with_defaults_of_run(recipe.Config, args)
    if asks_for_help(args):
        known = config_kind()
    else:
        # What the run was trained with is the default of every option, so that --checkpoint alone evaluates it again.
        known = RecipeRecord.from_checkpoint(_checkpoint_argument(args, "evaluate"), name, recipe.Config).config
    # Without an output_dir, so that one that was asked for is known from one that was not.
    kind = _arguments(config_kind, dataclasses.replace(known, output_dir=None))
    parsed = parse(kind, args[1:], f"evaluate {name}", "Evaluate a checkpoint; options not given are those of its run.")
    config = parsed.config
    evaluated = _evaluated_data(config, known.output_dir)
    if parsed.plots is not None:
        config = _in_folder(config, parsed.plots, config.output_dir or known.output_dir)
    elif config.output_dir is None:
        config = _in_folder(config, _default_folder(config, known), known.output_dir)
    recipe.evaluate(config, parsed.checkpoint)
    if config.output_dir.name.startswith(_OTHER) and config.output_dir.parent.resolve() == known.output_dir.resolve():
        # Not before: of processes that torchrun has started, the last may look for a folder later than others.
        _note_data(config.output_dir / _WHOSE, evaluated)
    _say(f"numbers: {config.output_dir / 'eval'}; pictures: {config.output_dir / 'plots'}")
    return 0


def _in_folder(config: Any, folder: Path, run_folder: Path) -> Any:
    """``config`` that writes into ``folder``; the built-in data stay where the run has them."""
    own = run_folder / "data"
    return dataclasses.replace(config, output_dir=folder, data=config.data or (own if own.is_dir() else None))


def _default_folder(config: Any, known: Any) -> Path:
    """The folder of the run; for other data than its own one in it, so that the numbers of its training stay."""
    run_folder: Path = known.output_dir
    data, own = (_evaluated_data(asked, run_folder) for asked in (config, known))
    if data.resolve() == own.resolve():
        return run_folder
    wanted = run_folder / f"{_OTHER}{data.resolve().name}"
    folders = (wanted.with_name(f"{wanted.name}-{number}" if number > 1 else wanted.name) for number in count(1))
    folder = next(folder for folder in folders if _is_free_for(data, folder / _WHOSE))
    _say(f"{data}: not the data of the run, whose eval/ and plots/ stay as they are; those of {data} go into {folder}")
    return folder


def _is_free_for(data: Path, whose: Path) -> bool:
    """Whether the folder of the file ``whose`` holds no numbers of other data."""
    try:
        return whose.read_bytes() == os.fsencode(data.resolve())
    except OSError:
        return True


def _note_data(whose: Path, data: Path) -> None:
    # The folder may not be there yet on the other processes, or never, on a machine with a disk of its own.
    if _is_first():
        with suppress(OSError):  # what could not be written there was told already
            whose.write_bytes(os.fsencode(data.resolve()))


def _evaluated_data(config: Any, run_folder: Path) -> Path:
    """The folder of the data set whose validation part ``config`` evaluates."""
    return getattr(config, "val_data", None) or config.data or run_folder / "data"


def _say(line: str) -> None:
    if _is_first():
        print(line)


def _is_first() -> bool:
    """Whether this is the only process, or the first one of those that torchrun or SLURM has started."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def _arguments(config_kind: type, default: Any) -> type:
    checkpoint = Annotated[Path, tyro.conf.arg(metavar="PATH", help="Checkpoint file.")]
    help_plots = "Write eval/ and plots/ into this folder. By default as --output-dir says."
    plots = Annotated[Path | None, tyro.conf.arg(metavar="DIR", help=help_plots)]
    fields: list[Any] = [
        ("checkpoint", checkpoint),
        ("plots", plots, dataclasses.field(default=None)),
        ("config", config_kind, dataclasses.field(default=default)),
    ]
    return dataclasses.make_dataclass("Evaluate", fields)


def _checkpoint_argument(args: list[str], command: str) -> Path:
    for position, arg in enumerate(args):
        if arg == "--checkpoint" and position + 1 < len(args):
            return Path(args[position + 1])
        if arg.startswith("--checkpoint="):
            return Path(arg.partition("=")[2])
    raise UsageError(f"{command} needs --checkpoint PATH, the file of a run such as runs/NAME/checkpoints/best.pt")
