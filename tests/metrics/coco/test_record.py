"""Records keep their rows together when they are packed, joined and reordered."""

from __future__ import annotations

import numpy as np

from ignite_imgtools.metrics.coco.record import Record, concatenate, one_of_each_image, sort_by_image


def _record(images: list[int], seed: int = 0, rate: float = 0.5, most: int = 4) -> Record:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most + 1, size=len(images)).astype(np.int32)
    total = int(counts.sum())
    matched = rng.random(total) < rate
    return Record(
        images=np.array(images, dtype=np.int32),
        counts=counts,
        category=rng.integers(0, 9, size=total).astype(np.uint8),
        scores=rng.random(total).astype(np.float32),
        outside=rng.integers(0, 16, size=(total, 1)).astype(np.uint8),
        matched=matched,
        flags=rng.integers(0, 256, size=(int(matched.sum()), 10)).astype(np.uint8),
    )


def _rows(record: Record) -> list[tuple[int, list[tuple[object, ...]]]]:
    """The detections of each image, in order, for comparison."""
    flags = iter(record.flags.tolist())
    rows = [
        (category, score, outside, next(flags) if matched else None)
        for category, score, outside, matched in zip(
            record.category.tolist(), record.scores.tolist(), record.outside.tolist(), record.matched, strict=True
        )
    ]
    ends = np.cumsum(record.counts)
    return [(int(i), rows[e - c : e]) for i, c, e in zip(record.images, record.counts, ends, strict=True)]


def test_packing_and_unpacking() -> None:
    record = _record([4, 2, 9, 0])
    assert _rows(Record.from_arrays(record.to_arrays())) == _rows(record)
    empty = Record.empty(4, 10, np.dtype(np.uint8))
    assert _rows(concatenate([empty, Record.from_arrays(empty.to_arrays()), record])) == _rows(record)
    assert {name: a.dtype for name, a in empty.to_arrays().items()} == {
        n: a.dtype for n, a in record.to_arrays().items()
    }


def test_images_are_sorted_with_their_detections() -> None:
    record = _record([4, 2, 9, 0, 7])
    assert _rows(sort_by_image(record)) == sorted(_rows(record), key=lambda row: row[0])
    assert sort_by_image(sort_by_image(record)).images.tolist() == [0, 2, 4, 7, 9]


def test_the_first_of_each_image_stays() -> None:
    first, second = _record([4, 2], 1), _record([2, 4, 3], 2)
    both = concatenate([first, second])
    assert _rows(one_of_each_image(both)) == [*_rows(first), _rows(second)[2]]
    assert one_of_each_image(first) is first


def test_a_detection_takes_few_bytes() -> None:
    record = _record(list(range(200)), rate=0.2, most=60)
    size = sum(array.nbytes for array in record.to_arrays().values())
    assert size < 12 * len(record.category)
