"""What an evaluation's errors are, drawn and written after each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Engine, Events

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.evaluation_pictures import class_precision_figure, confusion_figure, error_figure
from ignite_imgtools.handlers.figures import array_to_png, figure_to_array
from ignite_imgtools.handlers.run_files import WriteGuard, write_atomically
from ignite_imgtools.metrics import CocoMetric
from ignite_imgtools.metrics.coco.detections import Detections
from ignite_imgtools.metrics.coco.summary import per_class_precision
from ignite_imgtools.metrics.coco_analysis import ErrorBreakdown, confusion_matrix, error_breakdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attach_evaluation_analysis"]

_NOUNS = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints"}


def attach_evaluation_analysis(
    output_dir: str | Path | None,
    trainer: Engine | None,
    evaluator: Engine,
    coco_metric: CocoMetric,
    *,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
) -> Attachments:
    """Say after every evaluation what is taken for what, and which errors cost how much.

    Written into ``output_dir`` are ``plots/confusion_matrix.png``, ``plots/errors.png``, ``plots/class_precision.png``
    and ``eval/errors.json``, the :class:`.ErrorBreakdown` of each type of overlap; pictures of a second type have it
    in their name, ``confusion_matrix_segm.png``. The figures ``confusion_matrix`` and ``errors`` are in
    ``evaluator.state.figures``, where ``attach_tensorboard`` finds them. One process writes; call it on every process.
    If a file cannot be written there is one warning, and what runs goes on.

    For 5,000 images, 80 classes and 250,000 boxes it takes the main process half a second to analyse and two to draw;
    masks take some 20 times as long to analyse as boxes.

    Args:
        output_dir: the run folder; ``None`` for no files.
        trainer: whose epoch and iteration are written; ``None`` for an evaluation on its own.
        coco_metric: made with ``keep_results=True``, attached to ``evaluator`` already.
        score_threshold: detections of a lower score are not in the confusion matrix.
        iou_threshold: the overlap needed in the confusion matrix.

    Returns:
        An object whose ``remove()`` or ``detach()`` ends this.

    Raises:
        ValueError: the metric does not keep results.
    """
    coco_metric.detections(coco_metric.iou_types[0])  # raises now what would else end the first evaluation
    folder = None if output_dir is None else Path(output_dir)
    guard = WriteGuard(f"the analysis in {folder}")

    def write(name: str, content: Callable[[], bytes]) -> None:
        if folder is not None and not guard.off:
            with guard:
                write_atomically(folder / name, content())

    def analyse() -> None:
        written: dict[str, Any] = {}
        if trainer is not None:
            written |= {"epoch": trainer.state.epoch, "iteration": trainer.state.iteration}
        for number, iou_type in enumerate(coco_metric.iou_types):
            # Every process asks the metric, for it may have to ask the others.
            detections, precision = coco_metric.detections(iou_type), _class_precision(coco_metric, iou_type)
            if not is_main_process():
                continue
            errors, confusion = _analysis(coco_metric, iou_type, detections, score_threshold, iou_threshold)
            written[iou_type] = errors.to_dict()
            names, suffix = coco_metric.ground_truth.category_names, "" if number == 0 else f"_{iou_type}"
            title = f"{_NOUNS[iou_type].capitalize()} of score {score_threshold:g} and IoU {iou_threshold:g} or more"
            figures: dict[str, Figure] = {
                f"confusion_matrix{suffix}": confusion_figure(confusion, names, title),
                f"errors{suffix}": error_figure(errors),
            }
            state: Any = evaluator.state
            state.figures = {**getattr(state, "figures", {}), **figures}
            if folder is not None:
                figures[f"class_precision{suffix}"] = class_precision_figure(list(precision), list(precision.values()))
            for name, figure in figures.items():
                write(f"plots/{name}.png", lambda figure=figure: array_to_png(figure_to_array(figure)))  # type: ignore[misc]
        if is_main_process():
            write("eval/errors.json", lambda: json.dumps(written, indent=1).encode())

    attachments = Attachments()
    attachments.add(evaluator, Events.EPOCH_COMPLETED, analyse)
    return attachments


def _class_precision(coco_metric: CocoMetric, iou_type: str) -> dict[str, float]:
    parameters = coco_metric.parameters(iou_type)
    names = coco_metric.ground_truth.category_names if parameters.use_cats else ("all",)
    return per_class_precision(coco_metric.arrays(iou_type), parameters, names)


def _analysis(
    coco_metric: CocoMetric, iou_type: str, detections: Detections, score_threshold: float, iou_threshold: float
) -> tuple[ErrorBreakdown, np.ndarray]:
    truth, parameters = coco_metric.ground_truth, coco_metric.parameters(iou_type)
    options: dict[str, Any] = {
        "image_ids": None if coco_metric.images == "all" else truth.image_ids[detections.images].tolist(),
        "max_detections": parameters.max_detections[-1],
        "keypoint_sigmas": parameters.keypoint_sigmas,
    }
    errors = error_breakdown(truth, detections, iou_type, **options)
    options |= {"score_threshold": score_threshold, "iou_threshold": iou_threshold}
    return errors, confusion_matrix(truth, detections, iou_type, **options)
