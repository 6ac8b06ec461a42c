"""What ``predict`` looks at: files, folders, patterns, and the frames of films."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["FILMS", "extract_frames", "find_inputs"]

FILMS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
"""Endings of the files that are taken for films."""


def find_inputs(paths: Sequence[Path], frames: Path, every: int | None = None) -> list[Path]:
    """The files and folders among ``paths``, those that patterns among them stand for, and the frames of films.

    Args:
        frames: folder that frames are written to, as ``NAME-000120.jpg`` by their number.
        every: see :func:`extract_frames`.

    Raises:
        DataError: a pattern stands for nothing, or a film cannot be read.
        ConfigError: ``every`` is below 1, or films need a package that is not there.
    """
    from ignite_imgtools.formats import DataError

    found: list[Path] = []
    for path in paths:
        if path.exists() or not glob.has_magic(str(path)):
            found.append(path)
            continue
        root, pattern = (Path(path.anchor), path.relative_to(path.anchor)) if path.anchor else (Path(), path)
        matches = sorted(root.glob(str(pattern)))
        if not matches:
            raise DataError(f"{path}: no file has a name of this pattern; correct it")
        found += matches
    inputs: list[Path] = []
    for path in found:
        is_film = path.suffix.lower() in FILMS and path.is_file()
        inputs += extract_frames(path, frames, every) if is_film else [path]
    return inputs


def extract_frames(film: Path, folder: Path, every: int | None = None) -> list[Path]:
    """Write frames of a film as JPEGs into ``folder``, and return their paths.

    Args:
        every: write each frame whose number divides by this; ``None`` for about one a second.

    Raises:
        DataError: the film cannot be read.
        ConfigError: ``every`` is below 1, or the package that reads films is not there.
    """
    from ignite_imgtools.formats import DataError
    from ignite_imgtools.progress import Wait
    from ignite_imgtools.recipes.config import ConfigError

    if every is not None and every < 1:
        raise ConfigError(f"--frames-every must be at least 1, got {every}")
    try:
        import av
    except ImportError:
        raise ConfigError(f"{film}: films need the package av: pip install 'ignite_imgtools[video]'") from None
    written: list[Path] = []
    try:
        with av.open(str(film)) as container, Wait("reading frames", unit="frames") as wait:
            if not container.streams.video:
                raise DataError(f"{film}: no pictures in this film; give another file")
            stream: Any = container.streams.video[0]
            step = every or max(1, round(float(stream.average_rate or 1)))
            folder.mkdir(parents=True, exist_ok=True)
            for number, frame in enumerate(container.decode(stream)):
                if number % step == 0:
                    written.append(folder / f"{film.stem}-{number:06d}.jpg")
                    frame.to_image().save(written[-1], quality=95)
                wait.advance()
    except av.error.FFmpegError as error:
        raise DataError(f"{film}: cannot be read as a film: {error.strerror or error}; give another file") from error
    if not written:
        raise DataError(f"{film}: no frame in this film; give another file")
    return written
