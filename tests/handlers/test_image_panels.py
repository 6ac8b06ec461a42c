"""Which images are drawn, and where the picture goes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from PIL import Image

from ignite_imgtools import data, engines
from ignite_imgtools.formats import DataError
from ignite_imgtools.handlers import BestImagePanels, ImagePanels, WorstImagePanels
from ignite_imgtools.handlers.drawing import class_color, prediction_picture, truth_picture
from ignite_imgtools.handlers.image_panels import count_missed
from tests.distributed.spawn import run_processes


def _sample(image_id: int) -> tuple[torch.Tensor, dict[str, Any]]:
    generator = torch.Generator().manual_seed(image_id)
    height, width = (int(n) for n in torch.randint(30, 60, (2,), generator=generator))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    box = torch.tensor([[5.0, 5.0, width - 5.0, height - 5.0]])
    return image, {"image_id": image_id, "boxes": box, "labels": torch.tensor([image_id % 3 + 1])}


def _batches(ids: Sequence[int], size: int) -> list[Any]:
    return [tuple(zip(*(_sample(i) for i in ids[k : k + size]), strict=True)) for k in range(0, len(ids), size)]


def _evaluator() -> Engine:
    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        _, targets = batch
        found = [{**target, "scores": torch.full((1,), 0.75)} for target in targets]
        return {"y_pred": found, "y": targets, "batch_size": len(targets)}

    return Engine(step)


def _picture(ids: Sequence[int], size: int = 4, **options: Any) -> np.ndarray:
    evaluator = _evaluator()
    ImagePanels(**options).attach(evaluator)
    evaluator.run(_batches(ids, size))
    return evaluator.state.images["predictions"] if idist.get_rank() == 0 else np.empty(0)


def test_the_picture_depends_on_the_images_alone() -> None:
    expected = _picture(range(21))
    assert (_picture(range(21), 1) == expected).all()
    assert (_picture(list(reversed(range(21))), 8) == expected).all()
    assert (_picture([*range(21), 3, 4]) == expected).all()  # seen twice, drawn once


def test_a_step_may_return_a_pair_and_nothing_else() -> None:
    expected, step = _picture(range(4)), _evaluator()._process_function
    pairs = Engine(lambda engine, batch: (step(engine, batch)["y_pred"], step(engine, batch)["y"]))
    ImagePanels().attach(pairs)
    pairs.run(_batches(range(4), 4))
    assert (pairs.state.images["predictions"] == expected).all()
    for output, got in (({"out": 1}, r"a dict with \['out'\]"), (None, "a NoneType")):
        evaluator = Engine(lambda engine, batch, output=output: output)
        ImagePanels().attach(evaluator)
        with pytest.raises(TypeError, match=rf"a step that returns .* or \(y_pred, y\), got {got}"):
            evaluator.run(_batches(range(4), 4))


def _shard(world_ids: Sequence[Sequence[int]]) -> np.ndarray:
    ids = world_ids[idist.get_rank()]
    evaluator = _evaluator()
    ImagePanels().attach(evaluator)
    evaluator.run(_batches(ids, 3) or [([], [])])
    return evaluator.state.images["predictions"] if idist.get_rank() == 0 else np.zeros(len(evaluator.state.metrics))


@pytest.mark.parametrize(
    "shards", [[range(0, 21, 2), range(1, 21, 2)], [range(20), range(12, 21), range(0)]], ids=["halves", "uneven"]
)
def test_processes_draw_the_picture_of_one(shards: list[Sequence[int]]) -> None:
    results = run_processes(_shard, len(shards), shards)
    assert (results[0] == _picture(range(21))).all()


def test_it_is_written_and_published_anew_at_each_evaluation(tmp_path: Path) -> None:
    evaluator = _evaluator()
    panels = ImagePanels(tmp_path, ["background", "a", "b", "c"], num_images=2).attach(evaluator)
    evaluator.run(_batches(range(5), 2))
    first = evaluator.state.images["predictions"]
    assert (np.asarray(Image.open(tmp_path / "plots" / "predictions.png")) == first).all()
    evaluator.run(_batches(range(50, 55), 2))
    second = evaluator.state.images["predictions"]
    assert first.shape != second.shape or (first != second).any()
    panels.detach()
    evaluator.run(_batches(range(5), 2))
    assert evaluator.state.images["predictions"] is second


def test_an_evaluation_without_images_draws_nothing(tmp_path: Path) -> None:
    evaluator = _evaluator()
    ImagePanels(tmp_path).attach(evaluator)
    evaluator.run([([], [])])
    assert not hasattr(evaluator.state, "images")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("")
    evaluator = _evaluator()
    ImagePanels(tmp_path).attach(evaluator)
    path = re.escape(str(tmp_path / "plots" / "predictions.png"))
    with pytest.warns(RuntimeWarning, match=f"cannot write {path}") as warned:
        evaluator.run(_batches(range(3), 2))
    evaluator.run(_batches(range(3), 2))
    assert len(warned) == 1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        ImagePanels(num_images=0)


@pytest.mark.data
def test_real_photographs_with_what_an_untrained_detector_finds(real_data: Path) -> None:
    class Detector(torch.nn.Module):
        def forward(self, images: list[torch.Tensor], targets: Any = None) -> list[dict[str, torch.Tensor]]:
            sizes = [torch.tensor([image.shape[2], image.shape[1]] * 2) for image in images]
            box = torch.tensor([0.2, 0.2, 0.7, 0.8])
            return [
                {"boxes": (box * size)[None], "labels": torch.ones(1, dtype=torch.int64), "scores": torch.ones(1)}
                for size in sizes
            ]

    _, photographs = data.open_detection_data(real_data / "coco_mini", "coco")
    evaluator = engines.create_detection_evaluator(Detector())
    ImagePanels(class_names=data.class_names(photographs), num_images=3).attach(evaluator)
    evaluator.run(data.create_loader(photographs, 4))
    picture = evaluator.state.images["predictions"]
    assert picture.shape[0] > 300
    assert 40 < picture.mean() < 240


def _missed_slowly(prediction: dict[str, Any], target: dict[str, Any]) -> int:
    missed = 0
    for box, label, crowd in zip(target["boxes"].tolist(), target["labels"].tolist(), target["iscrowd"], strict=True):
        found = False
        for other, name, score in zip(
            *(prediction[key].tolist() for key in ("boxes", "labels", "scores")), strict=True
        ):
            width = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
            shared = width * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
            found |= name == label and score >= 0.5 and shared / (sum(areas) - shared) >= 0.5
        missed += not crowd and not found
    return missed


def _scene(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)

    def boxes(count: int) -> torch.Tensor:
        corners = torch.rand(count, 2, generator=generator) * 20
        return torch.cat([corners, corners + 5 + torch.rand(count, 2, generator=generator) * 10], dim=1)

    def labels(count: int) -> torch.Tensor:
        return torch.randint(1, 3, (count,), generator=generator)

    target = {"boxes": boxes(6), "labels": labels(6), "iscrowd": torch.rand(6, generator=generator) < 0.2}
    near = target["boxes"] + torch.randn(6, 4, generator=generator)
    return {"boxes": near, "labels": labels(6), "scores": torch.rand(6, generator=generator)}, target


def test_missed_objects_are_counted() -> None:
    counts = [(count_missed(*_scene(seed)), _missed_slowly(*_scene(seed))) for seed in range(40)]
    assert all(ours == slow for ours, slow in counts)
    assert len({ours for ours, _ in counts}) > 3
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    assert count_missed(nothing, _scene(0)[1]) == int((~_scene(0)[1]["iscrowd"]).sum())


def _worst(ids: Sequence[int], size: int) -> np.ndarray:
    """Images whose id is a multiple of 5 have an object that is not found."""

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        _, targets = batch
        found = [{**t, "scores": torch.full((1,), 0.25 if t["image_id"] % 5 == 0 else 0.75)} for t in targets]
        return {"y_pred": found, "y": targets, "batch_size": len(targets)}

    evaluator = Engine(step)
    WorstImagePanels(num_images=3).attach(evaluator)
    evaluator.run(_batches(ids, size) or [([], [])])
    return evaluator.state.images["worst"] if idist.get_rank() == 0 else np.empty(0)


def _worst_shard(world_ids: Sequence[Sequence[int]]) -> np.ndarray:
    return _worst(world_ids[idist.get_rank()], 3)


def test_the_worst_images_are_those_with_most_missed() -> None:
    expected = _worst([5, 10, 15], 1)
    assert (_worst([1, 2, 5, 3, 10, 4, 6, 15, 7], 2) == expected).all()
    assert (run_processes(_worst_shard, 2, [[1, 5, 6, 10], [2, 15, 3]])[0] == expected).all()


def _best(samples: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """The picture of an evaluation of images with an id, so many objects, and so many of those found."""
    grid = torch.tensor([[10.0 * i, 0, 10.0 * i + 8, 8] for i in range(5)])
    batches = []
    for image_id, objects, _ in samples:
        target = {"image_id": image_id, "boxes": grid[:objects], "labels": torch.ones(objects, dtype=torch.int64)}
        batches.append(([torch.full((3, 40, 60), 20 * image_id, dtype=torch.uint8)], [target]))
    known = {image_id: found for image_id, _, found in samples}

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        (target,) = batch[1]
        kept = slice(0, known[target["image_id"]])
        found = {"boxes": target["boxes"][kept], "labels": target["labels"][kept]}
        found["scores"] = torch.full((len(found["labels"]),), 0.75)
        return {"y_pred": [found], "y": [target], "batch_size": 1}

    evaluator = Engine(step)
    BestImagePanels(num_images=2).attach(evaluator)
    evaluator.run(batches)
    return evaluator.state.images["best"]


def test_the_best_images_miss_nothing_and_have_most_objects() -> None:
    best = [(2, 4, 4), (5, 3, 3)]
    others = [(1, 5, 4), (3, 2, 2), (4, 0, 0), (6, 5, 0)]
    assert (_best([*others[:2], *best, *others[2:]]) == _best(best)).all()


def test_masks_and_keypoints_are_drawn() -> None:
    image = np.full((480, 480, 3), 100, dtype=np.uint8)
    masks = torch.zeros(1, 480, 480, dtype=torch.uint8)
    masks[0, 100:200, 100:200] = 1
    shapes = {"boxes": torch.tensor([[90.0, 90, 300, 300]]), "labels": torch.tensor([2])}
    points = torch.tensor([[[250.0, 260.0, 1.0], [20.0, 30.0, 0.0]]])
    tint = tuple(50 + (value >> 1) for value in class_color(2))
    truth = np.asarray(truth_picture(image, {**shapes, "masks": masks, "keypoints": points}))
    sure = {**shapes, "scores": torch.tensor([0.9]), "masks": masks[:, None].float(), "keypoints": points}
    for picture in (truth, np.asarray(prediction_picture(image, sure))):
        assert tuple(picture[180, 180]) == tint
        assert tuple(picture[220, 220]) == (100, 100, 100)
        assert tuple(picture[260, 250]) == class_color(2)
        assert tuple(picture[30, 20]) == (100, 100, 100)


@pytest.mark.parametrize(
    ("prediction", "target", "told"),
    [
        ({"scores": torch.ones(1)}, {}, "a prediction needs 'boxes', got only ['scores']"),
        (_sample(1)[1] | {"scores": torch.ones(1)}, {"image_id": 1}, "a target needs 'boxes', got only ['image_id']"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_a_line(prediction: dict[str, Any], target: dict[str, Any], told: str) -> None:
    evaluator = Engine(lambda engine, batch: ([prediction], [target]))
    ImagePanels().attach(evaluator)
    with pytest.raises(DataError, match=re.escape(f"to draw it, {told}")):
        evaluator.run([([_sample(1)[0]], [target])])
