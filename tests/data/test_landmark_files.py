from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ignite_imgtools.data import read_points_csv, read_pts, read_wflw_list
from ignite_imgtools.formats import DataError


def _wflw_line(
    shift: float = 0.0, *, box: str = "1 2 30 40", flags: str = "0 1 0 0 0 1", name: str = "a/b c.jpg"
) -> str:
    return " ".join([f"{i + shift:.6f}" for i in range(196)] + [box, flags, name])


def test_lists_of_wflw(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("\n".join([_wflw_line(), "", _wflw_line(0.25, flags="0 0 0 0 0 0", name="a/b c.jpg")]))
    faces, faults = read_wflw_list(path)
    assert faults == []
    assert [(face.name, face.where) for face in faces] == [("a/b c.jpg", "line 1"), ("a/b c.jpg", "line 3")]
    assert (faces[0].points.shape, faces[0].points.dtype) == ((98, 2), np.float64)
    assert faces[0].points[97].tolist() == [194, 195]
    assert faces[1].points[0].tolist() == [0.25, 1.25]
    assert faces[0].box == (1, 2, 30, 40)
    assert [face.attributes for face in faces] == [("expression", "blur"), ()]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3 a.jpg", "line 2: fields: expected 207, got 4; correct the line"),
        (_wflw_line().replace("7.000000", "nan", 1), "line 2: coordinates: expected finite numbers, got 'nan'"),
        (_wflw_line().replace("7.000000", "x", 1), "line 2: coordinates: expected finite numbers, got 'x'"),
        (_wflw_line(flags="0 2 0 0 0 0"), "line 2: attributes: expected 0 or 1, got "),
        (_wflw_line(box="30 2 1 40"), "line 2: box: expected x1 < x2 and y1 < y2, got 30 2 1 40; correct the line"),
    ],
)
def test_bad_lines_of_wflw_are_told(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{_wflw_line()}\n{line}\n{_wflw_line()}\n")
    faces, (fault,) = read_wflw_list(path)
    assert len(faces) == 2
    assert str(fault).startswith(f"{path}: {message}")


def test_pts_count_from_one(tmp_path: Path) -> None:
    path = tmp_path / "face.pts"
    path.write_text("version: 1\r\nn_points:  3\r\n{\r\n1.0 1.5\r\n2 3\r\n-4 5e1\r\n}\r\n")
    assert read_pts(path, 3).tolist() == [[0, 0.5], [1, 2], [-5, 49]]
    assert np.array_equal(read_pts(path, None), read_pts(path, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\nn_points: 2\n{\n1 2\n3 4\n}\n", "points: expected 3, got 2, n_points being 2; correct the file"),
        ("version: 1\nn_points: 4\n{\n1 2\n3 4\n5 6\n}\n", "points: expected 3, got 3, n_points being 4"),
        ("version: 1\nn_points: 3\n{\n1 2\n3 4\n", "points: expected a closing brace after them, got the end"),
        ("version: 1\nn_points: 3\n{\n1 2 3\n", "line 4: numbers: expected 2, got 3; correct the line"),
        ("n_points: 3\n{\n1 inf\n", "line 3: coordinates: expected finite numbers, got 'inf'; correct the line"),
        ("1 2\n3 4\n5 6\n", "line 1: expected version, n_points, and points in braces, got '1 2'; correct it"),
        ("{\n1 2\n3 4\n5 6\n}\n{\n}\n", "line 6: expected version, n_points, and points in braces, got '{'"),
        ("", "points: expected a closing brace"),
    ],
)
def test_bad_pts_are_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "face.pts"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_pts(path, 3)
    assert str(error.value).startswith(f"{path}: {message}")


def test_pts_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="points: expected UTF-8 text, got No such file or directory"):
        read_pts(tmp_path / "none.pts")
    (tmp_path / "video.pts").write_bytes(bytes(1_000_001))
    with pytest.raises(DataError, match="expected a file of points, got 1,000,001 bytes"):
        read_pts(tmp_path / "video.pts")


def test_csv_of_points(tmp_path: Path) -> None:
    path = tmp_path / "faces.csv"
    rows = ["image_name,part_0_x,part_0_y,part_1_x,part_1_y", '"a, b.jpg",1,2.5,3,-4', "c.jpg,5,6,7", ",1,2,3,4"]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    (face,), faults = read_points_csv(path)
    assert (face.name, face.points.tolist(), face.where) == ("a, b.jpg", [[1, 2.5], [3, -4]], "line 2")
    assert [str(fault) for fault in faults] == [
        f"{path}: line 3: numbers: expected 4, got 3; correct the line",
        f"{path}: line 4: name: expected that of an image, got nothing; correct it",
    ]


@pytest.mark.parametrize("text", ["", "name\na.jpg\n", "name,x\na.jpg,1\n"])
def test_csv_without_points(text: str, tmp_path: Path) -> None:
    path = tmp_path / "faces.csv"
    path.write_text(text)
    faces, (fault,) = read_points_csv(path)
    assert faces == []
    assert fault.fatal
    assert "header: expected" in str(fault)


@pytest.mark.data
def test_real_files(real_data: Path) -> None:
    faces, faults = read_points_csv(real_data / "faces_68_csv" / "faces" / "face_landmarks.csv")
    assert faults == []
    assert len(faces) == 46
    assert {face.points.shape for face in faces} == {(68, 2)}
    assert all((real_data / "faces_68_csv" / "faces" / face.name).is_file() for face in faces)
    for path in (real_data / "wflw_98" / "WFLW_annotations").rglob("*.txt"):
        faces, faults = read_wflw_list(path)
        assert faults == []
        for face in faces:
            assert (real_data / "wflw_98" / "WFLW_images" / face.name).is_file()
            assert face.box is not None
