"""COCO's run-length encoding: how long the runs of zeros and ones are, column by column, as a compressed string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.formats import DataError

__all__ = ["RunLengths", "Runs", "areas", "compressed", "decode_counts", "encode", "foreground"]

RunLengths = dict[str, Any]
"""``{"size": [height, width], "counts": bytes}``, the form pycocotools computes with."""

Runs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Where runs of ones start and end (exclusive), in the pixels of an image read column by column."""

# pycocotools' area and others hold the number of masks in 8 bits under NumPy 2.
_MANY = 255


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
                return {"size": size, "counts": counts.encode() if isinstance(counts, str) else counts}
            result = coco_mask.frPyObjects({"size": size, "counts": list(counts)}, height, width)
        else:
            result = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{where}: expected polygons or run lengths as segmentation, got {_short(segmentation)}"
        ) from error
    return result


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


def decode_counts(counts: Sequence[bytes]) -> list[NDArray[np.int64]]:
    """The lengths of the runs of each compressed string, zeros first.

    A number is written in groups of 5 bits, lowest first, the sixth bit saying that more follow and the highest bit
    of the last group giving the sign; from the fourth number on it is the difference to the number two before.
    """
    lengths = np.array([len(text) for text in counts], dtype=np.int64)
    codes = np.frombuffer(b"".join(counts), dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((codes & 0x20) == 0)
    if not len(last):
        return [np.zeros(0, dtype=np.int64) for _ in counts]
    first = np.append(0, last[:-1] + 1)
    place = np.arange(last[-1] + 1) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((codes[: last[-1] + 1] & 0x1F) << (5 * place), first)
    values -= ((codes[last] >> 4) & 1) << (5 * (last - first + 1))
    result = []
    for own in np.split(values, np.searchsorted(last, np.cumsum(lengths)[:-1])):
        own[1::2] = np.cumsum(own[1::2])
        own[2::2] = np.cumsum(own[2::2])
        result.append(own)
    return result


def foreground(counts: NDArray[np.int64]) -> Runs:
    """The runs of ones, those of no length left out, of all runs."""
    ends = np.cumsum(counts)
    starts = ends - counts
    starts, ends = starts[1::2], ends[1::2]
    some = ends > starts
    return starts[some], ends[some]
