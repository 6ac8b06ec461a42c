"""Image files: against Pillow for every kind and orientation, and what is said of bad ones."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from ignite_imgtools.data import images
from ignite_imgtools.data.images import image_size, read_image, resolve_inside
from ignite_imgtools.formats import DataError, one_line

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 22, 3), dtype=np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def shown(path: Path) -> np.ndarray:
    """What Pillow shows of a file: the independent answer."""
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGBA").convert("RGB"))


def check(path: Path, expected: np.ndarray, tolerance: int = 0) -> None:
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert image_size(path) == tuple(image.shape[1:]) == expected.shape[:2]
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "bmp", "webp", "ppm", "jp2"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_formats(tmp_path: Path, suffix: str, mode: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(PIXELS).convert(mode))
    check(path, shown(path), tolerance=2 if suffix == "jpg" else 0)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("png", "1"), ("png", "P"), ("png", "LA"), ("png", "RGBA"), ("tif", "CMYK"), ("tif", "RGBA"), ("webp", "RGBA")],
)
def test_modes(tmp_path: Path, suffix: str, mode: str) -> None:
    image = Image.fromarray(PIXELS).convert("L" if mode == "LA" else "RGB").convert(mode)
    path = save(tmp_path / f"a.{suffix}", image, **({"lossless": True} if suffix == "webp" else {}))
    check(path, shown(path))


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_transparency_is_dropped(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(PIXELS).convert("P"), transparency=3)
    check(path, shown(path))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    cmyk = np.random.default_rng(1).integers(0, 256, (13, 22, 4), dtype=np.uint8)
    path = save(tmp_path / "a.jpg", Image.fromarray(cmyk, "CMYK"))
    check(path, shown(path), tolerance=2)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_not_cut(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 13 * 22).astype(np.uint16).reshape(13, 22)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(values))
    expected = np.round(values / 257).astype(int)
    check(path, np.stack([expected] * 3, axis=-1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_orientation_is_applied_to_pixels_and_size(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x0112] = orientation
    options = {"exif": exif, **({"lossless": True} if suffix == "webp" else {})}
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(PIXELS), **options)
    check(path, shown(path), tolerance=2 if suffix == "jpg" else 0)
    assert image_size(path) == ((13, 22) if orientation < 5 else (22, 13))


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_pillow_does_where_torchvision_has_no_decoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(PIXELS), exif=exif)
    by_torchvision = read_image(path)
    monkeypatch.setattr(images, "_DECODERS", dict.fromkeys(images._DECODERS, images._decode_by_pillow))
    check(path, shown(path))
    assert (read_image(path).int() - by_torchvision.int()).abs().max() <= 2


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", [0, 6, 9])
def test_exif_of_both_byte_orders(tmp_path: Path, order: str, orientation: int) -> None:
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(
        order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0
    )
    path = save(tmp_path / "a.jpg", Image.fromarray(PIXELS), exif=b"Exif\0\0" + tiff)
    assert image_size(path) == ((22, 13) if orientation == 6 else (13, 22))
    assert read_image(path).shape[1:] == image_size(path)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" * 2]
)
def test_broken_exif_is_no_orientation(tmp_path: Path, exif: bytes) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(PIXELS), exif=exif)
    assert image_size(path) == (13, 22)
    assert read_image(path).shape == (3, 13, 22)


def test_frame_header_behind_a_long_thumbnail(tmp_path: Path) -> None:
    encoded = save(tmp_path / "a.jpg", Image.fromarray(PIXELS), progressive=True).read_bytes()
    segments = b"".join(b"\xff\xff\xe2" + struct.pack(">H", 60000) + bytes(59998) for _ in range(3))
    (tmp_path / "b.jpg").write_bytes(encoded[:2] + segments + encoded[2:])
    assert image_size(tmp_path / "b.jpg") == (13, 22)


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    encoded = save(folder / "good.jpg", Image.fromarray(PIXELS)).read_bytes()
    png = save(folder / "good.png", Image.fromarray(PIXELS)).read_bytes()
    contents = {
        "empty.jpg": (b"", "is empty"),
        "page.jpg": (b"<!DOCTYPE html><title>not found</title>", "no known image format"),
        "three.jpg": (encoded[:3], "no known image format"),
        "header.jpg": (encoded[:20], "ends inside its header"),
        "half.jpg": (encoded[: len(encoded) // 2], "truncated"),
        "half.png": (png[: len(png) // 2], "image file is truncated|unexpected end|Truncated"),
        "no-size.jpg": (encoded[:2] + b"\xff\xc0\0\x0b\x08\0\0\0\0\x01\x01\x11\0", "0 x 0 pixels"),
        "junk.jpg": (encoded[:2] + b"\xff\xd8" + bytes(40), "no marker"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    others = {
        "missing.jpg": "no such image file",
        "folder.jpg": "it is a folder",
        "pipe.jpg": "not a regular file",
        "loop.jpg": "cannot be opened",
        "nul\0.jpg": "cannot be opened",
    }
    reasons = {name: reason for name, (_, reason) in contents.items()} | others
    return {name: (folder / name, reason) for name, reason in reasons.items()}


def test_bad_files_are_named_with_a_reason(tmp_path: Path) -> None:
    for path, reason in bad_files(tmp_path).values():
        with pytest.raises(DataError, match=reason) as caught:
            read_image(path)
        assert one_line(str(path)) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_size_of_bad_files(tmp_path: Path) -> None:
    for name, (path, reason) in bad_files(tmp_path).items():
        if name.startswith("half"):  # what is behind the header is not looked at
            assert image_size(path) == (13, 22)
        else:
            with pytest.raises(DataError, match=reason):
                image_size(path)


def test_a_bomb_is_not_decoded(tmp_path: Path) -> None:
    header = struct.pack(">II5B", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + bytes(4) + struct.pack(">I4sI", 0, b"IDAT", 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    assert image_size(path) == (50_000, 50_000)
    with pytest.raises(DataError, match=r"50000 x 50000 is over the limit of 178,956,970 pixels"):
        read_image(path)


def test_ranges_that_are_unknown_are_refused(tmp_path: Path) -> None:
    for name, dtype in (("f.tif", np.float32), ("i.tif", np.int32)):
        path = save(tmp_path / name, Image.fromarray(np.full((2, 2), 1e6).astype(dtype)))
        with pytest.raises(DataError, match="no known range"):
            read_image(path)


def test_formats_that_start_programs_are_not_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.eps", Image.fromarray(PIXELS))
    with pytest.raises(DataError, match="no known image format"):
        read_image(path)


def test_paths_stay_inside(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a").mkdir(parents=True)
    outside.mkdir()
    (root / "in").symlink_to(root / "a")
    (root / "out").symlink_to(outside)
    (root / "file.jpg").symlink_to(outside / "b.jpg")
    (tmp_path / "alias").symlink_to(root)
    for name in ("b.jpg", "a/b.jpg", "./a/b.jpg", "in/b.jpg", "a/..b.jpg"):
        assert resolve_inside(root, name) == root / name
    assert resolve_inside(tmp_path / "alias", "a/b.jpg") == tmp_path / "alias" / "a" / "b.jpg"
    for name, reason in {
        "": "relative",
        str(root / "b.jpg"): "relative",
        "b\0.jpg": "relative",
        "../root/b.jpg": "goes up",
        "a/../b.jpg": "goes up",
        "out/b.jpg": "link out of",
        "file.jpg": "link out of",
    }.items():
        with pytest.raises(DataError, match=reason) as caught:
            resolve_inside(root, name)
        assert repr(name) in str(caught.value)


@pytest.mark.data
def test_real_photographs(real_data: Path) -> None:
    paths = sorted(path for suffix in ("jpg", "png", "tif", "gif") for path in real_data.rglob(f"*.{suffix}"))
    for path in paths[::23]:
        check(path, shown(path), tolerance=2)


@pytest.mark.data
def test_sizes_are_read_quickly(real_data: Path) -> None:
    paths = sorted(real_data.rglob("*.jpg"))[:500]
    for path in paths:
        image_size(path)
    start = time.process_time()
    for path in paths:
        image_size(path)
    # Measured 60 microseconds each; the bound leaves room for slow machines.
    assert (time.process_time() - start) / len(paths) < 300e-6


def test_no_decoder_runs_for_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(PIXELS))
    monkeypatch.setattr(images, "_DECODERS", {})
    monkeypatch.setattr(Image, "open", None)
    assert image_size(path) == (13, 22)
