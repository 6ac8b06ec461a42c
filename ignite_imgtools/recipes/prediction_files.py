"""What every ``predict`` does: read images one by one, and list what became of each in ``predictions.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ignite_imgtools.data import read_image
from ignite_imgtools.progress import waiting
from ignite_imgtools.recipes.detection_prediction import find_images

__all__ = ["PredictionEntries", "named_images"]


def named_images(paths: Sequence[Path]) -> Iterator[tuple[Path, str, Tensor]]:
    """Each image among ``paths`` and in those that are folders: its path, the name of a picture of it (``NAME.png``,
    ``NAME-2.png`` for a second image of that name), and itself, uint8 ``[3, H, W]``.

    Raises:
        DataError: there is nothing at one of the paths, or an image cannot be read.
    """
    seen: dict[str, int] = {}
    for path in waiting("predicting", find_images(paths)):
        number = seen[path.stem] = seen.get(path.stem, 0) + 1
        yield path, f"{path.stem}.png" if number == 1 else f"{path.stem}-{number}.png", read_image(path)


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
