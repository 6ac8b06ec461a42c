"""Classes that are not those of the checkpoint are refused in words, before a wrong number is written."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from ignite_imgtools.cli import main
from ignite_imgtools.data.make_data import make_data
from ignite_imgtools.recipes.config import ConfigError, RunConfig
from ignite_imgtools.recipes.records import RecipeRecord
from tests.recipes.dense_runs import FLAGS
from tests.recipes.faster_rcnn_runs import SMALL

_CLASSES = ["ellipse", "rectangle", "triangle", "star", "cross"]
_ORDER, _NAMES, _NUMBER = _CLASSES[::-1], ["oval", *_CLASSES[1:]], _CLASSES[:4]
_CLASSIFICATION = "--model shufflenet_v2_x0_5 --image-size 40 --batch-size 6 --device cpu".split()


class Case(NamedTuple):
    """A recipe on a data set whose classes, which begin with ``before``, ``rewrite`` makes to be one of ``others``."""

    recipe: str
    data_format: str
    flags: list[str]
    before: list[str]
    rewrite: Callable[[Path, list[str]], None]
    others: list[list[str]]


def _rewrite_coco(folder: Path, names: list[str]) -> None:
    for path in (folder / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
        content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] <= len(names)]
        path.write_text(json.dumps(content))


def _rewrite_masks(folder: Path, names: list[str]) -> None:
    (folder / "classes.txt").write_text("\n".join(["background", *names]) + "\n")
    for path in (folder / "masks").rglob("*.png"):
        labels = np.array(Image.open(path))
        Image.fromarray(np.where((labels > len(names)) & (labels < 255), 0, labels).astype(np.uint8)).save(path)


def _rewrite_folders(folder: Path, names: list[str]) -> None:
    for part in ("train", "val"):
        for old, new in itertools.zip_longest(sorted((folder / part).iterdir()), names):
            if new is None:
                shutil.rmtree(old)
            else:
                old.rename(folder / part / new)


CASES = {
    case.recipe: case
    for case in (
        Case("faster_rcnn", "coco", SMALL, [], _rewrite_coco, [_ORDER, _NAMES, _NUMBER]),
        Case("unet", "masks", FLAGS["unet"], ["background"], _rewrite_masks, [_ORDER, _NAMES, _NUMBER]),
        # Folders are always in the order of their names.
        Case(
            "classification",
            "class_folders",
            _CLASSIFICATION,
            [],
            _rewrite_folders,
            [["ant", "ellipse", "rectangle", "star", "triangle"], ["cross", "ellipse", "rectangle", "star"]],
        ),
    )
}


@pytest.fixture(scope="module", params=CASES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Path, Path]:
    """A recipe, its data set and the folder of a short run on it."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    data = make_data(case.data_format, folder / "data", num_train=10, num_val=5, image_size=64)
    args = ["--data", str(data), "--output-dir", str(folder / "run"), "--max-iterations", "1"]
    assert main(["train", case.recipe, *case.flags, *args]) == 0
    return case, data, folder / "run"


def _with_classes(case: Case, data: Path, folder: Path, names: list[str]) -> Path:
    shutil.copytree(data, folder)
    case.rewrite(folder, names)
    return folder


def _expected(case: Case, names: list[str]) -> str:
    own = sorted(_CLASSES) if case.recipe == "classification" else _CLASSES
    known, found = [*case.before, *own], [*case.before, *names]
    has = "them in another order" if names == _ORDER else f"{len(found)}"
    return f"knows {len(known)} classes ({', '.join(known)}), the data set has {has} ({', '.join(found)})"


@pytest.mark.slow
def test_an_evaluation_on_other_classes_is_refused(
    run: tuple[Case, Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case, data, folder = run
    before, checkpoint = _contents(folder / "eval"), folder / "checkpoints" / "last.pt"
    for number, names in enumerate(case.others):
        other = _with_classes(case, data, tmp_path / str(number), names)
        assert main(["evaluate", case.recipe, "--checkpoint", str(checkpoint), "--data", str(other)]) == 2
        advice = "give --data with the same ones in the same order"
        assert capfd.readouterr().err.endswith(f"{checkpoint}: {_expected(case, names)}; {advice}\n")
    assert _contents(folder / "eval") == before


@pytest.mark.slow
def test_a_resume_with_other_classes_is_refused(
    run: tuple[Case, Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case, data, folder = run
    for number, names in enumerate(case.others):
        other = _with_classes(case, data, tmp_path / f"data{number}", names)
        args = ["--data", str(other), "--output-dir", str(tmp_path / f"run{number}"), "--resume"]
        assert main(["train", case.recipe, *case.flags, *args, str(folder / "checkpoints" / "last.pt")]) == 2
        message = f"nothing was loaded: recipe: the checkpoint {_expected(case, names)}"
        assert message in capfd.readouterr().err


@pytest.mark.slow
def test_classes_that_have_changed_in_the_files_are_refused_too(
    run: tuple[Case, Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case, data, _ = run
    changed, folder = shutil.copytree(data, tmp_path / "data"), tmp_path / "run"
    args = ["train", case.recipe, *case.flags, "--data", str(changed), "--output-dir", str(folder)]
    assert main([*args, "--max-iterations", "1"]) == 0
    case.rewrite(changed, case.others[0])
    assert main(args) == 2
    assert f"nothing was loaded: recipe: the checkpoint {_expected(case, case.others[0])}" in capfd.readouterr().err


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("known", "found", "expected"),
    [
        (["a", "b"], ["a", "b"], ""),
        (["a", "b"], ["b", "a"], "knows 2 classes (a, b), the data set has them in another order (b, a)"),
        (["a", "b"], ["a", "c"], "knows 2 classes (a, b), the data set has 2 (a, c)"),
        (["a", "b"], ["a"], "knows 2 classes (a, b), the data set has 1 (a)"),
        # The background of detection is no class that anybody has named.
        (["__background__", "a"], ["__background__", "b"], "knows 1 class (a), the data set has 1 (b)"),
        # Of many, those from the first that differs.
        (
            [str(number) for number in range(80)],
            [str(number) for number in (*range(50), 99, *range(51, 80))],
            "knows 80 classes (..., 50, 51, 52, 53, 54, 55, 56, 57, ...), the data set has 80 "
            "(..., 99, 51, 52, 53, 54, 55, 56, 57, ...)",
        ),
        (
            [str(number) for number in range(20)],
            [str(number) for number in range(19)],
            "knows 20 classes (..., 12, 13, 14, 15, 16, 17, 18, 19), the data set has 19 "
            "(..., 12, 13, 14, 15, 16, 17, 18)",
        ),
    ],
)
def test_what_differs_is_told(known: list[str], found: list[str], expected: str) -> None:
    record = RecipeRecord("any", RunConfig(), known)
    assert record.difference(found) == expected
    if not expected:
        record.refuse_other_data(Path("last.pt"), found)
        return
    with pytest.raises(ConfigError) as error:
        record.refuse_other_data(Path("last.pt"), found)
    assert str(error.value) == f"last.pt: {expected}; give --data with the same ones in the same order"


@pytest.mark.parametrize(
    ("known", "found", "expected"),
    [
        ({"names": ["nose", "ear"]}, {"names": ["nose", "ear"], "sigmas": [1, 2]}, []),
        (
            {"names": ["nose", "ear"]},
            {"names": ["ear", "nose"]},
            ["the checkpoint knows 2 keypoints (nose, ear), the data set has them in another order (ear, nose)"],
        ),
        ({"num_points": 98}, {"num_points": 98}, []),
        (
            {"num_points": 98},
            {"num_points": 68},
            ["the checkpoint knows 98 points of a face, the data set has 68"],
        ),
    ],
)
def test_keypoints_are_told_too(known: dict[str, Any], found: dict[str, Any], expected: list[str]) -> None:
    """The categories of persons do not matter to a model of their keypoints."""
    saved = RecipeRecord("any", RunConfig(), ["person"], known).state_dict()
    assert RecipeRecord("any", RunConfig(), ["player"], found).check_state_dict(saved) == expected


@pytest.mark.parametrize("saved", [None, {}, {"class_names": "ab"}, {"class_names": [1, 2]}])
def test_what_is_no_record_is_told(saved: Any) -> None:
    expected = ["what the file says of its run is no record of a recipe"]
    assert RecipeRecord("any", RunConfig(), ["a", "b"]).check_state_dict(saved) == expected
