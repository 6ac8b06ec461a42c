"""``check``: what is wrong with a data set."""

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
    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the data set."""
    decode: bool = False
    """Decode every image too: that finds damage in the middle of files."""


def main(args: list[str]) -> int:
    """Print the faults; the status is 2 if there are any."""
    from ignite_imgtools.data import check

    formats = ", ".join(check.FORMATS)
    parsed = parse(
        Arguments,
        args,
        "check",
        f"Find what is wrong with a data set, decoding masks of classes, and images with --decode. FORMAT: {formats}.",
    )
    check_known("format", parsed.format, check.FORMATS)
    if not parsed.data.is_dir():
        raise UsageError(f"--data must be a folder; there is no folder {parsed.data}")
    good, report = check.check_and_report(parsed.format, parsed.data, decode=parsed.decode)
    print(report)
    if parsed.format == "yolo" and good:
        print(check.anchor_report(parsed.format, parsed.data))
    return 0 if good else 2
