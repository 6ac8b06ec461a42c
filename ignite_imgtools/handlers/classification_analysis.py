"""What a classifier's evaluation says of each class, drawn and written after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Engine, Events

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.evaluation_pictures import class_precision_figure
from ignite_imgtools.handlers.figures import array_to_png, figure_to_array
from ignite_imgtools.handlers.run_files import WriteGuard, write_atomically
from ignite_imgtools.handlers.segmentation_pictures import pixel_confusion_figure
from ignite_imgtools.metrics import ClassificationMetric, class_precision_recall
from ignite_imgtools.metrics.coco_analysis import table_to_csv, table_to_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attach_classification_analysis", "classification_rows"]


def attach_classification_analysis(
    output_dir: str | Path | None, evaluator: Engine, metric: ClassificationMetric
) -> Attachments:
    """Say after every evaluation which class is taken for which, and how well each is recognised.

    Written into ``output_dir`` are ``plots/confusion_matrix.png``, ``plots/class_recall.png``, and the
    :func:`classification_rows` in ``eval/per_class.csv`` and, for people, ``eval/per_class.txt``. The figures
    ``confusion_matrix`` and ``class_recall`` are in ``evaluator.state.figures``, where ``attach_tensorboard`` finds
    them. One process writes; call it on every process. If a file cannot be written there is one warning, and what
    runs goes on.

    Args:
        output_dir: the run folder; ``None`` for no files.
        metric: attached to ``evaluator`` already.

    Returns:
        An object whose ``remove()`` or ``detach()`` ends this.
    """
    folder = None if output_dir is None else Path(output_dir)
    guard = WriteGuard(f"the analysis in {folder}")

    def write(name: str, content: Callable[[], bytes]) -> None:
        if folder is not None and not guard.off:
            with guard:
                write_atomically(folder / name, content())

    def analyse() -> None:
        # Every process asks the metric, for it may have to ask the others.
        names, matrix = metric.class_names, metric.matrix()
        if not is_main_process():
            return
        rows = classification_rows(matrix, names)
        title = "Recall of each class" + (" that occurs" if metric.absent_classes() else "")
        figures: dict[str, Figure] = {
            "confusion_matrix": pixel_confusion_figure(matrix, names, unit="images"),
            "class_recall": class_precision_figure(names, [row["recall"] for row in rows], title),
        }
        state: Any = evaluator.state
        state.figures = {**getattr(state, "figures", {}), **figures}
        for name, figure in figures.items():
            write(f"plots/{name}.png", partial(_to_png, figure))
        write("eval/per_class.csv", lambda: table_to_csv(rows).encode())
        write("eval/per_class.txt", lambda: f"{table_to_text(rows)}\n".encode())

    attachments = Attachments()
    attachments.add(evaluator, Events.EPOCH_COMPLETED, analyse)
    return attachments


def classification_rows(matrix: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """``{"class": name, "precision": ..., "recall": ..., "F1": ..., "images": ..., "predicted": ...}`` for each class.

    The numbers of :func:`~ignite_imgtools.metrics.class_precision_recall`, -1 for a class without images, then how
    many images the class has, and how many were taken for it.

    Args:
        matrix: int64 ``[C, C]``, rows by the class of the truth, columns by the predicted one.
        class_names: ``C`` names.
    """
    lists = {name: np.nan_to_num(values, nan=-1.0).tolist() for name, values in class_precision_recall(matrix).items()}
    lists |= {"images": matrix.sum(axis=1).tolist(), "predicted": matrix.sum(axis=0).tolist()}
    return [
        {"class": class_name, **{name: values[i] for name, values in lists.items()}}
        for i, class_name in enumerate(class_names)
    ]


def _to_png(figure: Figure) -> bytes:
    return array_to_png(figure_to_array(figure))
