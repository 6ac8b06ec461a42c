"""``report``: the report of a run folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ignite_imgtools.commands.parsing import parse

__all__ = ["Arguments", "main"]

DESCRIPTION = (
    "Write report.html into a run folder, from its files alone; the run may be over, killed or still going on."
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the command takes."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN...")]
    """Run folders."""


def run(arguments: Arguments) -> str:
    """Write the reports and say where they are."""
    from ignite_imgtools.handlers import RunFolderError, write_report

    if not arguments.runs:
        raise RunFolderError("report needs the folder of a run, such as runs/faster_rcnn")
    written = []
    for folder in arguments.runs:
        try:
            written.append(write_report(folder))
        except OSError as error:
            raise RunFolderError(f"{folder}: report.html cannot be written: {error}") from error
    return "\n".join(f"{path}: {path.stat().st_size / 1e6:.1f} MB" for path in written)


def main(args: list[str]) -> int:
    """Write the reports."""
    print(run(parse(Arguments, args, "report", DESCRIPTION)))
    return 0
