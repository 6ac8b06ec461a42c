"""The evaluation of the PASCAL VOC detection challenge as a metric of ignite."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from ignite.metrics import Metric
from numpy.typing import NDArray

from ignite_imgtools.distributed import all_gather_arrays
from ignite_imgtools.formats import DetectionPrediction, DetectionTarget
from ignite_imgtools.metrics.coco.detections import DetectionBuffer, check_lists, image_id_of
from ignite_imgtools.metrics.coco.ground_truth import GroundTruth
from ignite_imgtools.metrics.coco.ordering import sort_by_group_and_score
from ignite_imgtools.metrics.voc_average_precision import (
    IGNORED,
    RIGHT,
    average_precision,
    match_to_best,
    precision_recall,
)

__all__ = ["VocMetric"]

Columns = dict[str, NDArray[Any]]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


class VocMetric(Metric):
    """Average precision of boxes by the rules of the PASCAL VOC challenge.

    ``update`` takes ``(y_pred, y)`` as :class:`CocoMetric` does: for each image what the model found (``boxes``
    ``[N, 4]`` xyxy in pixels, ``labels`` ``[N]``, ``scores`` ``[N]``) and a dict with its ``image_id``. The truth comes
    from ``coco``, not from ``y``: there, and only there, difficult objects are noted, as crowds (``iscrowd`` is 1).
    ``data.coco_index`` of a ``VocDetection`` has them so. A detection whose best truth is difficult is left out, and
    nobody misses a difficult object that was not found. A detection of an unknown label takes no part.

    Processes exchange a few bytes for each detection in :meth:`compute`, and the result does not depend on batches,
    order or the number of processes: equal scores stand in order of image id, and an image seen twice counts once, as
    the process of lowest rank saw it first.

    The result is a flat dict, which ignite puts into ``engine.state.metrics``: ``voc/AP50`` is the area under the
    precision envelope (VOC 2010 and later), ``voc/AP50_11point`` the mean at 11 recalls (VOC 2007), each the mean of
    the classes that have truth; with ``per_class`` also ``voc/AP50/<name>`` and ``voc/AP50_11point/<name>``. Values in
    0..1; -1 where there is nothing to be found.

    Args:
        coco: ground truth, a ``pycocotools.coco.COCO`` or an object with the same ``dataset``.
        iou_threshold: the overlap needed, in 0..1; 0.75 gives ``voc/AP75`` and so on.
        inclusive: boxes name their first and last pixel, so that they are one pixel wider and higher than the
            difference of their numbers: the rule of the development kit, for boxes with VOC's own numbers, which
            ``VocDetection`` hands out unchanged. By default boxes are edges, as everywhere else.
        per_class: also give the numbers of each class.
        images: ``"seen"`` evaluates the images that were seen; ``"all"`` counts the objects of all others as missed.
        chunk_images: how many images are matched together.
        output_transform: from the engine's output to ``(y_pred, y)`` or a dict with these keys.

    Raises:
        ValueError: an argument is out of its range.
        DataError: an id in ``coco`` or an ``image_id`` is no integer, an ``image_id`` is unknown, a prediction lacks
            a key, has a wrong shape or a value that is no number.
    """

    def __init__(
        self,
        coco: Any,
        iou_threshold: float = 0.5,
        *,
        inclusive: bool = False,
        per_class: bool = False,
        images: Literal["seen", "all"] = "seen",
        chunk_images: int = 64,
        output_transform: Callable[[Any], Any] = lambda output: output,
    ):
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"iou_threshold must be above 0 and at most 1, got {iou_threshold}")
        if images not in ("seen", "all"):
            raise ValueError(f'images must be "seen" or "all", got {images!r}')
        self._truth = GroundTruth(coco)
        self._truth_boxes = _xywh_to_xyxy(self._truth.boxes)
        self._iou_threshold, self._inclusive = iou_threshold, inclusive
        self._per_class, self._every_image = per_class, images == "all"
        self._chunk_images = chunk_images
        super().__init__(output_transform, skip_unrolling=True, metrics_result_mode="flatten")

    @property
    def category_names(self) -> tuple[str, ...]:
        """The names of the classes, by ascending category id."""
        return self._truth.category_names

    def reset(self) -> None:
        self._buffer = DetectionBuffer({"boxes": (4,)})
        self._seen = np.zeros(self._truth.num_images, dtype=bool)
        self._columns = [_empty_columns()]
        self._curves: dict[str, Curve] | None = None

    def update(self, output: tuple[Sequence[DetectionPrediction], Sequence[DetectionTarget]]) -> None:
        predictions, targets = output
        check_lists(predictions, targets)
        new: dict[int, DetectionPrediction] = {}
        for prediction, target in zip(predictions, targets, strict=True):
            index = self._truth.image_index(image_id_of(target))
            if not self._seen[index]:
                new.setdefault(index, prediction)
        self._curves = None
        if new:
            indices = list(new)
            self._buffer.add(indices, self._truth.image_ids[indices].tolist(), list(new.values()))
            self._seen[indices] = True
        if len(self._buffer.images) >= self._chunk_images:
            self._match_buffered()

    def compute(self) -> dict[str, float]:
        """The numbers; call it on all processes, all get the same."""
        key = f"voc/AP{100 * self._iou_threshold:.6g}"
        curves = self.curves()
        result = {}
        for suffix, points in (("", None), ("_11point", 11)):
            values = {name: average_precision(*curve, points=points) for name, curve in curves.items()}
            result[f"{key}{suffix}"] = float(np.mean(list(values.values()))) if values else -1.0
            if self._per_class:
                result |= {f"{key}{suffix}/{name}": values.get(name, -1.0) for name in self.category_names}
        return result

    def curves(self) -> dict[str, Curve]:
        """Precision and recall in 0..1 up to each detection, by falling score, of the classes that have truth.

        Call it on all processes, or on any after :meth:`compute`.

        Returns:
            ``{name: (precision, recall)}``, each float64 ``[n]``.
        """
        if self._curves is None:
            self._match_buffered()
            self._curves = self._create_curves(all_gather_arrays(_concatenate(self._columns)))
        return self._curves

    def state_dict(self) -> OrderedDict[str, Any]:
        """What this process has seen, as tensors; unlike most metrics of ignite it speaks to no other process."""
        self._match_buffered()
        columns = _concatenate(self._columns)
        columns["image"] = self._truth.image_ids[columns["image"]]
        columns["images"] = self._truth.image_ids[columns["images"]]
        columns["category"] = self._truth.category_ids[columns["category"]]
        state: OrderedDict[str, Any] = OrderedDict(iou_threshold=self._iou_threshold, inclusive=self._inclusive)
        state |= {name: torch.from_numpy(column.copy()) for name, column in columns.items()}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a metric with the same ground truth and arguments.

        Raises:
            ValueError: it is of another threshold, way to measure boxes, or of other categories.
            DataError: it has an image that the ground truth does not have.
        """
        for name, own in (("iou_threshold", self._iou_threshold), ("inclusive", self._inclusive)):
            if state_dict[name] != own:
                raise ValueError(f"the state has {name}={state_dict[name]}, the metric {own}")
        columns = {name: state_dict[name].numpy() for name in _empty_columns()}
        images = np.array([self._truth.image_index(id_) for id_ in columns["images"].tolist()], dtype=np.int32)
        category, known = self._truth.category_positions(columns["category"])
        if not known.all():
            raise ValueError(f"the state has category {columns['category'][~known][0]}, which the ground truth has not")
        self.reset()
        # Every row is of one of the images, so that looking up these is enough.
        columns["image"] = np.searchsorted(self._truth.image_ids, columns["image"]).astype(np.int32)
        columns |= {"images": images, "category": category.astype(np.int32)}
        self._columns.append(columns)
        self._seen[images] = True

    def _match_buffered(self) -> None:
        if not self._buffer.images:
            return
        truth = self._truth
        found = self._buffer.drain(truth.image_ids)
        assert found.boxes is not None
        image = np.repeat(found.images, found.counts)
        category, known = truth.category_positions(found.labels)
        rows = np.flatnonzero(known)
        group = image[rows] * truth.num_categories + category[rows]
        # Numbered anew, for the ordering is quickest with small numbers.
        rows = rows[sort_by_group_and_score(np.unique(group, return_inverse=True)[1], found.scores[rows])]
        outcome = match_to_best(
            image[rows] * truth.num_categories + category[rows],
            _xywh_to_xyxy(found.boxes[rows]),
            truth.group,
            self._truth_boxes,
            truth.crowd,
            self._iou_threshold,
            self._inclusive,
        )
        rows, outcome = rows[outcome != IGNORED], outcome[outcome != IGNORED]
        self._columns.append(
            {
                "images": found.images.astype(np.int32),
                "image": image[rows].astype(np.int32),
                "category": category[rows].astype(np.int32),
                "scores": found.scores[rows].astype(np.float64),
                "right": outcome == RIGHT,
            }
        )

    def _create_curves(self, gathered: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, Curve]:
        seen = np.full(self._truth.num_images, self._every_image)
        counted = np.zeros(self._truth.num_images, dtype=bool)
        parts = []
        for arrays in gathered:
            rows = ~counted[arrays["image"]]
            parts.append({name: arrays[name][rows] for name in ("image", "category", "scores", "right")})
            counted[arrays["images"]] = seen[arrays["images"]] = True
        columns = _concatenate(parts)
        order = np.argsort(columns["image"], kind="stable")
        order = order[sort_by_group_and_score(columns["category"][order], columns["scores"][order])]
        right, category = columns["right"][order], columns["category"][order]

        counts = np.bincount(
            self._truth.category[~self._truth.crowd & seen[self._truth.image]], minlength=self._truth.num_categories
        )
        ends = np.searchsorted(category, np.arange(len(counts) + 1))
        return {
            name: precision_recall(right[ends[k] : ends[k + 1]], counts[k])
            for k, name in enumerate(self.category_names)
            if counts[k]
        }


def _xywh_to_xyxy(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _empty_columns() -> Columns:
    """The state of no image: ``images`` that were seen, and a row for each detection that is right or wrong."""
    return {
        "images": np.zeros(0, dtype=np.int32),
        "image": np.zeros(0, dtype=np.int32),
        "category": np.zeros(0, dtype=np.int32),
        "scores": np.zeros(0, dtype=np.float64),
        "right": np.zeros(0, dtype=bool),
    }


def _concatenate(parts: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
