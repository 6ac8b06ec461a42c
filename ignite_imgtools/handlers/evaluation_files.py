"""What an evaluation leaves in the run folder for other programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.evaluation import flat_metrics
from ignite_imgtools.handlers.run_files import WriteGuard, to_json, write_atomically
from ignite_imgtools.metrics import CocoMetric, per_class_table
from ignite_imgtools.metrics.coco_analysis import table_to_csv, table_to_text

__all__ = ["attach_evaluation_files"]


def attach_evaluation_files(
    output_dir: str | Path,
    trainer: Engine | None,
    evaluator: Engine,
    coco_metric: CocoMetric | None = None,
    *,
    results: bool = True,
    category_ids: Mapping[int, int] | None = None,
) -> Attachments:
    """Write each evaluation's outcome into ``<output_dir>/eval/``, over that of the one before.

    ``metrics.json`` is the flat dict of the evaluator's numbers, with the trainer's epoch and iteration. With a
    ``coco_metric`` there are also ``per_class.csv``, a row for each category with the columns of the summary,
    ``per_class.txt``, the same for people, and ``coco_results_bbox.json`` and the like, which pycocotools loads. Each
    file is replaced whole. One process writes; call it on every process. If a file cannot be written there is one
    warning, and what runs goes on.

    Args:
        trainer: ``None`` for an evaluation on its own.
        coco_metric: attached to ``evaluator`` already.
        results: whether to write the detections; the metric must have been made with ``keep_results=True``.
        category_ids: from the model's labels to the ids of the data set's own file, where they differ.

    Returns:
        An object whose ``remove()`` or ``detach()`` ends this.

    Raises:
        ValueError: ``results`` are to be written and the metric does not keep them.
    """
    if coco_metric is not None and results:
        coco_metric.results(coco_metric.iou_types[0])  # raises now what would else end the first evaluation
    folder = Path(output_dir) / "eval"
    guard = WriteGuard(f"the files in {folder}")

    def write(name: str, content: Callable[[], str]) -> None:
        if is_main_process() and not guard.off:
            with guard:
                write_atomically(folder / name, content().encode())

    def completed() -> None:
        where = {} if trainer is None else {"epoch": trainer.state.epoch, "iteration": trainer.state.iteration}
        numbers = {**where, **flat_metrics(evaluator.state.metrics)}
        write("metrics.json", lambda: to_json(numbers).replace(", ", ",\n ") + "\n")
        if coco_metric is None:
            return
        # Every process asks the metric, for it may have to ask the others.
        rows = [row for iou_type in coco_metric.iou_types for row in _per_class_rows(coco_metric, iou_type)]
        write("per_class.csv", lambda: table_to_csv(rows))
        write("per_class.txt", lambda: table_to_text(rows) + "\n")
        for iou_type in coco_metric.iou_types if results else ():
            detections = _renamed(coco_metric.results(iou_type), category_ids)
            write(f"coco_results_{iou_type}.json", partial(json.dumps, detections))

    attachments = Attachments()
    attachments.add(evaluator, Events.COMPLETED, completed)
    return attachments


def _renamed(results: Sequence[Mapping[str, Any]], category_ids: Mapping[int, int] | None) -> list[dict[str, Any]]:
    if category_ids is None:
        return [dict(result) for result in results]
    return [{**result, "category_id": category_ids[result["category_id"]]} for result in results]


def _per_class_rows(coco_metric: CocoMetric, iou_type: str) -> list[dict[str, Any]]:
    arrays, parameters = coco_metric.arrays(iou_type), coco_metric.parameters(iou_type)
    names = coco_metric.ground_truth.category_names if parameters.use_cats else ("all",)
    return [{**row, "iou_type": iou_type} for row in per_class_table(arrays, parameters, names)]
