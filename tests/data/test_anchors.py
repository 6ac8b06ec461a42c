from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import Subset

from ignite_imgtools.data import VocDetection, YoloDetection, anchor_fit, kmeans_anchors, object_sizes
from ignite_imgtools.data.anchors import describe_anchors
from tests.data.voc_folder import write_voc_folder
from tests.data.yolo_folder import write_yolo_folder


def _iou(one, other) -> float:
    shared = min(one[0], other[0]) * min(one[1], other[1])
    return shared / (one[0] * one[1] + other[0] * other[1] - shared)


@pytest.fixture(scope="module")
def shapes() -> np.ndarray:
    """400 objects around four shapes."""
    rng = np.random.default_rng(0)
    centres = np.repeat([(10, 12), (30, 20), (40, 90), (150, 120)], 100, axis=0)
    return centres * np.exp(rng.normal(0, 0.05, (400, 2)))


def test_clusters_are_found(shapes: np.ndarray) -> None:
    order = np.random.default_rng(1).permutation(400)
    anchors = kmeans_anchors(shapes[order], 4)
    expected = [shapes[start : start + 100].mean(axis=0) for start in range(0, 400, 100)]
    np.testing.assert_allclose(anchors, expected, rtol=1e-9)


def test_each_centre_is_the_mean_of_what_is_nearest_to_it(shapes: np.ndarray) -> None:
    anchors = kmeans_anchors(shapes, 6)
    nearest = np.array([max(range(6), key=lambda k: _iou(shape, anchors[k])) for shape in shapes])
    for number, anchor in enumerate(anchors):
        np.testing.assert_allclose(shapes[nearest == number].mean(axis=0), anchor, rtol=1e-9)
    assert (np.diff(anchors.prod(axis=1)) > 0).all()


def test_fit(shapes: np.ndarray) -> None:
    anchors = [(10, 12), (35, 60)]
    best = [max(_iou(shape, anchor) for anchor in anchors) for shape in shapes]
    fit = anchor_fit(shapes, anchors, 0.3)
    assert fit.mean_iou == pytest.approx(sum(best) / 400)
    assert fit.best_possible_recall == sum(value > 0.3 for value in best) / 400


def test_few_objects() -> None:
    anchors = kmeans_anchors([(5, 5), (20, 10)], 9)
    assert anchors.shape == (9, 2)
    assert {tuple(anchor) for anchor in anchors.tolist()} == {(5, 5), (20, 10)}
    with pytest.raises(ValueError, match="at least one anchor and one object, got 9 and 0"):
        kmeans_anchors([], 9)


def test_sizes_of_objects(tmp_path: Path) -> None:
    dataset = YoloDetection(write_yolo_folder(tmp_path / "yolo"))
    # Images of 40 x 30, scaled to 80 x 60; the last box is clipped.
    expected = [[20, 30], [40, 24], [20, 15]]
    assert object_sizes(dataset, 80).tolist() == expected
    assert object_sizes(Subset(dataset, [1, 2]), 80).tolist() == expected[2:]

    class Own:
        """A data set of a user's."""

        annotations, image_size = staticmethod(dataset.annotations), staticmethod(dataset.image_size)

        def __len__(self) -> int:
            return 3

    assert object_sizes(Own(), 80).tolist() == expected
    assert "of 3 objects mean IoU 1.000" in describe_anchors(dataset, 80)
    assert describe_anchors(Subset(dataset, [2]), 80) == ""
    # Objects that are difficult are not trained on.
    assert len(object_sizes(VocDetection(write_voc_folder(tmp_path / "voc"), "train"), 80)) == 2
