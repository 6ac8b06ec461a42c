"""``coco-eval``: COCO results against their ground truth."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ignite_imgtools.commands.parsing import PROG, UsageError, parse

__all__ = ["Arguments", "main"]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the command takes."""

    ground_truth: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """COCO json of images, annotations and categories."""
    results: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """COCO json of results."""
    iou_type: Literal["bbox", "segm", "keypoints"] = "bbox"
    """What is compared: boxes, masks or keypoints."""
    images: Literal["all", "seen"] = "all"
    """Evaluate all images, as pycocotools does, or those that have results."""
    max_dets: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="N...")] = None
    """Detections for each image and category. [1 10 100, for keypoints 20]"""
    per_class: bool = False
    """Print the numbers of each class too."""
    plots: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Write curves, confusion, errors and the numbers of each class into this folder."""
    score_threshold: Annotated[float, tyro.conf.arg(metavar="X")] = 0.5
    """Leave detections of a lower score out of the confusion matrix."""


def main(args: list[str]) -> int:
    """Print the numbers as pycocotools does, and draw what is asked for."""
    from ignite_imgtools.handlers.evaluation_report import class_table, write_evaluation_report
    from ignite_imgtools.metrics.coco.files import evaluate_files
    from ignite_imgtools.metrics.coco_analysis import table_to_text

    parsed = parse(Arguments, args, "coco-eval", "Evaluate COCO results, and print the numbers as pycocotools does.")
    if parsed.max_dets is not None and not all(number > 0 for number in parsed.max_dets or (0,)):
        raise UsageError(f"--max-dets must be positive integers, got {' '.join(map(str, parsed.max_dets)) or 'none'}")
    evaluation = evaluate_files(
        parsed.ground_truth, parsed.results, parsed.iou_type, images=parsed.images, max_detections=parsed.max_dets
    )
    unknown = evaluation.unknown_labels()
    if len(unknown):
        print(
            f"{PROG}: {len(unknown)} of {len(evaluation.detections.labels)} results take no part: the ground truth "
            f"does not list their category_id, such as {unknown[0]}",
            file=sys.stderr,
        )
    print(evaluation.text())
    if parsed.per_class:
        print(f"\n{table_to_text(class_table(evaluation))}")
    if parsed.plots is not None:
        try:
            write_evaluation_report(parsed.plots, evaluation, parsed.score_threshold)
        except OSError as error:
            raise UsageError(f"--plots: {error}") from None
    return 0
