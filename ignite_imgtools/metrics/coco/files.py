"""The evaluation of files: what pycocotools does with the json of a ground truth and of results."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics.coco.accumulation import Arrays
from ignite_imgtools.metrics.coco.detections import Detections
from ignite_imgtools.metrics.coco.evaluation import Evaluation
from ignite_imgtools.metrics.coco.ground_truth import GroundTruth
from ignite_imgtools.metrics.coco.parameters import Parameters
from ignite_imgtools.metrics.coco.result_columns import detections_of_results
from ignite_imgtools.metrics.coco.summary import per_class_precision, summarize
from ignite_imgtools.metrics.coco.summary_text import summary_text

__all__ = ["FileEvaluation", "coco_eval", "evaluate_files"]

File = str | os.PathLike


@dataclass(frozen=True)
class FileEvaluation:
    """An evaluation of results, and what it was made of.

    Attributes:
        truth: the annotations.
        detections: the results as columns.
        parameters: what was evaluated.
        arrays: ``precision``, ``recall`` and ``scores`` in pycocotools' shapes.
        image_ids: the images that were evaluated, ``None`` for all.
    """

    truth: GroundTruth
    detections: Detections
    parameters: Parameters
    arrays: Arrays
    image_ids: list[int] | None

    def numbers(self, per_class: bool = False) -> dict[str, float]:
        """``{"bbox/AP": ..., ...}`` as ``CocoMetric`` gives them, with ``per_class`` also ``bbox/AP/<name>``."""
        numbers = summarize(self.arrays, self.parameters)
        if per_class:
            classes = per_class_precision(self.arrays, self.parameters, self.truth.category_names)
            numbers |= {f"AP/{name}": value for name, value in classes.items()}
        return {f"{self.parameters.iou_type}/{name}": value for name, value in numbers.items()}

    def unknown_labels(self) -> NDArray[np.int64]:
        """The ``category_id`` of results that take no part, for the ground truth does not list it."""
        _, known = self.truth.category_positions(self.detections.labels)
        return self.detections.labels[~known]

    def text(self) -> str:
        """The lines that pycocotools prints."""
        return summary_text(summarize(self.arrays, self.parameters), self.parameters)


def coco_eval(
    ground_truth: File | Mapping[str, Any],
    results: File | Sequence[Mapping[str, Any]],
    iou_type: str = "bbox",
    *,
    images: Literal["all", "seen"] = "all",
    max_detections: Sequence[int] | None = None,
    per_class: bool = False,
) -> dict[str, float]:
    """The numbers that pycocotools has for a file of results, equal to the last bit.

    Args:
        ground_truth: path of a json with ``images``, ``annotations`` and ``categories``, or its content.
        results: path of a json with a list of results, or the list; see :func:`.detections_of_results`.
        iou_type: ``"bbox"``, ``"segm"`` or ``"keypoints"``.
        images: ``"all"`` evaluates every image of the ground truth, as pycocotools does; ``"seen"`` those that have
            results.
        max_detections: numbers of detections for each image and category; by default 1, 10, 100, or 20 for keypoints.
        per_class: also give ``bbox/AP/<name>`` for each category.

    Returns:
        ``{"bbox/AP": ..., "bbox/AP50": ..., ...}`` in 0..1, -1 where there was nothing to be found.

    Raises:
        DataError: a file cannot be read or is not as described; one line that names the file and the entry.
        ValueError: an argument is out of its range.
    """
    evaluation = evaluate_files(ground_truth, results, iou_type, images=images, max_detections=max_detections)
    return evaluation.numbers(per_class)


def evaluate_files(
    ground_truth: File | Mapping[str, Any],
    results: File | Sequence[Mapping[str, Any]],
    iou_type: str = "bbox",
    *,
    images: Literal["all", "seen"] = "all",
    max_detections: Sequence[int] | None = None,
) -> FileEvaluation:
    """As :func:`coco_eval`, with what leads to the numbers."""
    if images not in ("all", "seen"):
        raise ValueError(f'images must be "all" or "seen", got {images!r}')
    parameters = Parameters.create(iou_type, max_detections=max_detections)
    with _naming(ground_truth):
        evaluation = Evaluation(GroundTruth(SimpleNamespace(dataset=_dataset(ground_truth))), parameters)
        truth = evaluation.truth
        if iou_type == "segm":
            for index in range(truth.num_images):
                truth.image_size(index)  # raises where it is not known
    with _naming(results):
        entries = _entries(results)
        detections = detections_of_results(entries, truth, iou_type, len(parameters.keypoint_sigmas))
    with _naming(ground_truth):  # the results are checked by now, annotated masks are not
        record = evaluation.merge([evaluation.match(detections)])
    return FileEvaluation(
        truth=truth,
        detections=detections,
        parameters=parameters,
        arrays=evaluation.arrays(record, images == "all"),
        image_ids=None if images == "all" else truth.image_ids[detections.images].tolist(),
    )


@contextlib.contextmanager
def _naming(source: Any) -> Iterator[None]:
    """Name the file in errors about its content."""
    try:
        yield
    except DataError as error:
        if not isinstance(source, File):
            raise
        raise DataError(f"{os.fspath(source)}: {error}") from error


def _dataset(source: File | Mapping[str, Any]) -> Mapping[str, Any]:
    content = _read_json(source) if isinstance(source, File) else source
    if not isinstance(content, Mapping):
        came = "a list: is it the file of results?" if isinstance(content, list) else f"a {type(content).__name__}"
        raise DataError(f"a ground truth must be an object with images, annotations and categories, got {came}")
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list):
            came = "nothing" if entries is None else f"a {type(entries).__name__}"
            raise DataError(f"{key!r} of a ground truth must be a list, got {came}")
        for place, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise DataError(f"{key}[{place}] must be an object, got a {type(entry).__name__}")
    return content


def _entries(source: File | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    content = _read_json(source) if isinstance(source, File) else source
    if isinstance(content, Mapping) and "annotations" in content:
        raise DataError("results must be a list, got an object with annotations: is it the ground truth?")
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise DataError(f"results must be a list of objects, got a {type(content).__name__}")
    return content


def _read_json(path: File) -> Any:
    file = Path(path)
    # Looked at before it is opened: opening a pipe would wait for ever.
    if not file.is_file():
        raise DataError("it is no file" if file.exists() else "there is no such file")
    try:
        return json.loads(file.read_bytes().decode("utf-8"))
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} is not UTF-8: save it as UTF-8") from error
    except RecursionError:
        raise DataError("it is nested endlessly: write the file anew") from None
    except ValueError as error:
        advice = "save it as UTF-8 without a byte order mark" if "BOM" in str(error) else "write the file anew"
        raise DataError(f"it is no valid json: {error}; {advice}") from error
