"""What every predict does with the files it is given."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ignite_imgtools.formats import DataError
from ignite_imgtools.recipes.prediction_files import PredictionEntries, named_images


def test_pictures_that_cannot_be_read_are_passed_over_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("ignite_imgtools"), "propagate", True)
    for name in ("a.png", "d.png"):
        Image.fromarray(np.zeros((4, 5, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    (tmp_path / "c.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 4 images could not be read"):
        _write_names(tmp_path, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["picture"] for entry in written] == ["a.png", "d.png"]
    warnings = list(dict.fromkeys(record.getMessage() for record in caplog.records))
    assert [Path(line.split(": ")[0]).name for line in warnings] == ["b.jpg", "c.png"]
    assert all(line.endswith("; passed over") and "data set" not in line for line in warnings)


def _write_names(folder: Path, output_dir: Path) -> None:
    with PredictionEntries(output_dir) as entries:
        for path, name, image in named_images([folder]):
            entries.add(path, image, {"picture": name})


def test_each_picture_has_a_name_of_its_own(tmp_path: Path) -> None:
    names = ["a.jpg", "a-2.jpg", "a.png", "b/a-2.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)

    written = [written for _, written, _ in named_images([tmp_path / name for name in names])]

    assert written == ["a.png", "a-2.png", "a-3.png", "a-2-2.png"]
