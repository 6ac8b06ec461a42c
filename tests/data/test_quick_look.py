"""The quick look at an image tells its size or nothing, and never looks outside of the folder."""

import os

import numpy as np
import pytest
from PIL import Image

from ignite_imgtools.data.images import image_size
from ignite_imgtools.data.quick_look import complete_jpeg_size


def write(path, height=30, width=40, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("size", [(1, 1), (30, 40), (480, 640)])
def test_size_of_a_good_image(tmp_path, size):
    path = write(tmp_path / "a" / "b.jpg", *size)
    assert complete_jpeg_size(str(tmp_path), "a/b.jpg") == image_size(path) == size


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = write(tmp_path / "a.jpg", exif=exif)
    assert complete_jpeg_size(str(tmp_path), "a.jpg") == image_size(path) == (40, 30)


def test_anything_else_needs_a_closer_look(tmp_path):
    good = write(tmp_path / "in" / "good.jpg").read_bytes()
    write(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "cut.jpg").write_bytes(good[:-40])
    (tmp_path / "in" / "trailing.jpg").write_bytes(good + b"more")
    (tmp_path / "in" / "empty.jpg").write_bytes(b"")
    (tmp_path / "in" / "long.jpg").write_bytes(good[:2] + b"\xff\xfe\xff\xf0" + bytes(0xFFEE) + good[2:])
    (tmp_path / "in" / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    (tmp_path / "in" / "link.jpg").symlink_to("good.jpg")
    write(tmp_path / "out" / "a.jpg")
    (tmp_path / "in" / "away").symlink_to(tmp_path / "out")
    names = [path.name for path in (tmp_path / "in").iterdir() if path.name not in ("good.jpg", "away")]
    assert len(names) == 8
    outside = ["../out/a.jpg", "away/a.jpg", str(tmp_path / "in" / "good.jpg"), "", "none.jpg", "a\0.jpg", "x" * 5000]
    assert [name for name in names + outside if complete_jpeg_size(str(tmp_path / "in"), name)] == []
    assert complete_jpeg_size(str(tmp_path / "in"), "good.jpg") == (30, 40)
