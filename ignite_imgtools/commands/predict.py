"""``predict``: what a model finds in images and films."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Any

import tyro

from ignite_imgtools.commands.parsing import UsageError, parse, recipe_name
from ignite_imgtools.recipes import load_recipe

__all__ = ["arguments", "main"]


@dataclasses.dataclass(frozen=True)
class _Predict:
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE...")]
    """Image files, folders of images, patterns such as 'a/*.jpg', or films."""
    checkpoint: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """Checkpoint file."""
    output_dir: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("predictions")
    """Folder for the pictures and predictions.json."""
    device: str = "auto"
    """cpu, cuda, or auto, which is cuda where there is one."""
    frames_every: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Of a film look at every Nth frame. By default at one a second."""


@dataclasses.dataclass(frozen=True)
class _PredictWithScores(_Predict):
    score_threshold: Annotated[float, tyro.conf.arg(metavar="X")] = 0.5
    """Leave out predictions of a lower score."""


@dataclasses.dataclass(frozen=True)
class _PredictWithBoxes(_Predict):
    boxes: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where to look: csv of names and x1, y1, x2, y2, a detector's predictions.json, or COCO results. Default: all."""


@dataclasses.dataclass(frozen=True)
class _PredictInSureBoxes(_PredictWithBoxes):
    score_threshold: Annotated[float, tyro.conf.arg(metavar="X")] = 0.5
    """Leave out boxes of a lower score."""


def main(args: list[str]) -> int:
    """Write pictures and ``predictions.json``."""
    from ignite_imgtools.commands.inputs import find_inputs

    name = recipe_name("predict", args)
    recipe = load_recipe(name)
    kind = arguments(recipe)
    parsed = parse(kind, args[1:], f"predict {name}", "Draw predictions on images, and write them as json.")
    if not parsed.images:
        raise UsageError("predict needs images: files, folders, patterns or films")
    options = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)}
    every = options.pop("frames_every")
    images = find_inputs(options.pop("images"), options["output_dir"] / "frames", every)
    recipe.predict(options.pop("checkpoint"), images, **options)
    return 0


def arguments(recipe: Any) -> type:
    """What the command takes for this recipe."""
    parameters = inspect.signature(recipe.predict).parameters
    # A mask has a class for every pixel, and no score that something could be below.
    if "boxes" in parameters:
        return _PredictInSureBoxes if "score_threshold" in parameters else _PredictWithBoxes
    return _PredictWithScores if "score_threshold" in parameters else _Predict
