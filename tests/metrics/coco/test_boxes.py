"""Overlaps of boxes against pycocotools, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ignite_imgtools.metrics.coco.boxes import box_columns, box_edges


@pytest.mark.parametrize("lowest", [-1.0, 0.0, 0.3, 0.5, 1.0])
def test_overlaps(lowest: float) -> None:
    rng = np.random.default_rng(3)
    detections, truth = rng.normal(50, 30, size=(60, 4)), rng.normal(50, 30, size=(50, 4))  # some of negative size
    truth[:20] = truth[:20].round(-1)
    detections[:20] = detections[:20].round(-1)
    detections[20:30] = truth[20:30]
    truth[30:35, 2] = 0
    crowd = rng.random(50) < 0.3
    expected = coco_mask.iou(detections, truth, crowd.astype(np.uint8))
    rows, truth_rows = (index.ravel() for index in np.indices(expected.shape))
    kept, overlap = box_edges(box_columns(detections), box_columns(truth), crowd, rows, truth_rows, lowest)
    assert kept.tolist() == np.flatnonzero(expected.ravel() >= lowest).tolist()
    np.testing.assert_array_equal(overlap, expected.ravel()[kept])
