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
from ignite_imgtools.metrics.coco.detections import DetectionBuffer, Detections, check_lists, image_id_of
from ignite_imgtools.metrics.coco.evaluation import Evaluation
from ignite_imgtools.metrics.coco.ground_truth import GroundTruth
from ignite_imgtools.metrics.coco.parameters import Parameters
from ignite_imgtools.metrics.coco.record import Record, concatenate
from ignite_imgtools.metrics.coco.results import KeptPredictions, detections_of, kept_of, results_of
from ignite_imgtools.metrics.coco.summary import per_class_precision, summarize

__all__ = ["CocoMetric"]

# Packed masks that wait to be matched; a batch of 100 masks of 800 x 1333 takes 13 MB.
_MASK_BYTES = 24 << 20


class CocoMetric(Metric):
    """Average precision and recall of detections, equal to pycocotools' to the last bit.

    ``update`` takes ``(y_pred, y)``: for each image a dict of what the model found and a dict with its ``image_id``.
    The first holds ``labels`` ``[N]``, ``scores`` ``[N]`` and, as the types of overlap need them, ``boxes`` ``[N, 4]``
    xyxy in pixels, ``keypoints`` ``[N, K, 3]`` in pixels, and ``masks``: ``[N, 1, H, W]`` or ``[N, H, W]`` of the size
    of the image, as probabilities (set above 0.5), as bool or uint8, or ``N`` dicts of COCO run lengths. Any device and
    dtype will do. Labels are category ids of ``coco``; a detection of another label takes no part, as in pycocotools.

    Detections are matched while the model runs, some images at a time; from a GPU they are fetched without waiting for
    it. What is kept is a few bytes for each detection, and processes exchange these in :meth:`compute`. An image seen
    twice, by one process or by two, counts once: as the process of lowest rank saw it first.

    The result is a flat dict, ``{"bbox/AP": 0.41, "bbox/AP50": ...}``, which ignite puts into
    ``engine.state.metrics``. Values are in 0..1; -1 where there was nothing to be found.

    The numbers differ from pycocotools' in one case, on purpose: there, a detection that matches the annotation with
    id 0 counts as a false positive. And where a result file gives a detection a box and a mask, pycocotools takes the
    area of the box for that of the mask; here it is the mask's.

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
        use_cats: whether a detection matches only truth of its own category; not with keypoints.
        lvis_style: heed the lists ``neg_category_ids`` and ``not_exhaustive_category_ids`` of the images, as LVIS
            does: a detection of a category that nobody looked for takes no part, one of a category of which not every
            object is annotated is ignored unless it matches.
        keep_results: keep the predictions, for :meth:`results`.
        chunk_images: how many images are matched together; more is faster up to a point, and makes a longer pause.
        output_transform: from the engine's output to ``(y_pred, y)`` or a dict with these keys.

    Example:
        >>> from types import SimpleNamespace
        >>> cat = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400}
        >>> index = {"images": [{"id": 7}], "categories": [{"id": 3, "name": "cat"}], "annotations": [cat]}
        >>> metric = CocoMetric(SimpleNamespace(dataset=index))
        >>> found = {"boxes": torch.tensor([[12.5, 10.0, 30.0, 30.0]]), "labels": torch.tensor([3])}
        >>> metric.update(([{**found, "scores": torch.tensor([0.9])}], [{"image_id": 7}]))
        >>> {key: round(metric.compute()[f"bbox/{key}"], 3) for key in ("AP", "AP50", "APl")}
        {'AP': 0.8, 'AP50': 1.0, 'APl': -1.0}

    Raises:
        DataError: an id in ``coco`` or an ``image_id`` is no integer, an ``image_id`` is unknown, a prediction lacks
            a key, has a wrong shape or a value that is no number; a bad number may be found some updates later.
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
        lvis_style: bool = False,
        keep_results: bool = False,
        chunk_images: int = 64,
        output_transform: Callable[[Any], Any] = lambda output: output,
    ):
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
                    lvis_style=lvis_style,
                ),
            )
            for iou_type in ((iou_types,) if isinstance(iou_types, str) else iou_types)
        }
        if not self._evaluations:
            raise ValueError("iou_types must name one type of overlap at least, got none")
        self._per_class = per_class
        self._every_image = images == "all"
        self._keep_results = keep_results
        self._chunk_images = chunk_images
        super().__init__(output_transform, skip_unrolling=True, metrics_result_mode="flatten")

    @property
    def iou_types(self) -> tuple[str, ...]:
        """The types of overlap that are evaluated."""
        return tuple(self._evaluations)

    @property
    def ground_truth(self) -> GroundTruth:
        """The annotations as columns."""
        return self._truth

    @property
    def category_names(self) -> tuple[str, ...]:
        """Names along the category axis of :meth:`arrays`: ``("all",)`` where categories are pooled."""
        pooled = not next(iter(self._evaluations.values())).parameters.use_cats
        return ("all",) if pooled else self._truth.category_names

    @property
    def images(self) -> Literal["seen", "all"]:
        """Whose truth counts."""
        return "all" if self._every_image else "seen"

    def parameters(self, iou_type: str) -> Parameters:
        """Thresholds, area ranges and numbers of detections along the other axes of :meth:`arrays`."""
        return self._evaluations[iou_type].parameters

    def reset(self) -> None:
        self._buffer = self._new_buffer()
        self._seen = np.zeros(self._truth.num_images, dtype=bool)
        self._records: dict[str, list[Record]] = {iou_type: [] for iou_type in self._evaluations}
        self._kept: dict[str, list[KeptPredictions]] = {iou_type: [] for iou_type in self._evaluations}
        self._arrays: dict[str, Arrays] | None = None

    def update(self, output: tuple[Sequence[DetectionPrediction], Sequence[DetectionTarget]]) -> None:
        predictions, targets = output
        check_lists(predictions, targets)
        indices, new = [], []
        for prediction, target in zip(predictions, targets, strict=True):
            index = self._truth.image_index(image_id_of(target))
            if not self._seen[index]:
                self._seen[index] = True
                indices.append(index)
                new.append(prediction)
        self._arrays = None
        if indices:
            self._buffer.add(indices, self._truth.image_ids[indices].tolist(), new)
        if len(self._buffer.images) >= self._chunk_images or self._buffer.mask_bytes >= _MASK_BYTES:
            self._match_buffered()

    def compute(self) -> dict[str, float]:
        """The numbers; call it on all processes, all get the same."""
        result: dict[str, float] = {}
        for iou_type, arrays in self._all_arrays().items():
            parameters = self.parameters(iou_type)
            numbers = summarize(arrays, parameters)
            if self._per_class:
                classes = per_class_precision(arrays, parameters, self.category_names)
                numbers |= {f"AP/{name}": value for name, value in classes.items()}
            result |= {f"{iou_type}/{name}": value for name, value in numbers.items()}
        return result

    def arrays(self, iou_type: str) -> Arrays:
        """``precision`` and ``scores`` ``[T, R, K, A, M]`` and ``recall`` ``[T, K, A, M]`` as pycocotools has them.

        Call it on all processes, or on any after :meth:`compute`.
        """
        return self._all_arrays()[iou_type]

    def record(self, iou_type: str) -> Record:
        """What each detection of all processes matches, images in ascending order; call it on all processes."""
        self._match_buffered()
        arrays = all_gather_arrays(self._own_record(iou_type).to_arrays())
        return self._evaluations[iou_type].merge([Record.from_arrays(own) for own in arrays])

    def results(self, iou_type: str) -> list[dict[str, Any]]:
        """All predictions as COCO results, for ``json.dump``; call it on all processes, all get the same.

        pycocotools evaluates them to the same numbers: boxes are those that were evaluated, in float64 or exactly the
        float32 they came in, masks are run lengths without a box.

        Raises:
            ValueError: the metric was made without ``keep_results=True``.
        """
        return results_of(self._all_kept(iou_type), iou_type, self._truth.image_ids)

    def detections(self, iou_type: str) -> Detections:
        """All predictions as columns, for what looks at them again; call it on all processes, all get the same.

        Raises:
            ValueError: the metric was made without ``keep_results=True``.
        """
        return detections_of(self._all_kept(iou_type), iou_type)

    def state_dict(self) -> OrderedDict[str, Any]:
        """What this process has seen, as tensors; unlike most metrics of ignite it speaks to no other process."""
        self._match_buffered()
        state: OrderedDict[str, Any] = OrderedDict()
        for iou_type in self._evaluations:
            parts = {"record": self._own_record(iou_type).to_arrays()}
            if self._keep_results:
                parts["kept"] = self._own_kept(iou_type).to_arrays()
            for arrays in parts.values():
                arrays["images"] = self._truth.image_ids[arrays["images"]]
            state[iou_type] = {
                part: {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
                for part, arrays in parts.items()
            }
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a metric with the same ground truth and arguments.

        Raises:
            ValueError: it is of other types of overlap, categories, thresholds or area ranges, or without the results.
            DataError: it has an image that the ground truth does not have.
        """
        if set(state_dict) != set(self._evaluations):
            raise ValueError(f"the state is of {', '.join(state_dict)}, the metric of {', '.join(self._evaluations)}")
        self.reset()
        for iou_type, state in state_dict.items():
            arrays = self._arrays_of(state, "record", self._own_record(iou_type).to_arrays())
            self._records[iou_type] = [Record.from_arrays(arrays)]
            self._seen[arrays["images"]] = True
            if self._keep_results:
                kept = self._arrays_of(state, "kept", self._own_kept(iou_type).to_arrays())
                self._kept[iou_type] = [KeptPredictions.from_arrays(kept)]

    def _arrays_of(
        self, state: Mapping[str, Mapping[str, Any]], part: str, expected: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        arrays = {name: tensor.numpy() for name, tensor in state.get(part, {}).items()}
        if set(arrays) != set(expected):
            raise ValueError("the state was taken without keep_results=True, which this metric has")
        indices = [self._truth.image_index(id_) for id_ in arrays["images"].tolist()]
        arrays["images"] = np.array(indices, dtype=np.int32)
        for name, array in arrays.items():
            if array.dtype != expected[name].dtype or array.shape[1:] != expected[name].shape[1:]:
                raise ValueError("the state is of other categories, thresholds or area ranges than the metric")
        return arrays

    def _new_buffer(self) -> DetectionBuffer:
        columns: dict[str, tuple[int, ...]] = {}
        if "bbox" in self._evaluations:
            columns["boxes"] = (4,)
        if "keypoints" in self._evaluations:
            columns["keypoints"] = (len(self.parameters("keypoints").keypoint_sigmas), 3)
        return DetectionBuffer(columns, masks="segm" in self._evaluations)

    def _match_buffered(self) -> None:
        if self._buffer.images:
            detections = self._buffer.drain(self._truth.image_ids)
            for iou_type, evaluation in self._evaluations.items():
                self._records[iou_type].append(evaluation.match(detections))
                if self._keep_results:
                    self._kept[iou_type].append(kept_of(detections, iou_type))

    def _own_record(self, iou_type: str) -> Record:
        record = concatenate([self._evaluations[iou_type].empty(), *self._records[iou_type]])
        self._records[iou_type] = [record]
        return record

    def _own_kept(self, iou_type: str) -> KeptPredictions:
        nothing = kept_of(self._new_buffer().drain(self._truth.image_ids), iou_type)
        kept = KeptPredictions.concatenate([nothing, *self._kept[iou_type]])
        self._kept[iou_type] = [kept]
        return kept

    def _all_kept(self, iou_type: str) -> KeptPredictions:
        if not self._keep_results:
            raise ValueError("results are kept by CocoMetric(..., keep_results=True) alone")
        self._match_buffered()
        gathered = all_gather_arrays(self._own_kept(iou_type).to_arrays())
        return KeptPredictions.concatenate([KeptPredictions.from_arrays(own) for own in gathered])

    def _all_arrays(self) -> dict[str, Arrays]:
        if self._arrays is None:
            self._match_buffered()
            own = {iou_type: self._own_record(iou_type).to_arrays() for iou_type in self._evaluations}
            gathered = all_gather_arrays(
                {f"{kind}/{name}": a for kind, arrays in own.items() for name, a in arrays.items()}
            )
            self._arrays = {}
            for iou_type, evaluation in self._evaluations.items():
                names = own[iou_type]
                records = [
                    Record.from_arrays({name: rank[f"{iou_type}/{name}"] for name in names}) for rank in gathered
                ]
                self._arrays[iou_type] = evaluation.arrays(evaluation.merge(records), self._every_image)
        return self._arrays
