"""``export``: a model as ONNX, TorchScript or torch.export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ignite_imgtools.commands.parsing import parse, recipe_name
from ignite_imgtools.recipes import load_recipe

__all__ = ["Arguments", "main"]

DESCRIPTION = "Write the model of a checkpoint for other programs, and run what was written to see the same numbers."


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the command takes beside the recipe."""

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """File to write."""
    checkpoint: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """Checkpoint file."""
    to: Literal["onnx", "torchscript", "export"]
    """Format: ONNX, TorchScript, or torch.export's .pt2."""
    size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="HEIGHT WIDTH")] = None
    """Size of the images, which is fixed in the file but for detectors. By default that of the training."""
    image: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE")] = None
    """Run a detector on this image too, and compare what is found."""


def run(recipe: Any, arguments: Arguments) -> str:
    """Write the file, and tell how near its numbers are."""
    from ignite_imgtools.data import read_image
    from ignite_imgtools.recipes.config import ConfigError
    from ignite_imgtools.recipes.export_files import TOLERANCE, write_export

    if arguments.size is not None and min(arguments.size) < 1:
        raise ConfigError(f"--size must be two positive numbers, got {arguments.size[0]} {arguments.size[1]}")
    image = None if arguments.image is None else read_image(arguments.image).float() / 255
    model = recipe.exportable(arguments.checkpoint, arguments.size)
    difference = write_export(model, arguments.to, arguments.out, image)
    shape = [model.dynamic.get(place, size) for place, size in enumerate(model.example.shape)]
    return (
        f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB\n"
        f"input {model.input} float32 {shape} in 0..1; output {', '.join(model.outputs)}\n"
        f"run again: largest difference {difference:.1e} of the largest output, allowed {TOLERANCE:g}"
    ).replace("'", "")


def main(args: list[str]) -> int:
    """Write the file, and print how near its numbers are."""
    name = recipe_name("export", args)
    parsed = parse(Arguments, args[1:], f"export {name}", DESCRIPTION)
    print(run(load_recipe(name), parsed))
    return 0
