from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from ignite_imgtools.handlers import LandmarkPanels, attach_landmark_analysis, draw_landmarks
from ignite_imgtools.handlers.landmark_analysis import cumulative_error_figure
from ignite_imgtools.handlers.landmark_drawing import FACE_LINES, FOUND, TRUTH
from ignite_imgtools.metrics import LandmarkMetric
from tests.distributed.spawn import run_processes


def _sample(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A crop, true points in it, and predicted ones, whose error grows with the number."""
    generator = torch.Generator().manual_seed(number)
    image = torch.randint(0, 256, (3, 40, 30), generator=generator).to(torch.uint8)
    truth = torch.rand(5, 2, generator=generator) * torch.tensor([30.0, 40.0])
    return image, truth, truth + 0.4 * number


def _batches(numbers: list[int], size: int) -> list[Any]:
    batches: list[Any] = []
    for start in range(0, len(numbers), size):
        part = numbers[start : start + size]
        images, truth, found = (torch.stack(column) for column in zip(*map(_sample, part), strict=True))
        boxes = torch.tensor([[0.0, 0.0, 60.0, 80.0]]).repeat(len(part), 1)
        y = {"points": 2 * truth, "crop_points": truth, "boxes": boxes, "image_id": part}
        batches.append((images, {"y_pred": 2 * found, "y": y, "crop_points": found, "batch_size": len(part)}))
    nothing = {"points": torch.zeros(0, 0, 2), "crop_points": torch.zeros(0, 0, 2), "image_id": []}
    empty = {"y_pred": torch.zeros(0, 0, 2), "y": nothing, "crop_points": torch.zeros(0, 0, 2), "batch_size": 0}
    return batches or [([], empty)]


def _evaluator() -> Engine:
    return Engine(lambda engine, batch: batch[1])


def test_the_analysis_is_in_the_run_folder(tmp_path: Path) -> None:
    evaluator, metric = _evaluator(), LandmarkMetric("box", limit=0.05)
    metric.attach(evaluator, "landmarks")
    names = [f"a/{number}.jpg" for number in range(12)]
    attached = attach_landmark_analysis(tmp_path, evaluator, metric, file_names=names)
    numbers = evaluator.run(_batches([3, 0, 7, 11, 5], 2)).metrics
    assert set(evaluator.state.figures) == {"cumulative_error"}  # type: ignore[attr-defined]
    content = json.loads((tmp_path / "eval" / "landmarks.json").read_text())
    assert (content["normaliser"], content["limit"]) == ("box", 0.05)
    assert {name: content[name] for name in ("NME", "failure_rate", "AUC")} == {
        name: numbers[name] for name in ("NME", "failure_rate", "AUC")
    }
    assert [(row["image_id"], row["file"]) for row in content["faces"]] == [
        (number, names[number]) for number in (11, 7, 5, 3, 0)
    ]
    assert [row["NME"] for row in content["faces"]] == pytest.approx(
        [0.8 * number * 2**0.5 / (60 * 80) ** 0.5 for number in (11, 7, 5, 3, 0)], rel=1e-5
    )
    with Image.open(tmp_path / "plots" / "cumulative_error.png") as picture:
        assert min(picture.size) > 100
    attached.detach()
    (tmp_path / "eval" / "landmarks.json").unlink()
    evaluator.run(_batches([1], 1))
    assert not (tmp_path / "eval" / "landmarks.json").exists()


def test_curves_of_no_and_of_lost_faces() -> None:
    for errors in (np.empty(0), np.array([np.nan]), np.array([0.02, 0.5, np.inf, np.nan])):
        figure = cumulative_error_figure(errors, "inter_ocular")
        (ax,) = figure.axes
        line = ax.get_lines()[0].get_ydata()
        assert line[-1] == (1 / 3 if len(errors) == 4 else 0)


def _panels(shards: list[list[int]], size: int) -> dict[str, np.ndarray]:
    evaluator = _evaluator()
    LandmarkPanels(None, "box", num_images=3, height=40).attach(evaluator)
    evaluator.run(_batches(shards[idist.get_rank()], size))
    return getattr(evaluator.state, "images", {})


def test_panels_are_the_same_on_any_number_of_processes() -> None:
    (expected,) = run_processes(_panels, 1, [list(range(12))], 12)
    assert set(expected) == {"predictions", "worst"}
    for shards, size in (
        ([[5, 0, 3], [9, 7, 1, 2, 4, 10, 6, 8, 11]], 2),
        ([[11, 3], [], [*range(3), *range(4, 11)]], 4),
    ):
        found, *others = run_processes(_panels, len(shards), shards, size)
        assert others == [{}] * len(others)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_the_worst_faces_are_drawn(tmp_path: Path) -> None:
    evaluator = _evaluator()
    panels = LandmarkPanels(tmp_path, "box", num_images=2, height=40).attach(evaluator)
    evaluator.run(_batches(list(range(12)), 5))
    kept = panels._panels["worst"]._kept
    assert [kept[key][1][0] for key in sorted(kept)] == [11, 10]
    for name in ("predictions", "worst"):
        with Image.open(tmp_path / "plots" / f"{name}.png") as picture:
            assert min(picture.size) > 30
    panels.detach()
    (tmp_path / "plots" / "worst.png").unlink()
    evaluator.run(_batches([0], 1))
    assert not (tmp_path / "plots" / "worst.png").exists()
    with pytest.raises(ValueError, match="height must be at least 1, got 0"):
        LandmarkPanels(None, height=0)


def test_points_are_drawn_at_the_centres_of_their_pixels() -> None:
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    points = np.array([[4.0, 6.0], [25.0, 12.0], [np.nan, 3.0]])
    for scale in (1, 4):
        picture = np.asarray(draw_landmarks(image, [points], size=(30 * scale, 20 * scale)))
        rows, columns = np.nonzero((picture == FOUND).all(axis=2))
        near = columns < 15 * scale
        for chosen, (x, y) in ((near, points[0]), (~near, points[1])):
            assert (columns[chosen].mean() + 0.5) / scale == pytest.approx(x + 0.5, abs=0.51 / scale)
            assert (rows[chosen].mean() + 0.5) / scale == pytest.approx(y + 0.5, abs=0.51 / scale)
    empty = draw_landmarks(image, [np.full((3, 2), np.nan)], truth=[points])
    assert not np.asarray(empty).any()
    boxed = np.asarray(draw_landmarks(image, [], boxes=[(2, 3, 20, 15)], color=TRUTH))
    assert (boxed[3, 5] == TRUTH).all()


def test_lines_join_all_points_of_known_faces() -> None:
    for count, lines in FACE_LINES.items():
        joined = {number for line in lines for number in line}
        # WFLW's pupils stand alone.
        assert joined == set(range(count)) - ({96, 97} if count == 98 else set())
