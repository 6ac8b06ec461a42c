"""Defaults of the recipes that follow from other flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ignite_imgtools.handlers import RunFolderError, close_run_folder
from ignite_imgtools.recipes import RECIPES, load_recipe
from ignite_imgtools.recipes.config import proportional_steps
from ignite_imgtools.recipes.training import open_run


@pytest.mark.parametrize(
    ("recipe", "epochs", "expected"),
    [
        # The schedules of the tutorials and of the references, and a third or twice of them.
        ("faster_rcnn", None, (7, 12)),
        ("retinanet", 60, (21, 36)),
        ("mask_rcnn", None, (16, 22)),
        ("coco_detection", 13, (8, 11)),
        ("hrnet", None, (170, 200)),
        ("hrnet", 70, (56, 66)),
        ("deeppose", None, (170, 200)),
        ("deeppose", 420, (340, 400)),
        ("faster_rcnn", 1, (1,)),
    ],
)
def test_the_learning_rate_falls_at_the_same_part_of_any_training(
    recipe: str, epochs: int | None, expected: tuple[int, ...], tmp_path: Path
) -> None:
    config: Any = load_recipe(recipe).Config(data=tmp_path, device="cpu", epochs=epochs)
    assert config.filled(recipe).lr_steps == expected
    assert load_recipe(recipe).Config(data=tmp_path, epochs=epochs, lr_steps=(3,)).filled(recipe).lr_steps == (3,)


def test_steps_of_a_training_of_another_length() -> None:
    assert proportional_steps((), 4, 8) == ()
    assert proportional_steps((5, 7), 8, 2) == (1,)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_filled_stays(recipe: str) -> None:
    filled = load_recipe(recipe).Config(device="cpu").filled(recipe)
    assert filled.output_dir == Path("runs") / recipe
    assert filled.filled(recipe) == filled
    assert {flag: getattr(filled, flag) for flag in ("epochs", "lr", "batch_size")} == {
        flag: type(filled).SMALL[flag] for flag in ("epochs", "lr", "batch_size")
    }


@pytest.mark.parametrize("recipe", ["hrnet", "deeppose", "faster_rcnn"])
def test_a_run_may_be_extended_and_keeps_lr_steps_that_were_asked_for(recipe: str, tmp_path: Path) -> None:
    def open_folder(folder: str, epochs: int, **options: Any) -> None:
        blank = load_recipe(recipe).Config(
            data=tmp_path, device="cpu", epochs=epochs, output_dir=tmp_path / folder, **options
        )
        open_run(0, blank.filled(recipe))
        (tmp_path / folder / "metrics.jsonl").touch()
        close_run_folder(tmp_path / folder)

    open_folder("derived", 30)
    open_folder("derived", 60)
    open_folder("derived", 30)
    with pytest.raises(RunFolderError, match=r"another configuration: lr_steps \[\d+, \d+\] there, \[3\] here"):
        open_folder("derived", 30, lr_steps=(3,))
    open_folder("asked", 30, lr_steps=(3,))
    open_folder("asked", 60, lr_steps=(3,))
    with pytest.raises(RunFolderError, match=r"another configuration: lr_steps \[3\] there"):
        open_folder("asked", 60)
