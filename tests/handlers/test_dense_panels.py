"""Which images are drawn of a dense model, and where the picture goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
from PIL import Image

from ignite_imgtools.handlers import attach_mask_panels, attach_saliency_panels
from tests.distributed.spawn import run_processes
from tests.handlers.dense_evaluators import (
    NAMES,
    as_labels,
    dense_batches,
    saliency_evaluator,
    segmentation_evaluator,
)


def _picture(numbers: Sequence[int], size: int = 4, **options: Any) -> np.ndarray:
    evaluator = segmentation_evaluator()
    attach_mask_panels(None, evaluator, NAMES, **options)
    evaluator.run(dense_batches(numbers, size) or [([], [])])
    return evaluator.state.images["predictions"] if idist.get_rank() == 0 else np.empty(0)


def test_the_picture_depends_on_the_images_alone() -> None:
    expected = _picture(range(21))
    assert (_picture(range(21), 1) == expected).all()
    assert (_picture(list(reversed(range(21))), 8) == expected).all()
    assert (_picture([*range(21), 3, 4]) == expected).all()  # seen twice, drawn once
    assert _picture(range(21), num_images=2).shape[0] < expected.shape[0]


def _shard(shards: Sequence[Sequence[int]]) -> np.ndarray:
    return _picture(shards[idist.get_rank()], 3)


@pytest.mark.parametrize(
    "shards", [[range(0, 21, 2), range(1, 21, 2)], [range(20), range(12, 21), range(0)]], ids=["halves", "uneven"]
)
def test_processes_draw_the_picture_of_one(shards: list[Sequence[int]]) -> None:
    assert (run_processes(_shard, len(shards), shards)[0] == _picture(range(21))).all()


def test_labels_are_drawn_as_logits_are() -> None:
    pictures = []
    for evaluator in (segmentation_evaluator(), as_labels(segmentation_evaluator())):
        attach_mask_panels(None, evaluator, NAMES)
        evaluator.run(dense_batches(range(5)))
        pictures.append(evaluator.state.images["predictions"])
    assert (pictures[0] == pictures[1]).all()


@pytest.mark.parametrize("saliency", [False, True])
def test_it_is_written_and_published_anew_at_each_evaluation(saliency: bool, tmp_path: Path) -> None:
    if saliency:
        evaluator = saliency_evaluator()
        panels = attach_saliency_panels(tmp_path, evaluator, num_images=2)
    else:
        evaluator = segmentation_evaluator()
        panels = attach_mask_panels(tmp_path, evaluator, num_images=2)
    evaluator.run(dense_batches(range(5), 2, saliency=saliency))
    first = evaluator.state.images["predictions"]
    assert (np.asarray(Image.open(tmp_path / "plots" / "predictions.png")) == first).all()
    evaluator.run(dense_batches(range(50, 55), 2, saliency=saliency))
    second = evaluator.state.images["predictions"]
    assert first.shape != second.shape or (first != second).any()
    panels.detach()
    evaluator.state.images = {}
    evaluator.run(dense_batches(range(5), 2, saliency=saliency))
    assert evaluator.state.images == {}


def test_probabilities_are_drawn_as_their_logits_are() -> None:
    batches, pictures = dense_batches(range(3), saliency=True), []
    for from_logits in (True, False):
        evaluator = saliency_evaluator()
        step = evaluator._process_function
        if not from_logits:

            def probabilities(engine: Any, batch: Any, step: Any = step) -> dict[str, Any]:
                output = step(engine, batch)
                return {**output, "y_pred": [logits.sigmoid() for logits in output["y_pred"]]}

            evaluator._process_function = probabilities
        attach_saliency_panels(None, evaluator, from_logits=from_logits)
        evaluator.run(batches)
        pictures.append(evaluator.state.images["predictions"])
    assert (pictures[0] == pictures[1]).all()


@pytest.mark.parametrize("name", ["num_images", "height"])
def test_arguments_out_of_range(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        attach_mask_panels(None, segmentation_evaluator(), **{name: 0})
