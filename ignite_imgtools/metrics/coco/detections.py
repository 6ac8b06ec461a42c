"""A model's predictions as columns: collected batch by batch, and copied to the host without waiting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics.coco.ordering import compact_scores

__all__ = ["DetectionBuffer", "Detections"]


@dataclass(frozen=True)
class Detections:
    """``n`` detections of ``I`` images, image by image, in the order the model gave them.

    Attributes:
        images: int64 ``[I]``, positions in the ground truth's ``image_ids``.
        counts: int64 ``[I]``, detections of each image.
        labels: int64 ``[n]``, category ids.
        scores: float32, or float64 where that is needed, ``[n]``.
        boxes: float64 ``[n, 4]`` x, y, width, height in pixels, if asked for.
        keypoints: float64 ``[n, K, 3]`` x, y and a third number that is only kept, if asked for.
    """

    images: NDArray[np.int64]
    counts: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[Any]
    boxes: NDArray[np.float64] | None = None
    keypoints: NDArray[np.float64] | None = None


@dataclass
class _Batch:
    """Predictions of one update, on the host or on their way there."""

    counts: list[int]
    columns: dict[str, Tensor]
    arrived: torch.cuda.Event | None = None


@dataclass
class DetectionBuffer:
    """Collects predictions; the device is waited for when they are drained, not when they are added.

    Args:
        fields: what to keep beside labels and scores, with the shape of one detection, such as ``{"boxes": (4,)}``;
            ``None`` in a shape stands for any size.
    """

    fields: Mapping[str, tuple[int | None, ...]]
    images: list[int] = field(default_factory=list)
    _batches: list[_Batch] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def add(self, images: Sequence[int], image_ids: Sequence[int], predictions: Sequence[Mapping[str, Any]]) -> None:
        """Keep a copy of the predictions of some images.

        Args:
            images: positions in the ground truth's ``image_ids``.
            image_ids: their ids, for messages.
            predictions: one for each image: ``labels`` ``[N]``, ``scores`` ``[N]`` and the fields.

        Raises:
            DataError: a key is missing or a shape or dtype is not as described.
        """
        shapes = {"scores": (), "labels": (), **self.fields}
        rows = [_checked(prediction, shapes, id_) for prediction, id_ in zip(predictions, image_ids, strict=True)]
        self.images.extend(images)
        # Tensors of several dtypes are not joined: that would round boxes otherwise than in their own dtype.
        for group in [rows] if _alike(rows) else [[row] for row in rows]:
            columns = {key: torch.cat([row[key] for row in group]) for key in shapes}
            self._batches.append(_to_host([len(row["scores"]) for row in group], columns))

    def drain(self, image_ids: NDArray[np.int64]) -> Detections:
        """All that was added, as columns on the host; the buffer is empty afterwards.

        Args:
            image_ids: int64, the ids of all images, for messages.

        Raises:
            DataError: a score is not a number, or a box or keypoint is not finite.
        """
        batches, images = self._batches, np.array(self.images, dtype=np.int64)
        self._batches, self.images = [], []
        for batch in batches:
            if batch.arrived is not None:
                batch.arrived.synchronize()
        counts = np.array([count for batch in batches for count in batch.counts], dtype=np.int64)
        columns = {
            key: _join([batch.columns[key] for batch in batches], key) for key in ("scores", "labels", *self.fields)
        }
        for key, values in columns.items():
            bad = np.isnan(values) if key == "scores" else ~np.isfinite(values)
            if bad.any():
                row = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))[0]
                place = np.searchsorted(np.cumsum(counts), row, side="right")
                wanted = "must not be NaN" if key == "scores" else "must be finite"
                raise DataError(
                    f"predictions of image_id {image_ids[images[place]]}: {key} {wanted}, got {values[row].tolist()} "
                    f"in detection {row - counts[:place].sum()}"
                )
        scores = compact_scores(columns.pop("scores"))
        return Detections(images, counts, columns.pop("labels"), scores, **columns)


def _checked(
    prediction: Mapping[str, Any], shapes: Mapping[str, tuple[int | None, ...]], image_id: int
) -> dict[str, Tensor]:
    where = f"predictions of image_id {image_id}"
    row: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        try:
            value = prediction[key]
        except (KeyError, TypeError):
            raise DataError(f"{where} have no {key!r}") from None
        tensor = value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)
        if not row:  # the scores, which come first
            count = tensor.shape[0] if tensor.ndim == 1 else None
        if tensor.shape != (count, *shape):
            if tensor.numel() or count != 0:
                wanted = ", ".join("N" if size is None else str(size) for size in (count, *shape))
                raise DataError(f"{where}: {key} must be [{wanted}], one for each score, got {list(tensor.shape)}")
            tensor = tensor.reshape([0, *(size or 0 for size in shape)])
        row[key] = tensor
    if row["labels"].is_floating_point() and count:
        raise DataError(f"{where}: labels must be integers, got {row['labels'].dtype}")
    return row


def _alike(rows: Sequence[Mapping[str, Tensor]]) -> bool:
    return all(len({(row[key].dtype, row[key].device) for row in rows}) <= 1 for key in rows[0]) if rows else True


def _to_host(counts: list[int], columns: dict[str, Tensor]) -> _Batch:
    if any(column.is_cuda for column in columns.values()):
        # Into pinned memory, behind the kernels that compute them; the event says when they have arrived.
        columns = {key: column.to("cpu", non_blocking=True) for key, column in columns.items()}
        arrived = torch.cuda.Event()
        arrived.record()
        return _Batch(counts, columns, arrived)
    return _Batch(counts, {key: column.cpu() for key, column in columns.items()})


def _join(tensors: Iterable[Tensor], key: str) -> NDArray[Any]:
    tensors = list(tensors)
    if len({tensor.dtype for tensor in tensors}) > 1:
        return np.concatenate([_to_array(tensor, key) for tensor in tensors])
    return _to_array(torch.cat(tensors), key)


def _to_array(column: Tensor, key: str) -> NDArray[Any]:
    if key == "labels":
        return column.to(torch.int64).numpy()
    if key == "boxes":
        # The width is rounded to the boxes' own dtype, as in torchvision's reference evaluation.
        column = torch.cat([column[:, :2], column[:, 2:] - column[:, :2]], dim=1)
    if key == "scores" and column.is_floating_point() and column.dtype != torch.float64:
        return column.float().numpy()
    return column.double().numpy()
