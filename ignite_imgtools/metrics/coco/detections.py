"""A model's predictions as columns: collected batch by batch, and copied to the host without waiting."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics.coco import bitmaps
from ignite_imgtools.metrics.coco.floats import compact_floats
from ignite_imgtools.metrics.coco.masks import ImageMasks, PackedMasks, RunLengthMasks
from ignite_imgtools.metrics.coco.run_lengths import RunLengths, compressed

__all__ = ["DetectionBuffer", "Detections", "check_lists", "image_id_of"]


@dataclass(frozen=True)
class Detections:
    """``n`` detections of ``I`` images, image by image, in the order the model gave them.

    Attributes:
        images: int64 ``[I]``, positions in the ground truth's ``image_ids``.
        counts: int64 ``[I]``, detections of each image.
        labels: int64 ``[n]``, category ids.
        scores: float32, or float64 where that is needed, ``[n]``.
        boxes: float64 ``[n, 4]`` x, y, width, height in pixels; none if not asked for, as the next two.
        keypoints: float64 ``[n, K, 3]`` x, y in pixels and a third number that is only kept.
        masks: ``I`` sets of masks.
        areas: float64 ``[n]`` in square pixels, if another area counts than that of what is compared.
    """

    images: NDArray[np.int64]
    counts: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[Any]
    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    keypoints: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 3)))
    masks: Sequence[ImageMasks] = ()
    areas: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class _PackedOnItsWay:
    """Packed masks ``[N, H, ceil(W / 8)]`` of one image and their width."""

    bits: Tensor
    width: int


@dataclass
class _Batch:
    """Predictions of some images, on the host or on their way there."""

    counts: list[int]
    columns: dict[str, Tensor]
    masks: list[_PackedOnItsWay | list[RunLengths]]
    arrived: torch.cuda.Event | None = None


class DetectionBuffer:
    """Collects predictions; the device is waited for when they are drained, not when they are added.

    Args:
        columns: what to keep beside labels and scores: ``boxes`` or ``keypoints`` with the shape of one of them.
        masks: whether to keep masks.

    Attributes:
        images: positions in the ground truth's ``image_ids`` of the images that were added.
        mask_bytes: how much memory the masks take.
    """

    def __init__(self, columns: Mapping[str, tuple[int, ...]], masks: bool = False):
        # Scores come first: the number of them is what the others are held to.
        self._shapes: dict[str, tuple[int, ...]] = {"scores": (), "labels": (), **columns}
        self._keep_masks = masks
        self._batches: list[_Batch] = []
        self.images: list[int] = []
        self.mask_bytes = 0
        self._has_warned = False

    def add(self, images: Sequence[int], image_ids: Sequence[int], predictions: Sequence[Mapping[str, Any]]) -> None:
        """Keep a copy of the predictions of some images.

        Args:
            images: positions in the ground truth's ``image_ids``.
            image_ids: their ids, for messages.
            predictions: one for each image, with ``labels`` ``[N]``, ``scores`` ``[N]``, the columns and ``masks``.

        Raises:
            DataError: a key is missing or a shape or dtype is not as described.
        """
        joined = _join_alike(predictions, self._shapes)
        if joined is None:
            rows = [
                _checked(prediction, self._shapes, id_) for prediction, id_ in zip(predictions, image_ids, strict=True)
            ]
            counts = [row["scores"].shape[0] for row in rows]
        else:
            counts, columns = joined
        masks: list[_PackedOnItsWay | list[RunLengths]] = []
        if self._keep_masks:
            for prediction, count, id_ in zip(predictions, counts, image_ids, strict=True):
                masks.append(_masks_of(prediction, count, id_))
                if isinstance(masks[-1], _PackedOnItsWay):
                    self.mask_bytes += masks[-1].bits.numel()
        self.images.extend(images)
        if joined is not None:
            self._batches.append(_to_host(_Batch(counts, columns, masks)))
        else:
            for place, row in enumerate(rows):
                own = {key: column.clone() for key, column in row.items()}
                self._batches.append(_to_host(_Batch([counts[place]], own, masks[place : place + 1])))

    def drain(self, image_ids: NDArray[np.int64]) -> Detections:
        """All that was added, as columns on the host; the buffer is empty afterwards.

        Args:
            image_ids: int64, the ids of all images, for messages.

        Raises:
            DataError: a score is not a number, or a box or keypoint is not finite.

        Warns, once, where most boxes have an x2 or y2 that is the smaller one.
        """
        batches, images = self._batches, np.array(self.images, dtype=np.int64)
        self._batches, self.images, self.mask_bytes = [], [], 0
        for batch in batches:
            if batch.arrived is not None:
                batch.arrived.synchronize()
        counts = np.array([count for batch in batches for count in batch.counts], dtype=np.int64)
        columns = {
            key: _join([batch.columns[key] for batch in batches] or [torch.zeros(0, *shape)], key)
            for key, shape in self._shapes.items()
        }
        for key, values in columns.items():
            _check_numbers(key, values, counts, image_ids[images])
        if "boxes" in columns and not self._has_warned:
            self._has_warned = _warn_of_turned_boxes(columns["boxes"], counts, image_ids[images])
        masks = [_as_masks(masks) for batch in batches for masks in batch.masks]
        scores = compact_floats(columns.pop("scores"))
        return Detections(images, counts, columns.pop("labels"), scores, masks=masks, **columns)


def image_id_of(target: Any) -> Any:
    """The ``image_id`` of a target.

    Raises:
        DataError: it has none.
    """
    try:
        return target["image_id"]
    except (KeyError, TypeError, IndexError):
        got = f"one with {sorted(map(str, target))}" if isinstance(target, Mapping) else f"a {type(target).__name__}"
        raise DataError(f"a target must be a dict with the 'image_id' of its image, got {got}") from None


def check_lists(predictions: Any, targets: Any) -> None:
    """Check that these may be the predictions and targets of a batch of images.

    Raises:
        ValueError: they are not two lists of one length.
    """
    for name, value in (("y_pred", predictions), ("y", targets)):
        if isinstance(value, Mapping):
            raise ValueError(f"{name} must be a list with a dict for each image, got one dict with {list(value)}")
    if len(predictions) != len(targets):
        raise ValueError(f"one prediction for each target is needed, got {len(predictions)} and {len(targets)}")


def _join_alike(
    predictions: Sequence[Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[int], dict[str, Tensor]] | None:
    """How many detections each image has, and their columns: the quick way for predictions that are as expected.

    ``None`` if anything is not: a key, a shape, or tensors of several dtypes, which must not be joined since boxes are
    rounded in their own dtype.
    """
    counts: list[int] = []
    columns = {}
    try:
        with torch.no_grad():
            for key, shape in shapes.items():
                tensors = [prediction[key] for prediction in predictions]
                columns[key] = column = torch.cat(tensors)
                sizes = [len(tensor.shape) and tensor.shape[0] for tensor in tensors]
                counts = counts or sizes
                if column.shape[1:] != shape or sizes != counts or any(t.dtype != column.dtype for t in tensors):
                    return None
    except (KeyError, TypeError, RuntimeError):
        return None
    return None if columns["labels"].is_floating_point() else (counts, columns)


def _checked(prediction: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], image_id: int) -> dict[str, Tensor]:
    row: dict[str, Tensor] = {}
    count = None
    for key, shape in shapes.items():
        value = _field(prediction, key, image_id)
        tensor = value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)
        if not row and tensor.ndim == 1:
            count = tensor.shape[0]
        if tensor.shape != (count, *shape):
            if tensor.numel() or count != 0:
                wanted = ", ".join("N" if size is None else str(size) for size in (count, *shape))
                raise DataError(
                    f"predictions of image_id {image_id}: {key} must be [{wanted}], one for each score, "
                    f"got {list(tensor.shape)}"
                )
            tensor = tensor.reshape(0, *shape)
        row[key] = tensor
    if row["labels"].is_floating_point() and count:
        raise DataError(f"predictions of image_id {image_id}: labels must be integers, got {row['labels'].dtype}")
    return row


def _field(prediction: Mapping[str, Any], key: str, image_id: int) -> Any:
    try:
        return prediction[key]
    except (KeyError, TypeError):
        raise DataError(f"predictions of image_id {image_id} have no {key!r}") from None


def _masks_of(prediction: Mapping[str, Any], count: int, image_id: int) -> _PackedOnItsWay | list[RunLengths]:
    """Masks of one image, packed on their device, or as run lengths if they came so."""
    masks = _field(prediction, "masks", image_id)
    where = f"predictions of image_id {image_id}"
    if len(masks) != count:
        raise DataError(f"{where}: masks must be {count}, one for each score, got {len(masks)}")
    if not count or (not isinstance(masks, Tensor | np.ndarray) and isinstance(masks[0], Mapping)):
        if _are_compressed(masks):
            return list(masks)
        return [_as_run_lengths(mask, where) for mask in masks]
    tensor = torch.as_tensor(masks)
    if tensor.ndim == 4 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim != 3:
        raise DataError(f"{where}: masks must be [{count}, H, W] or [{count}, 1, H, W], got {list(tensor.shape)}")
    return _PackedOnItsWay(bitmaps.pack(tensor), tensor.shape[-1])


def _are_compressed(masks: Sequence[Any]) -> bool:
    """Whether all have the form that pycocotools.mask gives them, looked at without a loop in Python."""
    if not set(map(type, masks)) <= {dict}:
        return False
    try:
        counts = set(map(type, map(itemgetter("counts"), masks)))
        return counts <= {bytes} and set(map(type, map(itemgetter("size"), masks))) <= {list, tuple}
    except KeyError:
        return False


def _as_run_lengths(mask: Mapping[str, Any], where: str) -> RunLengths:
    try:
        height, width = (int(length) for length in mask["size"])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{where}: run lengths need a size, height and width, got {mask.get('size')!r}") from None
    return compressed(mask, height, width, where)


def _to_host(batch: _Batch) -> _Batch:
    packed = (masks.bits for masks in batch.masks if isinstance(masks, _PackedOnItsWay))
    device = next((column.device for column in (*batch.columns.values(), *packed) if column.is_cuda), None)
    on_cuda = device is not None
    # From CUDA into pinned memory, behind the kernels that compute them; the event says when all has arrived.
    columns = {key: column.to("cpu", non_blocking=on_cuda) for key, column in batch.columns.items()}
    masks = [
        masks if isinstance(masks, list) else _PackedOnItsWay(masks.bits.to("cpu", non_blocking=on_cuda), masks.width)
        for masks in batch.masks
    ]
    arrived = torch.cuda.current_stream(device).record_event() if on_cuda else None
    return _Batch(batch.counts, columns, masks, arrived)


def _as_masks(masks: _PackedOnItsWay | list[RunLengths]) -> ImageMasks:
    return RunLengthMasks(masks) if isinstance(masks, list) else PackedMasks(masks.bits.numpy(), masks.width)


def _join(tensors: list[Tensor], key: str) -> NDArray[Any]:
    if any(tensor.dtype != tensors[0].dtype for tensor in tensors):
        return np.concatenate([_to_array(tensor.clone(), key) for tensor in tensors])
    return _to_array(torch.cat(tensors), key)


def _to_array(column: Tensor, key: str) -> NDArray[Any]:
    """A column as an array; the memory of ``column`` is used."""
    if key == "labels":
        return column.to(torch.int64).numpy()
    if key == "boxes":
        # The width is rounded to the boxes' own dtype, as in torchvision's reference evaluation.
        column[:, 2:] -= column[:, :2]
    if key == "scores" and column.is_floating_point() and column.dtype != torch.float64:
        return column.float().numpy()
    return column.double().numpy()


def _check_numbers(key: str, values: NDArray[Any], counts: NDArray[np.int64], image_ids: NDArray[np.int64]) -> None:
    good: Any = (lambda numbers: ~np.isnan(numbers)) if key == "scores" else np.isfinite
    with np.errstate(invalid="ignore", over="ignore"):
        if good(values.sum()):  # a bad number makes the sum bad
            return
    bad = ~good(values)
    if bad.any():
        row = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))[0]
        place = np.searchsorted(np.cumsum(counts), row, side="right")
        raise DataError(
            f"predictions of image_id {image_ids[place]}: {key} must be {'no NaN' if key == 'scores' else 'finite'}, "
            f"got {values[row].tolist()} in detection {row - counts[:place].sum()}"
        )


def _warn_of_turned_boxes(boxes: NDArray[Any], counts: NDArray[np.int64], image_ids: NDArray[np.int64]) -> bool:
    """Warn where most of boxes ``[N, 4]`` xywh have a negative width or height; whether they have."""
    if not len(boxes) or boxes[:, 2:].min() >= 0:
        return False
    rows = np.flatnonzero((boxes[:, 2:] < 0).any(axis=1))
    if len(rows) < 10 or 2 * len(rows) <= len(boxes):  # a model may well give a few
        return False
    place = np.searchsorted(np.cumsum(counts), rows[0], side="right")
    x1, y1, width, height = boxes[rows[0]].tolist()
    warnings.warn(
        f"predictions of image_id {image_ids[place]}: boxes must be xyxy in pixels, x1 <= x2 and y1 <= y2, got "
        f"{[x1, y1, x1 + width, y1 + height]}, and so {len(rows)} of {len(boxes)}; they match nothing; "
        "torchvision.ops.box_convert makes them of xywh",
        RuntimeWarning,
        stacklevel=2,
    )
    return True
