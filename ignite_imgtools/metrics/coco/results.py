"""Predictions kept as they came, to be written as COCO results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.detections import Detections
from ignite_imgtools.metrics.coco.floats import compact_floats, join_double, split_double
from ignite_imgtools.metrics.coco.masks import RunLengthMasks

__all__ = ["KeptPredictions", "detections_of", "kept_of", "results_of"]


@dataclass(frozen=True)
class KeptPredictions:
    """All ``n`` predictions of ``I`` images, image by image, in the order the model gave them.

    Attributes:
        images: int32 ``[I]``, positions in the ground truth's ``image_ids``.
        counts: int32 ``[I]``, predictions of each image.
        sizes: int32 ``[I, 2]``, height and width of the masks of each image; else 0.
        labels: int64 ``[n]``, category ids.
        scores: float32, or float64 where that is needed, ``[n]``.
        values: of the same dtypes, ``[n, V]``: boxes as x, y, width, height, or keypoints one after the other.
        text: uint8, the compressed run lengths of all masks, joined.
        lengths: int32 ``[n]``, of each of them; else 0.
    """

    images: NDArray[np.int32]
    counts: NDArray[np.int32]
    sizes: NDArray[np.int32]
    labels: NDArray[np.int64]
    scores: NDArray[Any]
    values: NDArray[Any]
    text: NDArray[np.uint8]
    lengths: NDArray[np.int32]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The columns as arrays whose dtypes do not depend on the data."""
        columns = {name: getattr(self, name) for name in _COLUMNS if name not in ("scores", "values")}
        return {**columns, **split_double("scores", self.scores), **split_double("values", self.values)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> KeptPredictions:
        """The inverse of :meth:`to_arrays`."""
        columns = {name: arrays[name] for name in _COLUMNS if name not in ("scores", "values")}
        return cls(**columns, scores=join_double("scores", arrays), values=join_double("values", arrays))

    @classmethod
    def concatenate(cls, parts: Sequence[KeptPredictions]) -> KeptPredictions:
        """One of several, of at least one."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS})


_COLUMNS = tuple(field.name for field in fields(KeptPredictions))


def kept_of(detections: Detections, iou_type: str) -> KeptPredictions:
    """What the results of one type need of ``detections``."""
    images, count = len(detections.images), len(detections.labels)
    sizes, lengths, text = np.zeros((images, 2), dtype=np.int32), np.zeros(count, dtype=np.int32), b""
    values = np.zeros((count, 0))
    if iou_type == "bbox":
        values = detections.boxes
    elif iou_type == "keypoints":
        keypoints = detections.keypoints
        values = keypoints.reshape(count, keypoints.shape[1] * keypoints.shape[2])
    else:
        run_lengths = [masks.to_run_lengths() for masks in detections.masks]
        strings = [mask["counts"] for masks in run_lengths for mask in masks]
        text, lengths = b"".join(strings), np.array([len(string) for string in strings], dtype=np.int32)
        sizes = np.array([m[0]["size"] if m else (0, 0) for m in run_lengths], dtype=np.int32).reshape(images, 2)
    return KeptPredictions(
        images=detections.images.astype(np.int32),
        counts=detections.counts.astype(np.int32),
        sizes=sizes,
        labels=detections.labels,
        scores=detections.scores,
        values=compact_floats(values),
        text=np.frombuffer(text, dtype=np.uint8),
        lengths=lengths,
    )


def results_of(kept: KeptPredictions, iou_type: str, image_ids: NDArray[np.int64]) -> list[dict[str, Any]]:
    """COCO results, images by ascending id, each once, its predictions in the order the model gave them.

    Numbers are Python floats equal to those that were evaluated, so that written as json, which takes the shortest
    decimal that reads back to the same number, they are evaluated to the same result.

    Args:
        kept: the predictions; an image that stands there twice is taken as it came first.
        iou_type: ``bbox``, ``segm`` or ``keypoints``.
        image_ids: the ids of all images.

    Returns:
        Dicts of ``image_id``, ``category_id``, ``score`` and ``bbox`` (x, y, width, height), ``segmentation``
        (compressed run lengths) or ``keypoints`` (x, y and a third number of each).
    """
    _, first = np.unique(kept.images, return_index=True)
    starts = np.cumsum(kept.counts) - kept.counts
    texts = np.cumsum(kept.lengths) - kept.lengths
    scores, labels = kept.scores.astype(np.float64).tolist(), kept.labels.tolist()
    values, text = kept.values.astype(np.float64).tolist(), kept.text.tobytes().decode("ascii")
    results = []
    for place in first.tolist():
        image_id = int(image_ids[kept.images[place]])
        for row in range(starts[place], starts[place] + kept.counts[place]):
            result: dict[str, Any] = {"image_id": image_id, "category_id": labels[row], "score": scores[row]}
            if iou_type == "segm":
                counts = text[texts[row] : texts[row] + kept.lengths[row]]
                result["segmentation"] = {"size": kept.sizes[place].tolist(), "counts": counts}
            else:
                result[iou_type] = values[row]
            results.append(result)
    return results


def detections_of(kept: KeptPredictions, iou_type: str) -> Detections:
    """The inverse of :func:`kept_of`, images in ascending order, each once, as it came first."""
    images, first = np.unique(kept.images, return_index=True)
    counts = kept.counts[first].astype(np.int64)
    shifts = (np.cumsum(kept.counts) - kept.counts)[first] - (np.cumsum(counts) - counts)
    rows = np.arange(counts.sum()) + np.repeat(shifts, counts)
    columns: dict[str, Any] = {}
    if iou_type == "bbox":
        columns["boxes"] = kept.values[rows].astype(np.float64)
    elif iou_type == "keypoints":
        columns["keypoints"] = kept.values[rows].astype(np.float64).reshape(len(rows), kept.values.shape[1] // 3, 3)
    else:
        ends, text = np.cumsum(kept.lengths), kept.text.tobytes()
        strings = [text[i:j] for i, j in zip((ends - kept.lengths)[rows].tolist(), ends[rows].tolist(), strict=True)]
        columns["masks"] = []
        for size, end, count in zip(
            kept.sizes[first].tolist(), np.cumsum(counts).tolist(), counts.tolist(), strict=True
        ):
            masks = [{"size": size, "counts": string} for string in strings[end - count : end]]
            columns["masks"].append(RunLengthMasks(masks))
    return Detections(images.astype(np.int64), counts, kept.labels[rows], kept.scores[rows], **columns)
