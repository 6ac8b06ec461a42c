from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ignite_imgtools.data import check_dataset, make_data
from ignite_imgtools.formats import DataError


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    return make_data("coco_keypoints", folder / "data", num_train=3, num_val=2, image_size=96)


def _changed(people: Path, folder: Path, change: Callable[[dict[str, Any]], None], part: str = "train") -> Path:
    """The data set with another annotation file; images are linked."""
    (folder / "annotations").mkdir(parents=True)
    for name in ("train", "val"):
        (folder / name).symlink_to(people / name)
        file = f"annotations/person_keypoints_{name}.json"
        content = json.loads((people / file).read_text())
        if name == part:
            change(content)
        (folder / file).write_text(json.dumps(content))
    return folder


def _first(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in content["annotations"] if row["num_keypoints"])
    return found


def _set(joint: int, values: list[Any]) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        row = _first(content)
        row["keypoints"][3 * joint : 3 * joint + 3] = values
        row["num_keypoints"] = sum(bool(flag) for flag in row["keypoints"][2::3])

    return change


def _update(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: _first(content).update(values)


def _category(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["categories"][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_update(keypoints=[1, 2, 2] * 16), "expected 17 times x, y near the image, visibility 0, 1 or 2, got 48 n"),
        (_set(4, [3, 4, 3]), "got [3, 4, 3] as number 5"),
        (_set(6, [float("nan"), 4, 1]), "got [nan, 4, 1] as number 7"),
        (_set(6, ["x", 4, 1]), "got ['x', 4, 1] as number 7"),
        (_set(9, [1e6, 4, 1]), "got [1000000.0, 4, 1] as number 10"),
        (_set(2, [-3.5, 4, 2]), "keypoint 3 (right_eye): expected a place in "),
        (_set(0, [5, 199, 2]), "if its visibility is 2, got 5, 199; correct the place, or make"),
        (_update(num_keypoints=18), "got 18; count those whose visibility is not 0"),
        (lambda content: _first(content).pop("num_keypoints"), "num_keypoints: expected"),
        (_category(keypoints=["nose"] + ["left_eye"] * 16), "keypoint 'left_eye' has no counterpart 'right_eye' among"),
        (
            _category(skeleton=[[1, 2], [0, 18]]),
            "skeleton: expected lines between two numbers from 1 to 17, got [0, 18]",
        ),
    ],
)
def test_each_fault_is_a_line(
    change: Callable[[dict[str, Any]], None], message: str, people: Path, tmp_path: Path
) -> None:
    folder = _changed(people, tmp_path / "data", change)
    lines = [str(fault) for fault in check_dataset("coco_keypoints", folder)]
    assert any(message in line for line in lines), lines
    assert all(line.startswith(f"{folder}/annotations/person_keypoints_") and "\n" not in line for line in lines)
    assert len(lines) <= 2


def test_sound_data_have_no_faults(people: Path, tmp_path: Path) -> None:
    assert check_dataset("coco_keypoints", people) == []
    # What is hidden may be annotated outside of the image.
    assert check_dataset("coco_keypoints", _changed(people, tmp_path / "data", _set(2, [-3.5, 4, 1]))) == []


def test_parts_with_other_keypoints(people: Path, tmp_path: Path) -> None:
    def shorten(content: dict[str, Any]) -> None:
        content["categories"][0]["keypoints"] = ["nose"]
        content["categories"][0]["skeleton"] = []
        for row in content["annotations"]:
            row["keypoints"], row["num_keypoints"] = row["keypoints"][:3], int(row["keypoints"][2] > 0)

    folder = _changed(people, tmp_path / "data", shorten, "val")
    (line,) = [str(fault) for fault in check_dataset("coco_keypoints", folder)]
    assert "person_keypoints_val.json: categories: expected [('person', 17)], got [('person', 1)]; list" in line


def test_data_without_keypoints(people: Path, tmp_path: Path) -> None:
    def strip(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            del row["keypoints"]

    faults = check_dataset("coco_keypoints", _changed(people, tmp_path / "data", strip))
    assert any("keypoints: expected some annotations with keypoints, got none" in str(fault) for fault in faults)
    with pytest.raises(DataError, match=r"no annotations/person_keypoints_train\*.json as COCO has it"):
        check_dataset("coco_keypoints", tmp_path)


@pytest.mark.data
def test_photographs_have_no_faults(real_data: Path) -> None:
    assert check_dataset("coco_keypoints", real_data / "coco_mini") == []
