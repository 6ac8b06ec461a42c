"""Predictions become columns, whatever dtype and batch they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ignite_imgtools.metrics.coco.detections import DetectionBuffer


def _prediction(count: int, dtype: torch.dtype, **changes: Any) -> dict[str, Any]:
    boxes = torch.linspace(0, 99.7, 4 * count).reshape(count, 4).to(dtype)
    return {"boxes": boxes, "labels": torch.arange(count), "scores": torch.full((count,), 0.1), **changes}


def _drain(*batches: list[dict[str, Any]]) -> Any:
    buffer, place = DetectionBuffer({"boxes": (4,)}), 0
    for batch in batches:
        images = list(range(place, place + len(batch)))
        buffer.add(images, images, batch)
        place += len(batch)
    detections = buffer.drain(np.arange(place))
    assert buffer.images == []
    return detections


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32])
def test_the_width_is_rounded_in_the_dtype_of_the_boxes(dtype: torch.dtype) -> None:
    boxes = _prediction(5, dtype)["boxes"]
    expected = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).double().numpy()
    alone, mixed = _drain([_prediction(5, dtype)]), _drain([_prediction(5, dtype), _prediction(2, torch.float64)])
    np.testing.assert_array_equal(alone.boxes, expected)
    np.testing.assert_array_equal(mixed.boxes[:5], expected)
    assert mixed.counts.tolist() == [5, 2]


def test_batches_of_several_dtypes_are_not_mixed_up() -> None:
    half, single = _prediction(3, torch.float16), _prediction(4, torch.float32)
    expected = np.concatenate([_drain([half]).boxes, _drain([single]).boxes])
    np.testing.assert_array_equal(_drain([half], [single]).boxes, expected)
    np.testing.assert_array_equal(_drain([half, single]).boxes, expected)


@pytest.mark.parametrize(
    ("scores", "dtype"),
    [
        (torch.full((2,), 0.1), np.float32),
        (torch.full((2,), 0.1, dtype=torch.float64), np.float64),
        (torch.full((2,), 0.5, dtype=torch.float64), np.float32),
        (torch.full((2,), 0.1, dtype=torch.bfloat16), np.float32),
        (torch.tensor([1, 0]), np.float32),
        (np.array([0.1, 0.2]), np.float64),
    ],
)
def test_scores_keep_their_value(scores: Any, dtype: type) -> None:
    found = _drain([_prediction(2, torch.float32, scores=scores)]).scores
    assert found.dtype == dtype
    assert found.tolist() == scores.tolist()


def test_predictions_may_need_gradients_and_be_parts_of_others() -> None:
    whole = torch.rand(9, 7, requires_grad=True)
    prediction = {"boxes": whole[::2, :4], "labels": torch.zeros(5, dtype=torch.int32), "scores": whole[::2, 6]}
    detections = _drain([prediction, _prediction(0, torch.float32)])
    assert detections.labels.dtype == np.int64
    np.testing.assert_array_equal(detections.scores, prediction["scores"].detach().numpy())
