"""``compare``: several runs in one figure and one table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ignite_imgtools.commands.parsing import parse

__all__ = ["Arguments", "main"]

DESCRIPTION = "Draw the curves of several runs in one figure, and print their numbers and differing settings."


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the command takes."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN...")]
    """Run folders."""
    figure: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("comparison.png")
    """File for the figure, a PNG."""


def run(arguments: Arguments) -> str:
    """Write the figure, and return the table."""
    from ignite_imgtools.formats import one_line
    from ignite_imgtools.handlers import RunFolderError
    from ignite_imgtools.handlers.figures import array_to_png, figure_to_array
    from ignite_imgtools.handlers.run_comparison import comparison_figure, comparison_text
    from ignite_imgtools.handlers.run_files import write_atomically
    from ignite_imgtools.handlers.run_record import read_run

    if len(arguments.runs) < 2:
        raise RunFolderError(f"compare needs two or more run folders, got {len(arguments.runs)}")
    runs = [read_run(folder) for folder in arguments.runs]
    lines = [one_line(line) for line in comparison_text(runs).splitlines()]
    figure = comparison_figure(runs)
    if figure is None:
        return "\n".join([*lines, "", "no curves: nothing was logged yet"])
    try:
        write_atomically(arguments.figure, array_to_png(figure_to_array(figure)))
    except OSError as error:
        raise RunFolderError(f"--figure {arguments.figure}: cannot be written: {error}") from error
    return "\n".join([*lines, "", f"curves: {arguments.figure}"])


def main(args: list[str]) -> int:
    """Write the figure, and print the table."""
    print(run(parse(Arguments, args, "compare", DESCRIPTION)))
    return 0
