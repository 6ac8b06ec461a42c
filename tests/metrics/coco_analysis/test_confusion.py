"""The confusion matrix: small scenes by hand, and a slow loop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics.coco_analysis import confusion_matrix
from tests.metrics.coco.cases import box_case
from tests.metrics.coco.reference import coco_of, results_of
from tests.metrics.coco_analysis.slow_analysis import slow_confusion
from tests.metrics.coco_analysis.test_errors import _GOOD, _LEFT, _RIGHT, _TRUTHS, CAR, CAT, found, scene


def matrix_of(dataset: dict[str, Any], results: Any, **options: Any) -> list[list[int]]:
    return confusion_matrix(SimpleNamespace(dataset=dataset), results, **options).tolist()


def test_scenes_by_hand() -> None:
    dataset = scene(*_TRUTHS)
    assert matrix_of(dataset, found(*_GOOD)) == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    # The cat is taken for a car; a second detection of it is of nothing that is left.
    taken = found((CAR, 0.9, _RIGHT), (CAR, 0.8, _RIGHT))
    assert matrix_of(dataset, taken) == [[0, 0, 1], [1, 0, 0], [1, 0, 0]]
    # What is right comes first, even at a lower score.
    both = found((CAR, 0.9, _RIGHT), (CAT, 0.6, _RIGHT))
    assert matrix_of(dataset, both) == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert matrix_of(dataset, both, score_threshold=0.7) == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert matrix_of(dataset, found((CAR, 0.9, [0, 0, 20, 12])), iou_threshold=0.7) == [[0, 0, 1], [0, 0, 1], [1, 0, 0]]


def test_crowds_do_not_count() -> None:
    dataset = scene((CAR, _LEFT), crowd=(1,))
    assert not np.any(matrix_of(dataset, found((CAR, 0.9, _LEFT), (CAR, 0.8, [1, 1, 5, 5]))))
    assert matrix_of(dataset, found((CAT, 0.9, _LEFT)))[2] == [0, 1, 0]


def test_random_cases_equal_the_slow_loop() -> None:
    confused = 0
    for seed in range(4000, 4120):
        case = box_case(seed)
        dataset, results = coco_of(case.dataset).dataset, results_of(case.predictions, "bbox")
        score = (0.0, 0.3, 0.5)[seed % 3]
        matrix = np.array(matrix_of(dataset, results, score_threshold=score))
        np.testing.assert_array_equal(matrix, slow_confusion(dataset, results, score=score), str(seed))
        confused += matrix[:-1, :-1].sum() - np.trace(matrix[:-1, :-1])
    assert confused > 10


def test_images_may_be_chosen() -> None:
    dataset = scene(*_TRUTHS)
    dataset["images"].append({"id": 6})
    dataset["annotations"].append({**dataset["annotations"][0], "id": 9, "image_id": 6})
    assert matrix_of(dataset, found(*_GOOD)) == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert matrix_of(dataset, found(*_GOOD), image_ids=[5]) == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    with pytest.raises(DataError, match="image_id 7"):
        matrix_of(dataset, [], image_ids=[7])


def test_nothing_at_all() -> None:
    assert matrix_of(scene(), []) == [[0] * 3] * 3
    assert matrix_of({"images": [], "annotations": [], "categories": []}, []) == [[0]]
    with pytest.raises(ValueError, match="above 0"):
        matrix_of(scene(), [], iou_threshold=0)
