"""Masks: against Pillow and loops, in every way that class numbers are stored, and what is said of bad ones."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ignite_imgtools.data import image_size, read_mask
from ignite_imgtools.data.masks import read_binary_mask, read_label_mask
from ignite_imgtools.formats import DataError
from tests.data.dense_folders import labels, save

VALUES = labels(0, list(range(256)), 13, 22)


def write_png(path: Path, values: np.ndarray, bits: int, colour: int = 0, more: bytes = b"") -> Path:
    """A PNG by the specification alone: rows of packed numbers, most significant bits first."""
    height, width = values.shape
    rows = b""
    for row in values:
        packed = "".join(f"{value:0{bits}b}" for value in row.tolist())
        packed += "0" * (-len(packed) % 8)
        rows += b"\0" + int(packed, 2).to_bytes(len(packed) // 8, "big")

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def palette_chunk() -> bytes:
    colours = np.random.default_rng(3).integers(0, 256, 768, dtype=np.uint8).tobytes()
    return struct.pack(">I", 768) + b"PLTE" + colours + struct.pack(">I", zlib.crc32(b"PLTE" + colours))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_numbers_are_not_stretched(tmp_path: Path, bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (5, 7))
    mask = read_mask(write_png(tmp_path / "a.png", values, bits))
    assert mask.dtype == (torch.int32 if bits == 16 else torch.uint8)
    assert mask.tolist() == values.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_numbers_of_a_palette_are_kept_whatever_its_colours(tmp_path: Path, bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (5, 7))
    assert read_mask(write_png(tmp_path / "a.png", values, bits, 3, palette_chunk())).tolist() == values.tolist()


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif"])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_formats(tmp_path: Path, suffix: str, mode: str) -> None:
    path = save(tmp_path / f"a.{suffix}", VALUES, mode)
    if (suffix, mode) == ("gif", "P"):
        # Pillow leaves out colours that do not occur, and numbers the others anew.
        with pytest.raises(DataError, match="neither JPEG nor GIF with colours keeps class numbers as they were"):
            read_mask(path)
    else:
        assert read_mask(path).tolist() == VALUES.tolist()
    with Image.open(path) as image:
        brightness = np.array(image.convert("RGB").convert("L"))
    assert read_mask(path, "grey").tolist() == brightness.tolist()


def test_more_than_8_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (5, 7)).astype(np.uint16)
    for name, image in (("a.tif", Image.fromarray(values)), ("b.tif", Image.fromarray(values.astype(np.int32)))):
        image.save(tmp_path / name)
        assert read_mask(tmp_path / name).tolist() == values.tolist()
        assert read_mask(tmp_path / name, "grey").tolist() == np.round(values / 257).astype(int).tolist()


def test_black_and_white(tmp_path: Path) -> None:
    values = labels(0, [0, 1], 5, 7)
    Image.fromarray(values.astype(bool)).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").tolist() == values.tolist()
    assert read_mask(tmp_path / "a.png", "grey").tolist() == (values * 255).tolist()
    assert read_binary_mask(tmp_path / "a.png").tolist() == values.astype(bool).tolist()


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_grey_image_stored_as_a_colour_image(tmp_path: Path, channels: int) -> None:
    pixels = np.stack([VALUES] * channels, axis=-1)
    if channels in (2, 4):
        pixels[..., -1] = 77  # transparency
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").tolist() == VALUES.tolist()
    assert read_mask(tmp_path / "a.png", "grey").tolist() == VALUES.tolist()


def test_a_palette_with_transparent_colours(tmp_path: Path) -> None:
    image = Image.fromarray(VALUES)
    image.putpalette(bytes(value for index in range(256) for value in (index, index, index)))
    image.save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert read_mask(tmp_path / "a.png").tolist() == VALUES.tolist()
    assert read_mask(tmp_path / "a.png", "grey").tolist() == VALUES.tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_masks_are_turned_as_images_are(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(VALUES).save(path, exif=exif)
    turns = {1: "", 2: "m", 3: "rr", 4: "rrm", 5: "rrrm", 6: "rrr", 7: "rm", 8: "r"}[orientation]
    expected = VALUES
    for turn in turns:
        expected = np.rot90(expected) if turn == "r" else expected[:, ::-1]
    for kind in ("labels", "grey"):
        assert read_mask(path, kind).tolist() == expected.tolist()
    assert image_size(path) == expected.shape


def test_labels_are_checked(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", VALUES)
    good = np.where(VALUES == 11, 255, VALUES)
    assert read_label_mask(path, 255, [11]).tolist() == good.tolist()
    assert read_label_mask(path, 255).dtype == np.int64

    few = np.array([[0, 1, 3, 3], [255, 2, 7, 11]], dtype=np.uint8)
    save(path, few)
    message = r"a.png: class numbers: expected 0 to 2, or 11 or 255 where ignored, got 3 \(2 pixels\), 7 \(1 pixels\); "
    with pytest.raises(DataError, match=message):
        read_label_mask(path, 3, [11])
    save(path, np.arange(20, dtype=np.uint8).reshape(4, 5))
    with pytest.raises(DataError, match=r"9 \(1 pixels\) and 10 more; correct the mask or the list of classes$"):
        read_label_mask(path, 2)


def test_labels_of_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 1, 255]], dtype=np.uint16)).save(path)
    assert read_label_mask(path, 2).tolist() == [[0, 1, 255]]
    Image.fromarray(np.array([[0, 256, 65535]], dtype=np.uint16)).save(path)
    with pytest.raises(DataError, match=r"got 256 \(1 pixels\), 65535 \(1 pixels\)"):
        read_label_mask(path, 255)


def test_brightness_from_half_on_counts(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", VALUES)
    expected = [[value >= 128 for value in row] for row in VALUES.tolist()]
    assert read_binary_mask(path).tolist() == expected
    # A JPEG will do where numbers need not be exact.
    Image.fromarray((np.array(expected).repeat(8, 0).repeat(8, 1) * 255).astype(np.uint8)).save(tmp_path / "a.jpg")
    assert (read_binary_mask(tmp_path / "a.jpg")[4::8, 4::8] == expected).all()


def test_zeros_and_ones_are_no_brightness(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", labels(0, [0, 1]))
    with pytest.raises(DataError, match=r"a.png: brightness: expected 0 to 255, .* got 0 and 1 alone; write 255 for 1"):
        read_binary_mask(path)
    assert not read_binary_mask(save(path, labels(0, [0]))).any()


def test_colours_are_no_labels(tmp_path: Path) -> None:
    pixels = np.zeros((4, 5, 3), dtype=np.uint8)
    pixels[2:, 3] = (128, 0, 64)
    path = save(tmp_path / "a.png", pixels)
    with pytest.raises(DataError, match=r"a.png: class numbers: .* colours such as \(128, 0, 64\); replace each"):
        read_mask(path)
    path = save(tmp_path / "a.jpg", VALUES)
    with pytest.raises(DataError, match=r"a.jpg: neither JPEG nor GIF .*; write masks as PNG"):
        read_mask(path)
    Image.fromarray(VALUES.astype(np.float32)).save(tmp_path / "a.tif")
    for kind in ("labels", "grey"):
        with pytest.raises(DataError, match=r"a.tif: .*floating point"):
            read_mask(tmp_path / "a.tif", kind)
    Image.fromarray(np.full((2, 2), -3, dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="expected pixels from 0 to 65535, got -3 to -3"):
        read_mask(tmp_path / "a.tif", "grey")
    with pytest.raises(ValueError, match="kind must be 'labels' or 'grey', got 'color'"):
        read_mask(path, "color")


def test_hostile_files(tmp_path: Path) -> None:
    bomb = write_png(tmp_path / "bomb.png", np.zeros((1, 1), dtype=int), 1)
    bomb.write_bytes(bomb.read_bytes().replace(struct.pack(">II", 1, 1), struct.pack(">II", 60_000, 60_000)))
    good = save(tmp_path / "good.png", VALUES).read_bytes()
    (tmp_path / "half.png").write_bytes(good[: len(good) // 2])
    gif = save(tmp_path / "good.gif", VALUES).read_bytes()
    (tmp_path / "half.gif").write_bytes(gif[: -len(gif) // 4])
    (tmp_path / "page.png").write_bytes(b"<!DOCTYPE html>")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in {
        "bomb.png": "60000 x 60000 is over the limit of 178,956,970 pixels",
        "half.png": "truncated",
        "half.gif": "truncated",
        "page.png": "no known image format",
        "empty.png": "is empty",
        "folder.png": "it is a folder",
        "pipe.png": "not a regular file",
        "none.png": "no such image file",
    }.items():
        for kind in ("labels", "grey"):
            with pytest.raises(DataError, match=reason) as caught:
                read_mask(tmp_path / name, kind)
            assert str(caught.value).startswith(f"{tmp_path / name}: ")
            assert "\n" not in str(caught.value)


@pytest.mark.data
def test_real_masks(real_data: Path) -> None:
    for pattern in (
        "voc2012_mini/**/SegmentationClass/*7.png",
        "camvid/**/*annot/*5*.png",
        "drive/**/1st_manual/*.gif",
    ):
        for path in sorted(real_data.glob(pattern)):
            with Image.open(path) as image:
                expected = np.array(image)
            assert (read_mask(path).numpy() == expected).all()
            assert (read_label_mask(path, 21, [11] if "camvid" in pattern else []) <= 255).all()
    for path in sorted(real_data.glob("duts_tr/**/*Mask/*3.png")):
        with Image.open(path) as image:
            assert (read_binary_mask(path) == (np.array(image) > 127)).all()
