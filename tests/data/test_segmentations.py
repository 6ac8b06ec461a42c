from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as mask_utils

from ignite_imgtools.data.ragged import Ragged, pack_bytes
from ignite_imgtools.data.segmentations import (
    BadSegmentation,
    SegmentationBuilder,
    rle_counts,
    well_formed_segmentations,
)


@settings(deadline=None)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_run_lengths_equal_those_of_pycocotools(mask):
    counts = rle_counts(mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"])
    builder = SegmentationBuilder()
    builder.add({"size": list(mask.shape), "counts": counts.tolist()}, *mask.shape)
    np.testing.assert_array_equal(builder.build().mask(0, *mask.shape), mask)


def test_long_runs():
    counts = [100_000_000, 3, 7, 60_000_000, 1]
    height, width = 1, sum(counts)
    encoded = mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    assert rle_counts(encoded).tolist() == counts


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_any_bytes_are_numbers_or_refused(garbled):
    with suppress(ValueError):  # and nothing else, as an index out of range
        assert rle_counts(garbled).dtype == np.int64


def test_rows_are_kept_apart_and_taken_in_any_order():
    builder = SegmentationBuilder()
    polygon = [1.5, 2, 8, 2, 8, 9.25]
    builder.add([polygon, [0, 0, 1, 0, 1, 1, 0, 1]], 10, 12)
    builder.add(None, 10, 12)
    builder.add({"size": [10, 12], "counts": [0, 10, 110]}, 10, 12)
    with pytest.raises(BadSegmentation):
        builder.add([polygon, [1, 2]], 10, 12)
    builder.add([], 10, 12)
    segmentations = builder.build()
    assert len(segmentations) == 4
    assert segmentations.reach().tolist() == [9.25, 0, 0, 0]
    taken = segmentations.take(np.array([2, 3, 0]))
    assert taken.in_coco_format(2, 10, 12) == [polygon, [0, 0, 1, 0, 1, 1, 0, 1]]
    assert taken.in_coco_format(1, 10, 12) is None
    assert [taken.has_mask(index) for index in range(3)] == [True, False, True]
    first_column = np.zeros((10, 12))
    first_column[:, 0] = 1
    np.testing.assert_array_equal(taken.mask(0, 10, 12), first_column)
    assert not taken.mask(1, 10, 12).any()
    assert segmentations.mask(0, 10, 12)[0, 0] == 1


def test_rows_of_pairs_of_any_array_are_taken():
    starts, rows = np.array([0, 2, 4, 10]), np.array([2, 0, 2])
    for values in (np.arange(10.0), np.arange(20.0)[::2], np.arange(11.0), np.arange(10), np.arange(10, dtype="f4")):
        taken = Ragged(values, starts).take(rows)
        assert taken.values.dtype == values.dtype
        assert [row.tolist() for row in map(taken.__getitem__, range(3))] == [
            values[starts[row] : starts[row + 1]].tolist() for row in rows
        ]
    assert len(Ragged(np.array([]), np.array([0, 0])).take(np.array([0, 0])).values) == 0


def test_ragged_rows():
    rows = pack_bytes([b"abc", b"", b"de"])
    assert [rows[index].tobytes() for index in range(len(rows))] == [b"abc", b"", b"de"]
    taken = rows.take(np.array([2, 1, 2, 0]))
    assert [taken[index].tobytes() for index in range(4)] == [b"de", b"", b"de", b"abc"]
    assert len(rows.take(np.array([], dtype=np.int64))) == 0
    assert len(Ragged(np.zeros(0), np.zeros(1, np.int64))) == 0


def test_all_at_once_equals_one_after_the_other():
    runs = {"size": [4, 5], "counts": [3, 2, 15]}
    found = [[[0, 0, 4, 0, 4, 3.5]], None, runs, [], [[1, 1, 2, 1, 2, 2], [0, 0, 1, 0, 1, 1, 0, 1]]]
    builder = SegmentationBuilder()
    for segmentation in found:
        builder.add(segmentation, 4, 5)
    expected, got = builder.build(), well_formed_segmentations(found, [[4, 5]] * len(found))
    assert got is not None
    for mine, theirs in [
        (got.polygons.values, expected.polygons.values),
        (got.polygons.starts, expected.polygons.starts),
        (got.polygon_starts, expected.polygon_starts),
        (got.rle.values, expected.rle.values),
        (got.rle.starts, expected.rle.starts),
    ]:
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "bad",
    [[[0, 0, 1, 1]], [[0, 0, 1, 1, 2]], [[0, 0, 1, "1", 2, 2]], [[0, 0, 1, None, 2, 2]], [3], "x", {"counts": [1]}],
    ids=str,
)
def test_all_at_once_leaves_what_is_malformed_to_the_other_way(bad):
    assert well_formed_segmentations([[[0, 0, 4, 0, 4, 3]], bad], [[4, 5]] * 2) is None
    with pytest.raises(BadSegmentation):
        SegmentationBuilder().add(bad, 4, 5)
