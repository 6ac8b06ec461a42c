"""COCO's run lengths against pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics.coco.run_lengths import areas, check_coverage, compressed, compressed_all, encode, runs_of


def test_runs_are_those_of_the_mask() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((40, 37, 41)) < rng.choice([0, 0.01, 0.5, 0.99, 1], size=(40, 1, 1))
    runs = runs_of(encode(masks))
    drawn = np.zeros((40, 37 * 41), dtype=bool)
    for number, start, end in zip(runs.mask, runs.starts, runs.ends, strict=True):
        assert not drawn[number, start:end].any()
        drawn[number, start:end] = True
    np.testing.assert_array_equal(drawn, masks.transpose(0, 2, 1).reshape(40, -1))
    assert (np.diff(runs.mask) >= 0).all()


def test_runs_of_large_masks_and_of_none() -> None:
    mask = np.zeros((1, 3000, 4000), dtype=bool)
    mask[0, :, 3999] = True
    runs = runs_of(encode(mask))
    assert (runs.mask.tolist(), runs.starts.tolist(), runs.ends.tolist()) == ([0], [3000 * 3999], [3000 * 4000])
    for nothing in ([], [{"size": [3, 3], "counts": b""}], encode(np.zeros((2, 3, 3), dtype=bool))):
        assert len(runs_of(nothing).mask) == 0


def test_areas_of_more_masks_than_pycocotools_takes_at_once() -> None:
    masks = np.arange(600)[:, None, None] > np.arange(600).reshape(20, 30)
    assert areas(encode(masks)).tolist() == list(range(600))
    assert areas([]).tolist() == []


_POLYGON = [1.0, 1.0, 8.0, 1.5, 7.5, 8.0]


@pytest.mark.parametrize(
    "segmentation",
    [
        [_POLYGON],
        [_POLYGON, [2, 2, 9, 2, 9, 9, 2, 9]],
        {"size": [10, 12], "counts": [5, 3, 112]},
        {"size": [10, 12], "counts": "53`3"},
    ],
)
def test_every_form_of_segmentation(segmentation: Any) -> None:
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        expected: Any = {"size": [10, 12], "counts": segmentation["counts"].encode()}
    else:
        expected = coco_mask.frPyObjects(segmentation, 10, 12)
        expected = coco_mask.merge(expected) if isinstance(expected, list) else expected
    assert compressed(segmentation, 10, 12, "it") == expected
    assert compressed_all([segmentation, [_POLYGON]], 10, 12, ["it", "other"])[0] == expected


def test_the_bad_one_of_several_is_named() -> None:
    with pytest.raises(DataError, match="annotation 8: expected polygons or run lengths as segmentation, got"):
        compressed_all([[_POLYGON], [["a"] * 6]], 10, 12, ["annotation 7", "annotation 8"])


def test_runs_have_to_cover_their_image() -> None:
    good = [{"size": [30, 40], "counts": [0, 150, 1050]}, {"size": [30, 40], "counts": [1200]}]
    masks = [compressed(mask, 30, 40, "it") for mask in good]
    check_coverage(masks * 3000, ["it"] * 6000)
    check_coverage([], [])
    for counts in ([0, 150, 10], [0, 150, 1051], [], [0, 0, 0]):
        bad = coco_mask.frPyObjects({"size": [30, 40], "counts": counts}, 30, 40)
        names = [f"mask {number}" for number in range(6000)]
        came = f"mask 5000: expected run lengths of 30 x 40 pixels, got {sum(counts)}"
        with pytest.raises(DataError, match=came):
            check_coverage([*masks * 2500, bad, *masks[:1]], names)
        with pytest.raises(DataError, match="annotation 3"):
            compressed_all([{"size": [30, 40], "counts": counts}], 30, 40, ["annotation 3"])


@pytest.mark.parametrize("counts", ["o", "0`", "\0", "0\0", "~", "\ud800"])
def test_garbled_texts_never_come_to_pycocotools(counts: str) -> None:
    with pytest.raises(DataError, match="it: expected polygons or run lengths"):
        compressed({"size": [30, 40], "counts": counts}, 30, 40, "it")


@pytest.mark.parametrize(
    "polygons",
    [[[1e9, 0, 0, 1e9, 1, 1]], [[float("nan")] * 6], [[-390, 0, 390, 1] * 3000], [{"counts": [1]}], [[1, "2"]]],
)
def test_outlines_that_take_more_memory_than_there_is(polygons: Any) -> None:
    for masks in (lambda: compressed(polygons, 30, 40, "it"), lambda: compressed_all([polygons], 30, 40, ["it"])):
        with pytest.raises(DataError, match="it: expected polygons or run lengths"):
            masks()
