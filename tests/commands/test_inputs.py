"""What predict looks at: patterns and films."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ignite_imgtools.commands.inputs import extract_frames, find_inputs
from ignite_imgtools.formats import DataError
from ignite_imgtools.recipes.config import ConfigError


def _write_film(path: Path, frames: int = 25) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            pixels = np.full((48, 64, 3), 10 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def test_patterns_stand_for_files_and_files_for_themselves(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.jpg", "c.png", "[1].jpg"):
        (tmp_path / name).write_bytes(b"")
    found = find_inputs([tmp_path / "?.jpg", tmp_path / "[1].jpg", tmp_path / "none.jpg"], tmp_path / "frames")
    assert found == [tmp_path / name for name in ("a.jpg", "b.jpg", "[1].jpg", "none.jpg")]
    with pytest.raises(DataError, match="no file has a name of this pattern"):
        find_inputs([tmp_path / "*.tif"], tmp_path / "frames")
    assert not (tmp_path / "frames").exists()


def test_frames_of_a_film_are_named_by_their_number(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    _write_film(film)
    found = find_inputs([film], tmp_path / "frames", 10)
    assert [path.name for path in found] == ["film-000000.jpg", "film-000010.jpg", "film-000020.jpg"]
    for path, grey in zip(found, (0, 100, 200), strict=True):
        with Image.open(path) as picture:
            assert picture.size == (64, 48)
            assert abs(np.asarray(picture).mean() - grey) < 12
    assert len(extract_frames(film, tmp_path / "each_second")) == 3


def test_what_is_no_film_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no film")
    with pytest.raises(DataError, match=r"a\.mp4: cannot be read as a film"):
        extract_frames(tmp_path / "a.mp4", tmp_path)
    with pytest.raises(ConfigError, match="--frames-every must be at least 1, got 0"):
        extract_frames(tmp_path / "a.mp4", tmp_path, 0)
