"""The numbers of each class as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.metrics.coco.accumulation import Arrays
from ignite_imgtools.metrics.coco.parameters import Parameters
from ignite_imgtools.metrics.coco.summary import summarize
from ignite_imgtools.metrics.coco_analysis.matches import truth_of

__all__ = ["count_truths", "per_class_table", "table_to_csv", "table_to_text"]

Rows = Sequence[Mapping[str, Any]]


def count_truths(coco: Any, iou_type: str = "bbox", image_ids: Sequence[int] | None = None) -> NDArray[np.int64]:
    """How many objects of each class there are to be found, int64 ``[C]`` by ascending category id.

    Args:
        coco: ground truth, a ``pycocotools.coco.COCO`` or an object with the same ``dataset``.
        iou_type: crowds never count; for ``"keypoints"`` objects without any do not either.
        image_ids: the images to look at, by default all.
    """
    truth = truth_of(coco)
    counted = ~truth.ignored(Parameters.create(iou_type, area_ranges={"all": (0.0, 1e10)}))[0]
    if image_ids is not None:
        counted &= np.isin(truth.image_ids, np.asarray(image_ids, dtype=np.int64))[truth.image]
    return np.bincount(truth.category[counted], minlength=truth.num_categories)


def per_class_table(
    arrays: Arrays,
    parameters: Parameters,
    class_names: Sequence[str],
    truths: Sequence[int] | NDArray[np.int64] | None = None,
) -> list[dict[str, Any]]:
    """A row for each class: ``class``, ``truths``, ``AP``, ``AP50``, ``AP75``, ``APs`` ..., and the recall ``AR100``.

    Args:
        arrays: of an evaluation, as ``CocoMetric.arrays`` gives them.
        parameters: of the same evaluation, as ``CocoMetric.parameters`` gives them.
        class_names: along the category axis.
        truths: how many objects each class has, as :func:`count_truths` says; by default there is no such column.

    Returns:
        Values are those of the summary for a single class: in 0..1, -1 where there was nothing to be found.
    """
    recall = "AR" if parameters.iou_type == "keypoints" else f"AR{parameters.max_detections[-1]}"
    rows = []
    counts = [{}] * len(class_names) if truths is None else [{"truths": int(count)} for count in truths]
    for k, (name, count) in enumerate(zip(class_names, counts, strict=True)):
        # The category axis is the third of precision and the second of recall.
        own = {"precision": arrays["precision"][:, :, k : k + 1], "recall": arrays["recall"][:, k : k + 1]}
        numbers = summarize(own, parameters)
        chosen = {key: value for key, value in numbers.items() if key.startswith("AP") or key == recall}
        rows.append({"class": name, **count, **chosen})
    return rows


def table_to_csv(rows: Rows) -> str:
    """Comma-separated values with a header; numbers in full, so that they read back equal."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table_to_text(rows: Rows) -> str:
    """Columns for people: names to the left, numbers to the right, values in percent, none as ``-``."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *[[_cell(row.get(name)) for name in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{100 * value:.1f}" if value >= 0 else "-"
    return "-" if value is None else str(value)
