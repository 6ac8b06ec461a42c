"""``make-data``: the built-in data set in a format of choice."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ignite_imgtools.commands.parsing import UsageError, check_known, parse

__all__ = ["Arguments", "main"]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the command takes."""

    format: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FORMAT")]
    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    num_train: Annotated[int, tyro.conf.arg(metavar="N")] = 400
    """Training images."""
    num_val: Annotated[int, tyro.conf.arg(metavar="N")] = 100
    """Validation images."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """The same seed writes the same files."""
    image_size: Annotated[int, tyro.conf.arg(metavar="N")] = 160
    """Longer side of the largest images, in pixels."""


def main(args: list[str]) -> int:
    """Write it."""
    from ignite_imgtools.data.make_data import FORMATS, make_data

    formats = ", ".join(FORMATS)
    parsed = parse(
        Arguments, args, "make-data", f"Write the built-in data set: shapes with exact annotations. FORMAT: {formats}."
    )
    check_known("format", parsed.format, FORMATS)
    try:
        make_data(
            parsed.format,
            parsed.directory,
            num_train=parsed.num_train,
            num_val=parsed.num_val,
            seed=parsed.seed,
            image_size=parsed.image_size,
        )
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from None
    print(f"{parsed.num_train} training and {parsed.num_val} validation images written to {parsed.directory}")
    return 0
