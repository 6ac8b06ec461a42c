"""COCO's results, one dict for each detection, as columns: what ``COCO.loadRes`` is to pycocotools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics.coco.detections import Detections
from ignite_imgtools.metrics.coco.floats import compact_floats
from ignite_imgtools.metrics.coco.ground_truth import GroundTruth
from ignite_imgtools.metrics.coco.keypoints import keypoint_areas
from ignite_imgtools.metrics.coco.masks import RunLengthMasks
from ignite_imgtools.metrics.coco.ordering import find_sorted
from ignite_imgtools.metrics.coco.run_lengths import RunLengths, areas, check_coverage, compressed

__all__ = ["detections_of_results"]

Entries = Sequence[Mapping[str, Any]]


def detections_of_results(results: Entries, truth: GroundTruth, iou_type: str, num_keypoints: int = 17) -> Detections:
    """Columns of ``results``, with the areas that pycocotools gives to results read from a file.

    The first result decides for all, as there: if it has a box, an area is that of the box, for masks and keypoints
    too; else, if it has a segmentation, that of the mask; else that of the box around all keypoints. A result that
    lacks a box or mask gets that of the other.

    Args:
        results: dicts of ``image_id``, ``category_id``, ``score`` and ``bbox`` (x, y, width, height),
            ``segmentation`` or ``keypoints`` (x, y and a third number of each).
        truth: the annotations they belong to.
        iou_type: ``"bbox"``, ``"segm"`` or ``"keypoints"``.
        num_keypoints: of each result that has any.

    Raises:
        DataError: an entry is not as described; names it by its place in ``results``, from 0.
    """
    if not all(issubclass(kind, Mapping) for kind in set(map(type, results))):
        place, entry = next((i, entry) for i, entry in enumerate(results) if not isinstance(entry, Mapping))
        raise DataError(f"result {place} must be an object, got {_short(entry)}")
    images, known = find_sorted(truth.image_ids, _integers("image_id", results))
    if not known.all():
        place = int(np.argmin(known))
        raise DataError(
            f"result {place}: image_id {results[place]['image_id']} is not one of the {truth.num_images} images of "
            "the ground truth"
        )
    labels = _integers("category_id", results)
    scores = compact_floats(_numbers("score", results, ()))
    # In order of images, and for each as listed.
    order = np.argsort(images, kind="stable")
    results = [results[row] for row in order.tolist()] if (np.diff(images) < 0).any() else results
    listed = _Listed(results, order, images[order], truth, num_keypoints)
    seen, counts = np.unique(images, return_counts=True)
    columns: dict[str, Any] = {}
    if iou_type == "bbox":
        columns["boxes"] = listed.boxes
    elif iou_type == "segm":
        masks, ends = listed.masks, np.cumsum(counts)
        starts = (ends - counts).tolist()
        columns["masks"] = [RunLengthMasks(masks[i:j]) for i, j in zip(starts, ends.tolist(), strict=True)]
    else:
        columns["keypoints"] = listed.keypoints
    return Detections(seen, counts, labels[order], scores[order], areas=listed.areas, **columns)


class _Listed:
    """Results in order of images; ``order`` has the place of each in the file, ``images`` that of its image."""

    def __init__(
        self,
        results: Entries,
        order: NDArray[np.int64],
        images: NDArray[np.int64],
        truth: GroundTruth,
        num_keypoints: int,
    ):
        self._results, self._order, self._images, self._truth = results, order.tolist(), images, truth
        self._num_keypoints = num_keypoints
        first = results[int(np.argmin(order))] if len(results) else {}
        kinds = [key for key in ("bbox", "segmentation", "keypoints") if key in first]
        self._kind = next((key for key in kinds if key != "bbox" or first[key] != []), None)

    @cached_property
    def areas(self) -> NDArray[np.float64]:
        """float64 ``[n]``."""
        if self._kind == "bbox":
            return self.boxes[:, 2] * self.boxes[:, 3]
        if self._kind == "segmentation":
            return areas(self.masks).astype(np.float64)
        return keypoint_areas(self.keypoints)

    @cached_property
    def boxes(self) -> NDArray[np.float64]:
        """float64 ``[n, 4]``: x, y, width, height."""
        if self._kind == "keypoints":
            points = self.keypoints[..., :2]
            corner = points.min(axis=1)
            return np.concatenate([corner, points.max(axis=1) - corner], axis=1)
        if self._kind != "segmentation":
            return _numbers("bbox", self._results, (4,), self._order)
        from pycocotools import mask as coco_mask

        boxes = np.zeros((len(self._results), 4))
        given = [row for row, result in enumerate(self._results) if "bbox" in result]
        if len(given) < len(boxes):
            boxes[:] = [coco_mask.toBbox(mask) for mask in self.masks]
        boxes[given] = _numbers("bbox", [self._results[i] for i in given], (4,), [self._order[i] for i in given])
        return boxes

    @cached_property
    def masks(self) -> list[RunLengths]:
        """``n`` masks."""
        boxes = self.boxes.tolist() if self._kind == "bbox" else None
        masks = []
        given: list[int] = []
        for row, (result, image) in enumerate(zip(self._results, self._images.tolist(), strict=True)):
            where = f"result {self._order[row]}"
            if "segmentation" in result:
                segmentation = result["segmentation"]
            elif boxes is not None:
                x, y, width, height = boxes[row]
                segmentation = [[x, y, x, y + height, x + width, y + height, x + width, y]]
            else:
                raise DataError(f"{where} has no 'segmentation'")
            masks.append(compressed(segmentation, *self._truth.image_size(image), where=where))
            if isinstance(segmentation, Mapping):
                given.append(row)
        check_coverage([masks[row] for row in given], [f"result {self._order[row]}" for row in given])
        return masks

    @cached_property
    def keypoints(self) -> NDArray[np.float64]:
        """float64 ``[n, K, 3]``."""
        points = self._num_keypoints
        return _numbers("keypoints", self._results, (3 * points,), self._order).reshape(-1, points, 3)


def _integers(key: str, entries: Entries) -> NDArray[np.int64]:
    values = _values(key, entries, None)
    if set(map(type, values)) <= {int}:
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            pass
    for place, value in enumerate(values):
        if type(value) is not int or abs(value) >= 1 << 63:
            raise DataError(f"result {place}: {key!r} must be an integer, got {_short(value)}")
    return np.array(values, dtype=np.int64)


def _numbers(key: str, entries: Entries, shape: tuple[int, ...], places: Sequence[int] | None = None) -> Any:
    """float64 ``[n, *shape]`` of what the entries have under ``key``; ``places`` are their own in the file."""
    values = _values(key, entries, places)
    array = _number_array(values)
    if array is not None and array.shape == (len(values), *shape):
        return array
    if not values:
        return np.zeros((0, *shape))
    expected = f"{shape[0]} finite numbers" if shape else "a finite number"
    for row, value in enumerate(values):
        single = _number_array(value)
        if single is None or single.shape != shape:
            place = row if places is None else places[row]
            raise DataError(f"result {place}: {key!r} must be {expected}, got {_short(value)}")
    raise DataError(f"{key!r} of the results must be {expected} each")


def _number_array(values: Any) -> NDArray[np.float64] | None:
    try:
        array = np.array(values)
    except ValueError:  # lists of several lengths
        return None
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return None
    return array.astype(np.float64)


def _values(key: str, entries: Entries, places: Sequence[int] | None) -> list[Any]:
    try:
        return [entry[key] for entry in entries]
    except KeyError:
        row = next(row for row, entry in enumerate(entries) if key not in entry)
        raise DataError(f"result {row if places is None else places[row]} has no {key!r}") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
