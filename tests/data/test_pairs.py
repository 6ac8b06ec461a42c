import os

import numpy as np
import pytest
from PIL import Image

from ignite_imgtools.data.pairs import Column, examine_pairs, list_files, match_files, read_lines
from ignite_imgtools.formats import DataError
from tests.data.dense_folders import labels, photo, save

SUFFIXES = (".jpg", ".png", ".tif", ".gif")


def columns(folder):
    return [Column("image", folder / "images", SUFFIXES), Column("mask", folder / "masks", SUFFIXES)]


@pytest.fixture
def folder(tmp_path):
    for seed, stem in enumerate(("a", "b", "c.d")):
        save(tmp_path / "images" / f"{stem}.jpg", photo(seed))
        save(tmp_path / "masks" / f"{stem}.png", labels(seed, [0, 1]))
    return tmp_path


def test_files_are_matched_by_name(folder):
    (folder / "images" / "a.jpg").rename(folder / "images" / "a.JPG")
    (folder / "images" / ".hidden.jpg").touch()
    (folder / "images" / "Thumbs.db").touch()
    (folder / "masks" / "readme.txt").touch()
    rows, faults = match_files(columns(folder))
    assert [row.names for row in rows] == [("a.JPG", "a.png"), ("b.jpg", "b.png"), ("c.d.jpg", "c.d.png")]
    assert faults == []
    table, faults = examine_pairs(columns(folder), rows, faults, folder)
    assert faults == []
    assert len(table) == 3
    assert (table.name(2), table.name(-1, 1), table.path(0, 1)) == ("c.d.jpg", "c.d.png", folder / "masks" / "a.png")
    assert [table.size(index) for index in range(3)] == [(30, 40)] * 3
    with pytest.raises(IndexError):
        table.name(3)


def test_what_has_no_counterpart(folder):
    (folder / "masks" / "a.png").unlink()
    (folder / "images" / "b.jpg").unlink()
    rows, faults = match_files(columns(folder))
    assert [row.names[0] for row in rows] == ["c.d.jpg"]
    assert list(map(str, faults)) == [
        f"{folder}/images/a.jpg: mask: expected one of the same name in {folder}/masks, got none; "
        "add it, or remove this image",
        f"{folder}/masks/b.png: image: expected one of the same name in {folder}/images, got none; "
        "add it, or remove this mask",
    ]
    (folder / "images" / "c.d.jpg").unlink()
    rows, faults = match_files(columns(folder))
    table, faults = examine_pairs(columns(folder), rows, faults, folder)
    assert table is None
    assert [fault.fatal for fault in faults] == [False, False, False, True]
    assert "images: expected at least one image with its mask that can be used, got none" in str(faults[-1])


def test_two_files_of_one_name(folder):
    save(folder / "images" / "a.png", photo(0))
    found, (fault,) = list_files(columns(folder)[0], str)
    assert found["a"] == "a.jpg"
    assert (
        str(fault) == f"{folder}/images/a.png: image: expected no other one of this name, got a.jpg; remove one of them"
    )


def test_no_folder(folder):
    gone = [columns(folder)[0], Column("mask", folder / "nothing", SUFFIXES)]
    rows, (fault,) = match_files(gone)
    assert rows == []
    assert fault.fatal
    assert str(fault).startswith(f"{folder}/nothing: folder of masks: expected a folder, got No such file or directory")
    assert examine_pairs(gone, rows, [fault], folder) == (None, [fault])


def examine(folder):
    rows, faults = match_files(columns(folder))
    table, faults = examine_pairs(columns(folder), rows, faults, folder)
    return [table.name(index) for index in range(len(table))], faults


def test_sizes_must_agree(folder):
    save(folder / "masks" / "a.png", labels(0, [0, 1], 40, 30))
    save(folder / "masks" / "b.png", labels(0, [0, 1], 30, 41))
    names, faults = examine(folder)
    assert names == ["c.d.jpg"]
    assert list(map(str, faults)) == [
        f"{folder}/masks/a.png: size: expected 40 x 30 as {folder}/images/a.jpg has, got 30 x 40 (turned by EXIF "
        "orientation?); replace the mask",
        f"{folder}/masks/b.png: size: expected 40 x 30 as {folder}/images/b.jpg has, got 41 x 30; replace the mask",
    ]


def test_an_image_that_is_turned_needs_a_mask_that_is(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(0)).save(folder / "images" / "a.jpg", exif=exif)
    assert "got 40 x 30 (turned" in str(examine(folder)[1][0])
    Image.fromarray(labels(0, [0, 1])).save(folder / "masks" / "a.png", exif=exif)
    assert examine(folder)[1] == []


def test_damaged_and_hostile_files(folder, tmp_path_factory):
    outside = save(tmp_path_factory.mktemp("outside") / "a.png", labels(0, [0, 1]))
    (folder / "masks" / "a.png").unlink()
    (folder / "masks" / "a.png").symlink_to(outside)
    content = (folder / "images" / "b.jpg").read_bytes()
    (folder / "images" / "b.jpg").write_bytes(content[:-20])
    for stem, suffix in (("e", "tif"), ("f", "tif"), ("g", "png")):
        save(folder / "images" / f"{stem}.{suffix}", photo(4))
        save(folder / "masks" / f"{stem}.png", labels(0, [0, 1]))
    content = (folder / "images" / "e.tif").read_bytes()
    assert content.index(photo(4).tobytes()[:64]) < 200  # the directory of tags comes first, so it is still whole
    (folder / "images" / "e.tif").write_bytes(content[:-20])
    (folder / "images" / "g.png").unlink()
    os.mkfifo(folder / "images" / "g.png")
    names, faults = examine(folder)
    assert names == ["c.d.jpg", "f.tif"]
    assert [str(fault).removeprefix(f"{folder}/") for fault in faults] == [
        f"masks/a.png: file name 'a.png' follows a link out of {folder}/masks; copy the file into the folder",
        "images/b.jpg: the image breaks off before its end; restore the file",
        "images/e.tif: the image breaks off before its end; restore the file",
        "images/g.png: expected an image file, it is not a regular file; correct the annotation",
    ]


def test_a_link_made_later_is_not_followed(folder, tmp_path_factory):
    rows, faults = match_files(columns(folder))
    table, _ = examine_pairs(columns(folder), rows, faults, folder)
    outside = save(tmp_path_factory.mktemp("outside") / "a.png", labels(0, [0, 1]))
    (folder / "masks" / "a.png").unlink()
    (folder / "masks" / "a.png").symlink_to(outside)
    with pytest.raises(DataError, match="follows a link out of"):
        table.path(0, 1)


def test_folders_with_the_names_of_each_other_are_told_apart(tmp_path):
    """A name that occurs twice in a path is no trouble: no path is made by replacing a part of another."""
    root = tmp_path / "images" / "masks" / "images"
    save(root / "images" / "images.jpg", photo(0))
    save(root / "masks" / "images.png", labels(0, [0, 1]))
    table, faults = examine_pairs(columns(root), *match_files(columns(root)), root)
    assert faults == []
    assert table.path(0, 1) == root / "masks" / "images.png"


def test_tables_hold_no_objects_for_each_file(folder):
    """Workers share flat arrays; what they count references of, they copy."""
    table, _ = examine_pairs(columns(folder), *match_files(columns(folder)), folder)
    assert all(isinstance(part, np.ndarray) for names in table.names for part in (names.values, names.starts))
    assert table.sizes.dtype == np.int64


def test_lists(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffa\r\n\n  b c \na\n".encode())
    lines, (fault,) = read_lines(path)
    assert lines == [(1, "a"), (3, "b c")]
    assert str(fault) == f"{path}: line 4: name: expected each image once, got 'a' again; correct it"
    path.write_bytes(b"\xff\xfe")
    for file in (path, tmp_path / "none.txt", tmp_path):
        lines, (fault,) = read_lines(file)
        assert lines == []
        assert fault.fatal
        assert f"{file}: list: expected UTF-8 text, got" in str(fault)
