"""Skeletons and heat-maps are drawn where they are; which images is the same at any number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from ignite_imgtools.handlers import PosePanels, draw_skeletons, heatmap_overlay
from ignite_imgtools.handlers.pose_drawing import SIDE_COLORS, joint_color
from tests.distributed.spawn import run_processes

_NAMES = ("nose", "left_eye", "right_eye")


def test_colours_tell_the_sides() -> None:
    assert [joint_color(name) for name in (*_NAMES, "Right-Hip")] == [
        SIDE_COLORS[side] for side in ("", "left", "right", "right")
    ]


def test_joints_and_lines_are_drawn_where_they_are() -> None:
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    keypoints = np.array([[[10.0, 20.0], [40.0, 20.0], [70.0, 50.0]]])
    picture = np.asarray(draw_skeletons(image, keypoints, [(1, 2), (2, 3), (3, 9), (0, 1)], _NAMES, size=(80, 60)))
    assert tuple(picture[20, 10]) == SIDE_COLORS[""]
    assert tuple(picture[20, 40]) == SIDE_COLORS["left"]
    assert tuple(picture[50, 70]) == SIDE_COLORS["right"]
    assert tuple(picture[20, 25]) == SIDE_COLORS[""]  # the line from nose to eye
    assert picture[40, 10].sum() == 0
    # Twice as large, every place is in the middle of four pixels.
    doubled = np.asarray(draw_skeletons(image, keypoints, [], _NAMES, size=(160, 120)))
    assert all(tuple(doubled[row, column]) == SIDE_COLORS["left"] for row in (40, 41) for column in (80, 81))


def test_what_is_not_shown_and_what_is_hidden() -> None:
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    keypoints = np.array([[[10.0, 20.0, 2], [40.0, 20.0, 1], [70.0, 50.0, 0]]])
    flags = keypoints[..., 2]
    picture = np.asarray(
        draw_skeletons(image, keypoints, [(1, 3)], _NAMES, shown=flags > 0, hollow=flags == 1, size=(80, 60))
    )
    assert picture[50, 70].sum() == 0
    assert tuple(picture[20, 10]) == SIDE_COLORS[""]
    assert picture[18:23, 38:43].any()
    assert not picture[33:37, 38:42].any()  # no line to what is not shown
    nothing = draw_skeletons(image, np.zeros((0, 3, 3)), [(1, 2)], size=(80, 60))
    assert not np.asarray(nothing).any()
    far = np.array([[[1e30, np.nan], [-1e30, 5.0], [np.inf, 0.0]]])
    draw_skeletons(image, far, [(1, 2), (2, 3)], boxes_xyxy=np.array([[-1e9, 0, 1e9, 5]]))


def test_heatmaps_lie_over_what_they_stand_for() -> None:
    crop = np.zeros((64, 48, 3), dtype=np.uint8)
    heatmaps = np.zeros((3, 16, 12), dtype=np.float32)
    heatmaps[1, 5, 7] = 1.0
    overlay = np.asarray(heatmap_overlay(crop, heatmaps, _NAMES)).astype(int)
    row, column = np.unravel_index(overlay.sum(axis=2).argmax(), overlay.shape[:2])
    # Pixel (7, 5) of a heat-map stands for (28, 20) of the crop.
    assert abs(row - 20) <= 1
    assert abs(column - 28) <= 1
    weights = overlay.sum(axis=2)
    assert abs((weights.sum(axis=1) * np.arange(64)).sum() / weights.sum() - 20) < 0.3
    assert not np.asarray(heatmap_overlay(crop, np.full((3, 16, 12), np.nan, np.float32))).any()


def _read(image_id: int) -> tuple[Tensor, Tensor]:
    image = torch.full((3, 40, 50), 10 * image_id, dtype=torch.uint8)
    return image, torch.tensor([[[5.0, 5.0, 2.0], [20.0, 20.0, 1.0], [0.0, 0.0, 0.0]]])


def _heatmaps_of(crops: Tensor) -> Tensor:
    return crops[:, :, ::4, ::4].float() / 255


def _batch(image_ids: list[int]) -> tuple[Tensor, list[dict[str, Any]]]:
    # Image 3 has nobody in it, image 4 two persons.
    counts = [{3: 0, 4: 2}.get(image_id, 1) for image_id in image_ids]
    values = [float(image_id) for image_id, count in zip(image_ids, counts, strict=True) for _ in range(count)]
    crops = torch.tensor(values)[:, None, None, None].expand(-1, 3, 32, 24).to(torch.uint8)
    targets = [{"image_id": i, "scores": torch.ones(count)} for i, count in zip(image_ids, counts, strict=True)]
    return crops, targets


def _step(engine: Engine, batch: Any) -> dict[str, Any]:
    predictions = []
    for target in batch[1]:
        count = len(target["scores"])
        place = torch.tensor([float(target["image_id"]), 9.0, 0.9])
        predictions.append(
            {
                "keypoints": place.expand(count, 3, 3),
                "scores": torch.full((count,), 0.4),
                "boxes": torch.tensor([1.0, 1, 9, 9]).expand(count, 4),
            }
        )
    return {"y_pred": predictions, "y": batch[1], "batch_size": len(predictions)}


def _evaluate(folder: Path, batches: list[list[list[int]]]) -> None:
    import ignite.distributed as idist

    evaluator = Engine(_step)
    PosePanels(folder, _read, _heatmaps_of, skeleton=[(1, 2)], names=_NAMES, num_images=3).attach(evaluator)
    evaluator.run([_batch(ids) for ids in batches[idist.get_rank()]], max_epochs=1)
    images = getattr(evaluator.state, "images", {})
    assert sorted(images) == (["heatmaps", "predictions"] if idist.get_rank() == 0 else [])


def test_the_same_pictures_at_any_number_of_processes(tmp_path: Path) -> None:
    run_processes(_evaluate, 1, tmp_path / "one", [[[1, 2, 3], [4, 5, 6]]])
    run_processes(_evaluate, 2, tmp_path / "two", [[[5, 3], [1]], [[6, 4, 2]]])
    for name in ("predictions", "heatmaps"):
        content = (tmp_path / "one" / "plots" / f"{name}.png").read_bytes()
        assert content == (tmp_path / "two" / "plots" / f"{name}.png").read_bytes()


def test_it_is_taken_off_and_arguments_are_checked(tmp_path: Path) -> None:
    evaluator = Engine(_step)
    panels = PosePanels(tmp_path, _read).attach(evaluator)
    panels.detach()
    assert not evaluator.has_event_handler(panels._collect, Events.ITERATION_COMPLETED)
    evaluator.run([_batch([1])], max_epochs=1)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        PosePanels(tmp_path, _read, num_images=0)


def test_nobody_at_all(tmp_path: Path) -> None:
    evaluator = Engine(_step)
    PosePanels(tmp_path, _read, _heatmaps_of).attach(evaluator)
    evaluator.run([_batch([3])], max_epochs=1)
    assert not list(tmp_path.iterdir())
