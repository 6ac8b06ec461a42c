"""Pictures and tables of an evaluation of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ignite_imgtools.handlers.evaluation_pictures import class_precision_figure, confusion_figure, error_figure
from ignite_imgtools.handlers.figures import array_to_png, figure_to_array
from ignite_imgtools.handlers.pr_curve import pr_curve_figure
from ignite_imgtools.handlers.run_files import write_atomically
from ignite_imgtools.metrics.coco.files import FileEvaluation
from ignite_imgtools.metrics.coco_analysis import (
    confusion_matrix,
    count_truths,
    error_breakdown,
    per_class_table,
    table_to_csv,
)

__all__ = ["class_table", "write_evaluation_report"]


def class_table(evaluation: FileEvaluation) -> list[dict[str, Any]]:
    """The numbers of each class, of :func:`.per_class_table`."""
    truth, parameters = evaluation.truth, evaluation.parameters
    counts = count_truths(truth, parameters.iou_type, evaluation.image_ids)
    return per_class_table(evaluation.arrays, parameters, truth.category_names, counts)


def write_evaluation_report(folder: str | Path, evaluation: FileEvaluation, score_threshold: float = 0.5) -> None:
    """Write what an evaluation of files shows beyond its numbers.

    The files are ``pr_curve.png``, ``confusion_matrix.png``, ``errors.png``, ``class_precision.png``, ``errors.json``
    and ``per_class.csv``.

    Args:
        folder: made if it is not there.
        evaluation: of :func:`.evaluate_files`.
        score_threshold: detections of a lower score are not in the confusion matrix.

    Raises:
        OSError: a file cannot be written.
    """
    folder, truth, parameters = Path(folder), evaluation.truth, evaluation.parameters
    names, iou_type, limit = truth.category_names, parameters.iou_type, parameters.max_detections[-1]
    everywhere = (truth, evaluation.detections, iou_type)
    errors = error_breakdown(*everywhere, image_ids=evaluation.image_ids, max_detections=limit)
    confusion = confusion_matrix(
        *everywhere, image_ids=evaluation.image_ids, max_detections=limit, score_threshold=score_threshold
    )
    table = class_table(evaluation)
    precision = evaluation.arrays["precision"][:, :, :, parameters.area_names.index("all"), -1]
    figures = {
        "pr_curve": pr_curve_figure(precision, parameters.iou_thresholds, parameters.recall_thresholds, names),
        "confusion_matrix": confusion_figure(confusion, names, f"Score {score_threshold:g} and IoU 0.5 or more"),
        "errors": error_figure(errors),
        "class_precision": class_precision_figure(names, [row["AP"] for row in table]),
    }
    for name, figure in figures.items():
        write_atomically(folder / f"{name}.png", array_to_png(figure_to_array(figure)))
    write_atomically(folder / "errors.json", json.dumps(errors.to_dict(), indent=1).encode())
    write_atomically(folder / "per_class.csv", table_to_csv(table).encode())
