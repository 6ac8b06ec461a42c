"""COCO's run-length encoding: how long the runs of zeros and ones are, column by column, as a compressed string."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics.coco.candidates import starts_of
from ignite_imgtools.metrics.coco.ordering import rank_in_group

__all__ = ["RunLengths", "Runs", "areas", "check_coverage", "compressed", "compressed_all", "encode", "runs_of"]

RunLengths = dict[str, Any]
"""``{"size": [height, width], "counts": bytes}``, the form pycocotools computes with."""


@dataclass(frozen=True)
class Runs:
    """Runs of ones of several masks, all read column by column: mask by mask, in order, none of no length.

    Attributes:
        mask: int64 ``[r]``, the mask each belongs to.
        starts, ends: int64 ``[r]``, its first pixel and the one behind its last.
    """

    mask: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


# The characters of compressed run lengths, and how far from the image, in lengths of its longer side, polygons may go.
_CHARACTERS = bytes(range(48, 112))
_REACH = 10
# Largest sum of the edges of a polygon, each by its larger side, in pixels.
_LONGEST_OUTLINE = 2_000_000

# pycocotools' area and others hold the number of masks in 8 bits under NumPy 2.
_MANY = 255
# So many masks are looked at together: their run lengths take some megabytes.
_BLOCK = 4096


def compressed(segmentation: Any, height: int, width: int, where: str) -> RunLengths:
    """Run lengths of a COCO segmentation: polygons, compressed or uncompressed run lengths.

    Args:
        segmentation: as in an annotation or a result.
        height, width: of the image.
        where: names the annotation or prediction in messages.

    Raises:
        DataError: it is none of these, or the size is not that of the image.
    """
    from pycocotools import mask as coco_mask

    try:
        if isinstance(segmentation, Mapping):
            size, counts = [int(length) for length in segmentation["size"]], segmentation["counts"]
            if size != [height, width]:
                raise DataError(f"{where}: run lengths of size {size} for an image of size {[height, width]}")
            if isinstance(counts, str | bytes):
                return {"size": size, "counts": _checked_text(counts.encode() if isinstance(counts, str) else counts)}
            result = coco_mask.frPyObjects({"size": size, "counts": list(counts)}, height, width)
        else:
            _check_reach([list(part) for part in segmentation], height, width)
            parts = coco_mask.frPyObjects(segmentation, height, width)
            result = parts[0] if len(parts) == 1 else coco_mask.merge(parts)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{where}: expected polygons or run lengths as segmentation, got {_short(segmentation)}"
        ) from error
    return result


def compressed_all(segmentations: Sequence[Any], height: int, width: int, names: Sequence[str]) -> list[RunLengths]:
    """Run lengths of several segmentations of one image, as :func:`compressed`; ``names`` are for messages."""
    from pycocotools import mask as coco_mask

    result: list[Any] = [None] * len(segmentations)
    # Polygons of one part, which most are, go through one call.
    single = [
        place
        for place, parts in enumerate(segmentations)
        if type(parts) is list and len(parts) == 1 and type(parts[0]) is list and len(parts[0]) > 4
    ]
    if single:
        with contextlib.suppress(Exception):  # one is bad; below it is named
            polygons = [segmentations[place][0] for place in single]
            _check_reach(polygons, height, width)
            for place, mask in zip(single, coco_mask.frPyObjects(polygons, height, width), strict=True):
                result[place] = mask
    masks = [
        compressed(segmentation, height, width, name) if mask is None else mask
        for mask, segmentation, name in zip(result, segmentations, names, strict=True)
    ]
    given = [place for place, segmentation in enumerate(segmentations) if isinstance(segmentation, Mapping)]
    check_coverage([masks[place] for place in given], [names[place] for place in given])
    return masks


def _checked_text(text: bytes) -> bytes:
    # pycocotools reads on behind a last number that says that more of it follows, into whatever memory comes there.
    if text.translate(None, _CHARACTERS) or (text and (text[-1] - 48) & 0x20):
        raise ValueError("not compressed run lengths")
    return text


def _check_reach(polygons: Sequence[Sequence[float]], height: int, width: int) -> None:
    # pycocotools takes memory by the length of an outline, counted in 32 bits: of one that is long enough, too little.
    numbers = np.array(list(chain.from_iterable(polygons)), dtype=np.float64)
    # Written so that NaN is refused too.
    if numbers.ndim != 1 or not np.abs(numbers).max(initial=0) <= _REACH * max(height, width):
        raise ValueError("points far away from the image, or not finite")
    for polygon in polygons:
        # No edge is longer than twice the reach: that clears nearly all of them.
        if len(polygon) * _REACH * max(height, width) > _LONGEST_OUTLINE:
            points = np.array(polygon[: len(polygon) // 2 * 2], dtype=np.float64).reshape(-1, 2)
            if np.abs(points - np.roll(points, -1, axis=0)).max(axis=1).sum() > _LONGEST_OUTLINE:
                raise ValueError("an outline that is longer than any of an image")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def areas(run_lengths: Sequence[RunLengths]) -> NDArray[np.int64]:
    """Number of pixels of each mask, int64 ``[n]``."""
    from pycocotools import mask as coco_mask

    blocks = [run_lengths[start : start + _MANY] for start in range(0, len(run_lengths), _MANY)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *(coco_mask.area(list(block)) for block in blocks)]).astype(
        np.int64
    )


def encode(masks: NDArray[np.bool_]) -> list[RunLengths]:
    """Run lengths of masks ``[n, H, W]``."""
    from pycocotools import mask as coco_mask

    if not len(masks):
        return []
    return coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))


def runs_of(run_lengths: Sequence[RunLengths]) -> Runs:
    """The runs of ones of several masks.

    In the string a number is written in groups of 5 bits, lowest first, the sixth bit saying that more follow and the
    highest bit of the last group giving the sign. Numbers are the lengths of runs of zeros and ones by turns; from the
    fourth on the difference to the length two before is written.
    """
    mask, number, lengths = _lengths_of(run_lengths)
    ends = _running_sum(lengths, mask)
    ones = np.flatnonzero((number % 2 == 1) & (lengths > 0))
    return Runs(mask[ones], (ends - lengths)[ones], ends[ones])


def check_coverage(run_lengths: Sequence[RunLengths], names: Sequence[str]) -> None:
    """Refuse run lengths that do not add up to their image.

    pycocotools goes through the runs of two masks at once until both images are full: with fewer pixels it never ends,
    or reads what lies behind them.

    Raises:
        DataError: the runs of a mask, named by ``names``, are not those of its size.
    """
    for start in range(0, len(run_lengths), _BLOCK):
        block = run_lengths[start : start + _BLOCK]
        mask, _, lengths = _lengths_of(block)
        totals = np.bincount(mask, weights=lengths, minlength=len(block))
        pixels = np.array([height * width for height, width in (entry["size"] for entry in block)], dtype=np.float64)
        bad = totals != pixels
        bad[mask[(lengths < 0) | (lengths > pixels[mask])]] = True
        if bad.any():
            place = int(bad.argmax())
            height, width = block[place]["size"]
            raise DataError(
                f"{names[start + place]}: expected run lengths of {height} x {width} pixels, got {totals[place]:.0f}"
            )


def _lengths_of(run_lengths: Sequence[RunLengths]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """All run lengths, mask by mask: of each the mask that it belongs to, its number there from 0, and itself."""
    texts = [mask["counts"] for mask in run_lengths]
    codes = np.frombuffer(b"".join(texts), dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((codes & 0x20) == 0)
    if not len(last):
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing, nothing
    first = np.append(0, last[:-1] + 1)
    groups = last - first + 1
    place = np.arange(len(codes)) - np.repeat(first, groups)
    values = np.add.reduceat((codes & 0x1F) << (5 * place), first)
    values -= ((codes[last] >> 4) & 1) << (5 * groups)

    mask = np.repeat(np.arange(len(texts)), [len(text) for text in texts])[last]
    number = rank_in_group(starts_of(mask))
    lengths = values.copy()
    for places in (np.flatnonzero(number % 2 == 1), np.flatnonzero((number % 2 == 0) & (number > 0))):
        lengths[places] = _running_sum(values[places], mask[places])
    return mask, number, lengths


def _running_sum(values: NDArray[np.int64], group: NDArray[np.int64]) -> NDArray[np.int64]:
    """The running sum of values ``[n]``, anew for each of the ascending groups."""
    total = np.cumsum(values)
    heads = np.flatnonzero(starts_of(group))
    before = total[heads] - values[heads]
    return total - np.repeat(before, np.diff(heads, append=len(values)))
