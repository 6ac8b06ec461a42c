"""Everything that is wrong with a data set of faces, in one pass, a line for each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ignite_imgtools.data import check_dataset
from ignite_imgtools.formats import DataError
from tests.data.landmark_folders import face, write_csv, write_pts, write_wflw


def _told(data_format: str, folder: Path) -> list[str]:
    """Faults up to their advice, with files relative to the folder."""
    return [str(fault).replace(f"{folder}{os.sep}", "").split("; ")[0] for fault in check_dataset(data_format, folder)]


def test_csv_all_at_once(tmp_path: Path) -> None:
    write_csv(tmp_path / "faces.csv", [f"{letter}.png" for letter in "abcdefghi"], count=5)
    assert _told("points_csv", tmp_path) == []
    lines = (tmp_path / "faces.csv").read_text().splitlines()
    twin = face(0, 5) + 0.5
    lines[2] = lines[2].rsplit(",", 2)[0]  # b: a point too few
    lines[3] = ",".join(["c.png", "nan", *lines[3].split(",")[2:]])
    lines[4] = ",".join(["d.png", "-200", "7", *lines[4].split(",")[3:]])
    lines[5] = ",".join(["e.png", *["0.5", "0.25"] * 5])
    lines[6] = lines[6].replace("f.png", "none.png")
    lines[7] = lines[7].replace("g.png", "../g.png")
    (tmp_path / "h.png").write_bytes((tmp_path / "h.png").read_bytes()[:-20])
    lines.append(",".join(["a.png", *map(str, twin.ravel().tolist())]))
    lines.append(",".join(["a.png", *map(str, (face(0, 5) + 30).ravel().tolist())]))  # another face
    (tmp_path / "faces.csv").write_text("\n".join(lines))
    x, y = (f"{value:g}" for value in (-200, 7))
    assert _told("points_csv", tmp_path) == [
        "faces.csv: line 3: numbers: expected 10, got 8",
        "faces.csv: line 4: coordinates: expected finite numbers, got 'nan'",
        f"faces.csv: line 5: point 0: expected at most 60 pixels outside of d.png, 60 x 50, got ({x}, {y})",
        "faces.csv: line 6: points: expected a face of more than a pixel, got 0 x 0",
        "none.png: named by faces.csv, line 7: no such image file",
        f"faces.csv: line 8: file name '../g.png' goes up out of {tmp_path}",
        "h.png: the image breaks off before its end",
        "faces.csv: line 11: a.png: expected each of its faces once, got the one of line 2 again",
    ]
    assert "write them in pixels" in str(check_dataset("points_csv", tmp_path)[3])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image_name,x", "line 1: header: expected a name, and x and y of each point, got 2 columns"),
        ("a.png,1,2,3,4", "line 1: header: expected names of columns, got 'a.png,1,2,3,4'"),
        ("", "header: expected names of columns, got nothing"),
    ],
)
def test_garbled_headers(header: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "faces.csv").write_text(header and f"{header}\nb.png,1,2,3,4\n")
    assert _told("points_csv", tmp_path) == [f"faces.csv: {message}"]


def test_pts_all_at_once(tmp_path: Path) -> None:
    write_pts(tmp_path, [f"helen/{letter}" for letter in "abcdef"])
    assert _told("pts", tmp_path) == []
    helen = tmp_path / "helen"
    text = (helen / "a.pts").read_text()
    (helen / "a.pts").write_text(text.replace("n_points: 68", "n_points: 67", 1))
    lines = text.splitlines()
    (helen / "b.pts").write_text("\n".join([lines[0], "n_points: 65", *lines[2:68], "}"]) + "\n")
    (helen / "c.pts").write_text(text.replace("version", "PTS\nversion", 1))
    (helen / "d.png").unlink()
    (helen / "e.jpg").write_bytes((helen / "e.png").read_bytes())
    lines[10] = "4000 2"
    (helen / "f.pts").write_text("\n".join(lines))
    write_pts(helen, ["good", "fine"])
    assert _told("pts", tmp_path) == [
        "helen/a.pts: points: expected 67, got 68, n_points being 67",
        "helen/c.pts: line 1: expected version, n_points, and points in braces, got 'PTS'",
        "helen/d.pts: image: expected one of the same name beside it (.jpg, .jpeg, .png, ...), got none",
        "helen/e.pts: image: expected one of the same name beside it (.jpg, .jpeg, .png, ...), got e.jpg, e.png",
        "helen/b.pts: points: expected 68, got 65",
        "helen/f.pts: point 7: expected at most 60 pixels outside of helen/f.png, 60 x 50, got (3999, 1)",
    ]


def test_wflw_all_at_once(tmp_path: Path) -> None:
    write_wflw(tmp_path, {"train": ["a.png", "b.png", "c.png", "d.png"], "test": ["e.png"]})
    assert _told("wflw", tmp_path) == []
    file = next((tmp_path / "WFLW_annotations").rglob("*_train.txt"))
    lines = file.read_text().splitlines()
    lines[1] = lines[1].replace(" 1 1 40 42 ", " 50 1 40 42 ")
    lines[2] = lines[2].replace(" 2 1 40 42 ", " 900 1 940 42 ")
    file.write_text("\n".join([*lines, lines[0], "1 2 3"]))
    name = file.relative_to(tmp_path)
    (tmp_path / "WFLW_images" / "e.png").unlink()
    test = name.with_name("list_98pt_rect_attr_test.txt")
    assert _told("wflw", tmp_path) == [
        f"{name}: line 2: box: expected x1 < x2 and y1 < y2, got 50 1 40 42",
        f"{name}: line 6: fields: expected 207, got 3",
        f"{name}: line 3: box: expected one within c.png, 60 x 50, got 900 1 940 42",
        f"{name}: line 5: a.png: expected each of its faces once, got the one of line 1 again",
        f"WFLW_images/e.png: named by {test}, line 1: no such image file",
        f"{test}: faces: expected at least one that can be used, got none",
    ]


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    for data_format in ("wflw", "pts", "points_csv"):
        with pytest.raises(DataError, match=f"{tmp_path}: no "):
            check_dataset(data_format, tmp_path)
    (tmp_path / "WFLW_images").mkdir()
    (tmp_path / "WFLW_annotations").mkdir()
    with pytest.raises(DataError, match=r"WFLW_annotations: no list_98pt_rect_attr_train\.txt as WFLW has it"):
        check_dataset("wflw", tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "data_format"), [("wflw_98", "wflw"), ("ibug68_pts", "pts"), ("faces_68_csv", "points_csv")]
)
def test_real_faces_have_no_faults(name: str, data_format: str, real_data: Path) -> None:
    assert check_dataset(data_format, real_data / name) == []
