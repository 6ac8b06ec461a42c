"""The COCO evaluation as a metric of ignite."""

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
from ignite_imgtools.metrics.coco.accumulation import Arrays
from ignite_imgtools.metrics.coco.detections import DetectionBuffer
from ignite_imgtools.metrics.coco.evaluation import Evaluation
from ignite_imgtools.metrics.coco.ground_truth import GroundTruth
from ignite_imgtools.metrics.coco.parameters import Parameters
from ignite_imgtools.metrics.coco.record import Record, concatenate
from ignite_imgtools.metrics.coco.summary import per_class_precision, summarize

__all__ = ["CocoMetric"]

_FIELDS: dict[str, tuple[str, tuple[int | None, ...]]] = {"bbox": ("boxes", (4,))}


class CocoMetric(Metric):
    """Average precision and recall of detections, equal to pycocotools' to the last bit.

    ``update`` takes ``(y_pred, y)``: for each image a dict of what the model found (``boxes`` ``[N, 4]`` xyxy in
    pixels, ``labels`` ``[N]``, ``scores`` ``[N]``, on any device and of any dtype) and a dict with its ``image_id``.
    Labels are category ids of ``coco``; a detection of another label takes no part, as in pycocotools. Detections are
    matched while the model runs, some images at a time; on a GPU they are fetched without waiting for it. What is kept
    is a few bytes for each detection, and processes exchange these in :meth:`compute`. An image seen twice, by one
    process or by two, counts once: as the process of lowest rank saw it first.

    The result is a flat dict, ``{"bbox/AP": 0.41, "bbox/AP50": ...}``, which ignite puts into
    ``engine.state.metrics``. Values are in 0..1; -1 where there was nothing to be found.

    The numbers differ from pycocotools' in one case, on purpose: there, a detection that matches the annotation with
    id 0 counts as a false positive.

    Args:
        coco: ground truth, a ``pycocotools.coco.COCO`` or an object with the same ``dataset``.
        iou_types: any of ``"bbox"``, ``"segm"`` and ``"keypoints"``.
        per_class: also give ``bbox/AP/<name>`` for each category.
        images: ``"seen"`` evaluates the images that were seen; ``"all"`` counts the objects of all others as missed.
        iou_thresholds: ascending; by default 0.5, 0.55, ..., 0.95.
        recall_thresholds: ascending; by default 0, 0.01, ..., 1.
        area_ranges: ``{name: (lowest, highest)}`` in square pixels, ends included; one is named ``"all"``. ``small``,
            ``medium`` and ``large`` give ``APs``, ``APm``, ``APl``, another ``name`` gives ``AP_name``.
        max_detections: numbers of detections for each image and category; by default 1, 10, 100, or 20 for keypoints.
        keypoint_sigmas: the spread of each keypoint relative to the object's size; by default those of COCO's 17.
        use_cats: whether a detection matches only truth of its own category.
        chunk_images: how many images are matched together; more is faster up to a point, and makes a longer pause.
        output_transform: from the engine's output to ``(y_pred, y)`` or a dict with these keys.

    Raises:
        DataError: an id in ``coco`` or an ``image_id`` is no integer, an ``image_id`` is unknown, a prediction lacks
            a key, has a wrong shape or a value that is no number.
    """

    def __init__(
        self,
        coco: Any,
        iou_types: Sequence[str] = ("bbox",),
        per_class: bool = False,
        images: Literal["seen", "all"] = "seen",
        *,
        iou_thresholds: Sequence[float] | NDArray[np.float64] | None = None,
        recall_thresholds: Sequence[float] | NDArray[np.float64] | None = None,
        area_ranges: Mapping[str, tuple[float, float]] | None = None,
        max_detections: Sequence[int] | None = None,
        keypoint_sigmas: Sequence[float] | NDArray[np.float64] | None = None,
        use_cats: bool = True,
        chunk_images: int = 64,
        output_transform: Callable[[Any], Any] = lambda output: output,
    ):
        if isinstance(iou_types, str):
            iou_types = (iou_types,)
        if images not in ("seen", "all"):
            raise ValueError(f'images must be "seen" or "all", got {images!r}')
        self._truth = GroundTruth(coco)
        self._evaluations = {
            iou_type: Evaluation(
                self._truth,
                Parameters.create(
                    iou_type,
                    iou_thresholds=iou_thresholds,
                    recall_thresholds=recall_thresholds,
                    area_ranges=area_ranges,
                    max_detections=max_detections,
                    keypoint_sigmas=keypoint_sigmas,
                    use_cats=use_cats,
                ),
            )
            for iou_type in iou_types
        }
        self._per_class = per_class
        self._every_image = images == "all"
        self._chunk_images = chunk_images
        super().__init__(output_transform, skip_unrolling=True, metrics_result_mode="flatten")

    @property
    def iou_types(self) -> tuple[str, ...]:
        """The types of overlap that are evaluated."""
        return tuple(self._evaluations)

    @property
    def category_names(self) -> tuple[str, ...]:
        """Names along the category axis of :meth:`arrays`."""
        return self._truth.category_names

    def parameters(self, iou_type: str) -> Parameters:
        """Thresholds, area ranges and numbers of detections along the axes of :meth:`arrays`."""
        return self._evaluations[iou_type].parameters

    def reset(self) -> None:
        self._buffer = DetectionBuffer(dict(_FIELDS[iou_type] for iou_type in self._evaluations))
        self._seen = np.zeros(self._truth.num_images, dtype=bool)
        self._records: dict[str, list[Record]] = {iou_type: [] for iou_type in self._evaluations}
        self._arrays: dict[str, Arrays] | None = None

    def update(self, output: tuple[Sequence[DetectionPrediction], Sequence[DetectionTarget]]) -> None:
        predictions, targets = output
        if len(predictions) != len(targets):
            raise ValueError(f"one prediction for each target is needed, got {len(predictions)} and {len(targets)}")
        indices, new = [], []
        for prediction, target in zip(predictions, targets, strict=True):
            index = self._truth.image_index(target["image_id"])
            if not self._seen[index]:
                self._seen[index] = True
                indices.append(index)
                new.append(prediction)
        self._arrays = None
        if indices:
            self._buffer.add(indices, self._truth.image_ids[indices].tolist(), new)
        if len(self._buffer) >= self._chunk_images:
            self._match_buffered()

    def compute(self) -> dict[str, float]:
        """The numbers; call it on all processes, all get the same."""
        result: dict[str, float] = {}
        for iou_type, arrays in self._all_arrays().items():
            parameters = self.parameters(iou_type)
            numbers = summarize(arrays, parameters)
            if self._per_class:
                names = self.category_names if parameters.use_cats else ("all",)
                classes = per_class_precision(arrays, parameters, names)
                numbers |= {f"AP/{name}": value for name, value in classes.items()}
            result |= {f"{iou_type}/{name}": value for name, value in numbers.items()}
        return result

    def arrays(self, iou_type: str) -> Arrays:
        """``precision`` and ``scores`` ``[T, R, K, A, M]`` and ``recall`` ``[T, K, A, M]`` as pycocotools has them.

        Call it on all processes, or on any after :meth:`compute`.
        """
        return self._all_arrays()[iou_type]

    def state_dict(self) -> OrderedDict[str, Any]:
        """What this process has seen, as tensors; unlike most metrics of ignite it speaks to no other process."""
        self._match_buffered()
        state: OrderedDict[str, Any] = OrderedDict()
        for iou_type, evaluation in self._evaluations.items():
            record = concatenate([evaluation.empty(), *self._records[iou_type]])
            self._records[iou_type] = [record]
            arrays = {**record.to_arrays(), "images": self._truth.image_ids[record.images]}
            state[iou_type] = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a metric with the same ground truth and arguments.

        Raises:
            ValueError: it is of other types of overlap, categories, thresholds or area ranges.
            DataError: it has an image that the ground truth does not have.
        """
        if set(state_dict) != set(self._evaluations):
            raise ValueError(f"the state is of {', '.join(state_dict)}, the metric of {', '.join(self._evaluations)}")
        self.reset()
        for iou_type, evaluation in self._evaluations.items():
            arrays = {name: tensor.numpy() for name, tensor in state_dict[iou_type].items()}
            indices = [self._truth.image_index(id_) for id_ in arrays["images"].tolist()]
            arrays["images"] = np.array(indices, dtype=np.int32)
            expected = evaluation.empty().to_arrays()
            for name, array in arrays.items():
                if array.dtype != expected[name].dtype or array.shape[1:] != expected[name].shape[1:]:
                    raise ValueError(f"the state of {iou_type} is of other categories, thresholds or area ranges")
            self._records[iou_type] = [Record.from_arrays(arrays)]
            self._seen[arrays["images"]] = True

    def _match_buffered(self) -> None:
        if not len(self._buffer):
            return
        detections = self._buffer.drain(self._truth.image_ids)
        for iou_type, evaluation in self._evaluations.items():
            self._records[iou_type].append(evaluation.match(detections))

    def _all_arrays(self) -> dict[str, Arrays]:
        if self._arrays is None:
            self._match_buffered()
            own = {
                f"{iou_type}/{name}": array
                for iou_type, evaluation in self._evaluations.items()
                for name, array in concatenate([evaluation.empty(), *self._records[iou_type]]).to_arrays().items()
            }
            gathered = all_gather_arrays(own)
            self._arrays = {
                iou_type: evaluation.arrays(_record_of(gathered, iou_type), self._every_image)
                for iou_type, evaluation in self._evaluations.items()
            }
        return self._arrays


def _record_of(gathered: Sequence[Mapping[str, NDArray[Any]]], iou_type: str) -> Record:
    prefix = f"{iou_type}/"
    return concatenate(
        [
            Record.from_arrays({name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)})
            for arrays in gathered
        ]
    )
