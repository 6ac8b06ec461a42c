"""``convert``: a detection data set in another format."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ignite_imgtools.commands.parsing import UsageError, parse

__all__ = ["Arguments", "main"]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the command takes."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    directory: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="NEW_DIR")]
    to: Literal["coco", "voc", "yolo"]
    """Format to write."""
    data_format: Annotated[str | None, tyro.conf.arg(metavar="FORMAT")] = None
    """Format to read: coco, voc or yolo. By default found from the folder's layout."""
    crowd: Literal["drop", "keep"] = "drop"
    """Crowds and difficult objects, which yolo cannot mark: leave them out, or make them objects like others."""
    decimals: Annotated[int, tyro.conf.arg(metavar="N")] = 6
    """Digits of the numbers in yolo's label files."""
    link_images: bool = False
    """Make hard links to the images instead of copies, where the file system can."""
    on_bad_sample: Literal["raise", "skip"] = "raise"
    """What to do with an image or annotation that cannot be used: stop, or leave it out."""


def main(args: list[str]) -> int:
    """Write it."""
    from ignite_imgtools.data import convert_detection_data

    parsed = parse(Arguments, args, "convert", "Write the boxes and images of a detection data set in another format.")
    try:
        converted = convert_detection_data(
            parsed.folder,
            parsed.directory,
            parsed.to,
            data_format=parsed.data_format,
            crowd=parsed.crowd,
            decimals=parsed.decimals,
            link_images=parsed.link_images,
            on_bad_sample=parsed.on_bad_sample,
        )
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from None
    print(f"{converted} written to {parsed.directory}")
    return 0
