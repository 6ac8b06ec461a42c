from __future__ import annotations

import math
from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
import torch

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics import LandmarkMetric, face_length, normalised_errors
from tests.distributed.spawn import run_processes


def _faces(count: int, points: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = 100 * torch.rand(count, points, 2, generator=generator)
    predicted = truth + torch.randn(truth.shape, generator=generator) * torch.rand(count, 1, 1, generator=generator) * 9
    low = 50 * torch.rand(count, 2, generator=generator)
    return predicted, truth, torch.cat([low, low + 60], dim=1)


def _slow_length(face: list[list[float]], normaliser: str, box: list[float] | None) -> float:
    def mean(numbers: range | list[int]) -> tuple[float, float]:
        return sum(face[n][0] for n in numbers) / len(numbers), sum(face[n][1] for n in numbers) / len(numbers)

    if normaliser == "box":
        if box is None:
            xs, ys = [p[0] for p in face], [p[1] for p in face]
            box = [min(xs), min(ys), max(xs), max(ys)]
        return math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    if normaliser == "inter_ocular":
        one, other = ([60], [72]) if len(face) == 98 else ([36], [45])
    else:
        one, other = ([96], [97]) if len(face) == 98 else (list(range(36, 42)), list(range(42, 48)))
    return math.dist(mean(one), mean(other))


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("points", [68, 98])
@pytest.mark.parametrize("normaliser", ["inter_ocular", "inter_pupil", "box"])
def test_as_a_loop_over_points(normaliser: Any, points: int, boxed: bool) -> None:
    predicted, truth, boxes = _faces(9, points)
    errors = []
    for p, t, b in zip(predicted.double().tolist(), truth.double().tolist(), boxes.double().tolist(), strict=True):
        distance = sum(math.dist(*pair) for pair in zip(p, t, strict=True)) / points
        errors.append(distance / _slow_length(t, normaliser, b if boxed else None))
    metric = LandmarkMetric(normaliser, limit=0.08)
    for start in range(0, 9, 4):
        part = slice(start, start + 4)
        y: Any = {"points": truth[part], "boxes": boxes[part]} if boxed else truth[part]
        metric.update((predicted[part], y))
    result = metric.compute()
    assert metric.errors() == pytest.approx(sorted(errors), rel=1e-12)
    assert result["NME"] == pytest.approx(sum(errors) / 9, rel=1e-12)
    assert result["failure_rate"] == sum(error > 0.08 for error in errors) / 9
    grid = np.linspace(0, 0.08, 100_001)
    shares = np.searchsorted(np.sort(errors), grid, side="right") / 9
    assert result["AUC"] == pytest.approx(np.trapezoid(shares, grid) / 0.08, abs=1e-4)


def test_exact_points_have_no_error() -> None:
    _, truth, _ = _faces(3, 68)
    metric = LandmarkMetric()
    metric.update((truth, truth))
    assert metric.compute() == {"NME": 0.0, "failure_rate": 0.0, "AUC": 1.0}


def test_faces_of_no_length_are_left_out_and_lost_points_fail() -> None:
    predicted, truth, _ = _faces(3, 68)
    truth[0, 36] = truth[0, 45]
    predicted[1, 5, 0] = math.nan
    metric = LandmarkMetric()
    metric.update((predicted, truth))
    result = metric.compute()
    assert metric.left_out() == 1
    assert result["NME"] == math.inf
    assert 0.5 <= result["failure_rate"] <= 1
    assert math.isfinite(result["AUC"])


def test_without_faces_all_is_minus_one() -> None:
    metric = LandmarkMetric()
    metric.update((torch.zeros(0, 68, 2), torch.zeros(0, 68, 2)))
    assert metric.compute() == {"NME": -1, "failure_rate": -1, "AUC": -1}


def test_a_face_that_comes_twice_counts_once() -> None:
    predicted, truth, _ = _faces(5, 98)
    plain, metric = LandmarkMetric(), LandmarkMetric()
    plain.update((predicted, truth))
    for faces in ([4, 0], [1, 0, 3], [2]):
        metric.update((predicted[faces], {"points": truth[faces], "image_id": [7 + number for number in faces]}))
    assert metric.compute() == plain.compute()
    ids, errors = metric.faces()
    assert ids.tolist() == [7, 8, 9, 10, 11]
    assert errors.tolist() == normalised_errors(predicted.double().numpy(), truth.double().numpy()).tolist()
    assert plain.faces()[0].tolist() == [-1] * 5
    with pytest.raises(ValueError, match="image_id must be one for each of 2 faces, got 1"):
        metric.update((predicted[:2], {"points": truth[:2], "image_id": [0]}))


def test_a_state_goes_on() -> None:
    predicted, truth, _ = _faces(5, 98)
    whole, first, second = LandmarkMetric(), LandmarkMetric(), LandmarkMetric()
    whole.update((predicted, truth))
    first.update((predicted[:2], truth[:2]))
    second.load_state_dict(first.state_dict())
    second.update((predicted[2:], truth[2:]))
    assert second.compute() == whole.compute()


def _numbers(shards: list[list[list[int]]]) -> dict[str, Any]:
    metric = LandmarkMetric("inter_pupil")
    for batch in shards[idist.get_rank()]:
        predicted, truth, _ = _faces(13, 68)
        # One face comes on every process.
        seen = [0, *batch]
        metric.update((predicted[seen], {"points": truth[seen], "image_id": seen}))
    return {**metric.compute(), "errors": metric.errors().tolist()}


def test_the_same_on_any_number_of_processes() -> None:
    (expected,) = run_processes(_numbers, 1, [[list(range(13))]])
    for shards in ([[[5, 0], [3, 9, 7]], [[1, 2, 4, 6, 8, 10, 11, 12]]], [[[12, 11]], [], [[i] for i in range(11)]]):
        for result in run_processes(_numbers, len(shards), shards):
            assert result == expected


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="normaliser must be one of inter_ocular, inter_pupil, box, got 'eyes'"):
        LandmarkMetric("eyes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit must be above 0, got 0"):
        LandmarkMetric(limit=0)
    with pytest.raises(ValueError, match="inter_ocular knows the eyes of 98 or 68 points, got 5: take 'box'"):
        face_length(np.zeros((1, 5, 2)), "inter_ocular")
    with pytest.raises(ValueError, match=r"must both be \[B, K, 2\]"):
        LandmarkMetric().update((torch.zeros(1, 5, 3), torch.zeros(1, 5, 3)))
    metric = LandmarkMetric("box")
    metric.update((torch.zeros(1, 3, 2), torch.full((1, 3, 2), math.nan)))
    with pytest.raises(DataError, match="1 of 1 faces have true points that are not finite"):
        metric.compute()
    assert np.isnan(normalised_errors(np.zeros((1, 3, 2)), np.zeros((1, 3, 2)), "box")).all()
