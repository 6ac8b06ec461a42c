"""What every ``predict`` does: read images one by one, and list what became of each in ``predictions.json``."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ignite_imgtools.data import read_image
from ignite_imgtools.data.faults import fault_of_error
from ignite_imgtools.formats import DataError
from ignite_imgtools.progress import waiting

__all__ = ["PredictionEntries", "find_images", "named_images"]

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}

_logger = logging.getLogger(__name__)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The image files among ``paths`` and, by their endings, in those that are folders.

    Raises:
        DataError: there is nothing at one of the paths, or no image in a folder.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder; correct the path")
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _ENDINGS) if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path}: no image in this folder; expected files ending in {' '.join(sorted(_ENDINGS))}")
        found += files
    return found


def named_images(paths: Sequence[Path]) -> Iterator[tuple[Path, str, Tensor]]:
    """Each image among ``paths`` and in those that are folders: its path, the name of a picture of it (``NAME.png``,
    ``NAME-2.png`` for a second image of that name), and itself, uint8 ``[3, H, W]``.

    An image that cannot be read is warned of and passed over.

    Raises:
        DataError: there is nothing at one of the paths; or, after the last image, some could not be read.
    """
    seen: dict[str, int] = {}
    taken: set[str] = set()
    images, unread = find_images(paths), 0
    for path in waiting("predicting", images):
        try:
            image = read_image(path)
        except DataError as error:
            # Its own advice is for a data set, whose annotations may be wrong too.
            _logger.warning("%s", dataclasses.replace(fault_of_error(error, path), advice="passed over"))
            unread += 1
            continue
        while True:  # another image may be called NAME-2 itself
            number = seen[path.stem] = seen.get(path.stem, 0) + 1
            name = f"{path.stem}.png" if number == 1 else f"{path.stem}-{number}.png"
            if name not in taken:
                break
        taken.add(name)
        yield path, name, image
    if unread:
        raise DataError(f"{unread} of {len(images)} images could not be read; replace those files or leave them out")


class PredictionEntries:
    """Makes the folder and those in it, and writes ``predictions.json`` however the work ends."""

    def __init__(self, output_dir: Path, *folders: str):
        self._output_dir, self._folders = output_dir, folders
        self._entries: list[dict[str, Any]] = []

    def __enter__(self) -> PredictionEntries:
        for folder in self._folders or (".",):
            (self._output_dir / folder).mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        (self._output_dir / "predictions.json").write_text(json.dumps(self._entries, indent=1) + "\n")

    def add(self, path: Path, image: Tensor, outcome: dict[str, Any]) -> None:
        """Note what became of an image, beside its ``file``, ``width`` and ``height``."""
        self._entries.append({"file": str(path), "width": image.shape[2], "height": image.shape[1], **outcome})
