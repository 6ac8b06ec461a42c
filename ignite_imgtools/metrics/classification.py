"""Top-1 and top-5 accuracy, precision and recall of classes, from counts of images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.metrics import Metric
from numpy.typing import NDArray
from torch import Tensor

from ignite_imgtools.distributed import all_gather_arrays
from ignite_imgtools.formats import DataError

__all__ = ["ClassificationMetric", "class_precision_recall", "ranks_of_truth"]


def ranks_of_truth(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the true one: 0 where it is the best.

    Of equal logits the lower class comes first, as ``argmax`` has it. Logits that are not numbers come before all
    others, so that an answer that is none is never right.

    Args:
        logits: ``[B, C]``.
        labels: int64 ``[B]`` in 0..C-1.

    Returns:
        int64 ``[B]``.

    >>> ranks_of_truth(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, 0.5]]), torch.tensor([2, 1])).tolist()
    [1, 1]
    """
    own = logits.gather(1, labels[:, None])
    before = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return (~(logits <= own) | ((logits == own) & before)).sum(dim=1)


def class_precision_recall(matrix: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """The scores of each class, NaN for one that no image of the truth has.

    With ``n`` images of the class in the truth, ``m`` taken for it and ``k`` both: ``precision`` is ``k / m``, 0 where
    nothing was taken for it, ``recall`` is ``k / n``, ``F1`` is ``2 k / (n + m)``.

    Args:
        matrix: ``[C, C]``, a row for each true class, a column for each predicted one.

    Returns:
        float64 ``[C]`` for each name.
    """
    both, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    present = np.where(true > 0, 1.0, np.nan)
    return {
        "precision": present * both / np.maximum(predicted, 1),
        "recall": present * both / np.maximum(true, 1),
        "F1": present * 2 * both / np.maximum(true + predicted, 1),
    }


class ClassificationMetric(Metric):
    """Top-1 and top-5 accuracy over all images, precision and recall of the classes.

    ``update`` takes ``(y_pred, y)``: logits or probabilities ``[B, C]`` and labels int64 ``[B]``. Counts are integers,
    kept on the device of ``y_pred`` and added up over the processes in :meth:`compute`, so that the result does not
    depend on batches, order or the number of processes.

    The result is a flat dict, which ignite puts into ``engine.state.metrics``: ``top1``, ``top5``, ``mean_precision``,
    ``mean_recall``, ``mean_F1`` and, with ``per_class``, ``precision/<name>`` and ``recall/<name>``. Values in 0..1. A
    class without images is left out of the means, whatever was predicted, so that these are over the same classes for
    every model; its own numbers are -1, and so are all where there was no image.

    Args:
        num_classes: C, at least 2.
        class_names: by default the numbers.
        top_k: numbers of classes of which the true one has to be one, as ``(1, 5)`` gives ``top1`` and ``top5``.
        per_class: also give the numbers of each class.
        output_transform: from the engine's output to ``(y_pred, y)`` or a dict with these keys.

    Raises:
        ValueError: an argument is out of its range, or shapes do not fit.
        DataError: in :meth:`compute`, on all processes: a label is not in 0..C-1.

    Example:
        >>> metric = ClassificationMetric(3, class_names=["ant", "bee", "cat"], top_k=(1, 2), per_class=True)
        >>> metric.update((torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([0, 1])))
        >>> {name: value for name, value in metric.compute().items() if "mean" not in name}
        ... # doctest: +NORMALIZE_WHITESPACE
        {'top1': 0.5, 'top2': 1.0, 'precision/ant': 0.5, 'precision/bee': 0.0, 'precision/cat': -1.0,
         'recall/ant': 1.0, 'recall/bee': 0.0, 'recall/cat': -1.0}
    """

    def __init__(
        self,
        num_classes: int,
        *,
        class_names: Sequence[str] | None = None,
        top_k: Sequence[int] = (1, 5),
        per_class: bool = False,
        output_transform: Callable[[Any], Any] = lambda output: output,
    ):
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        names = [str(number) for number in range(num_classes)] if class_names is None else list(class_names)
        if len(set(names)) != len(names) or len(names) != num_classes:
            raise ValueError(f"class_names must be {num_classes} different names, got {names}")
        if not top_k or min(top_k) < 1:
            raise ValueError(f"top_k must be numbers of classes from 1 on, got {list(top_k)}")
        self._num_classes, self._names, self._top_k, self._per_class = num_classes, names, tuple(top_k), per_class
        super().__init__(output_transform, skip_unrolling=True, metrics_result_mode="flatten")

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, by their label."""
        return list(self._names)

    def reset(self) -> None:
        # Images by true class and predicted one; then one row of images whose label cannot be, and one of images by
        # the rank of the truth.
        self._counts = torch.zeros(self._num_classes + 2, self._num_classes, dtype=torch.int64)
        self._total: NDArray[np.int64] | None = None

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        y_pred, y = output
        if len(y_pred) != len(y):
            raise ValueError(f"one prediction for each label is needed, got {len(y_pred)} and {len(y)}")
        self._total = None
        if not len(y):
            return
        classes = self._num_classes
        if y_pred.ndim != 2 or y_pred.shape[1] != classes or y.ndim != 1 or y.is_floating_point():
            raise ValueError(
                f"y_pred must be [B, {classes}] and y integers [B], got {list(y_pred.shape)} and {list(y.shape)}"
            )
        logits, labels = y_pred.detach(), y.to(y_pred.device).long()
        possible = (labels >= 0) & (labels < classes)
        rows = torch.where(possible, labels, classes)
        pairs = rows * classes + logits.argmax(dim=1)
        ranks = ranks_of_truth(logits, labels.clamp(0, classes - 1)).clamp(max=classes - 1)
        ranked = (classes + 1) * classes + ranks
        # An image without a label has no rank; it is counted beside its row once more, which is refused in the end.
        places = torch.cat([pairs, torch.where(possible, ranked, pairs)])
        counts = torch.bincount(places, minlength=(classes + 2) * classes).view(classes + 2, classes)
        self._counts = self._counts.to(counts.device) + counts

    def compute(self) -> dict[str, float]:
        """The numbers; call it on all processes, all get the same."""
        matrix = self.matrix()
        assert self._total is not None
        images, by_rank = int(matrix.sum()), self._total[-1]
        result = {f"top{k}": int(by_rank[:k].sum()) / images if images else -1.0 for k in self._top_k}
        scores = class_precision_recall(matrix)
        for name, values in scores.items():
            counted = values[~np.isnan(values)]
            result[f"mean_{name}"] = float(counted.mean()) if len(counted) else -1.0
        for kind in ("precision", "recall") if self._per_class else ():
            values = np.nan_to_num(scores[kind], nan=-1.0)
            result |= {f"{kind}/{name}": value for name, value in zip(self._names, values.tolist(), strict=True)}
        return result

    def matrix(self) -> NDArray[np.int64]:
        """Images of all processes, int64 ``[C, C]``: a row for each true class, a column for each predicted one.

        Call it on all processes, or on any after :meth:`compute`.
        """
        if self._total is None:
            gathered = all_gather_arrays({"counts": self._counts.cpu().numpy()})
            total: NDArray[np.int64] = np.sum([arrays["counts"] for arrays in gathered], axis=0)
            impossible = int(total[self._num_classes].sum()) // 2
            if impossible:
                raise DataError(
                    f"the truth has {impossible} images whose label is not in 0..{self._num_classes - 1}; "
                    "set num_classes, or correct the labels"
                )
            self._total = total
        return self._total[: self._num_classes]

    def absent_classes(self) -> list[str]:
        """Names of the classes that no image of the truth has. Call it as :meth:`matrix`."""
        return [name for name, images in zip(self._names, self.matrix().sum(axis=1), strict=True) if images == 0]

    def state_dict(self) -> OrderedDict[str, Any]:
        """What this process has counted; unlike most metrics of ignite it speaks to no other process."""
        return OrderedDict(counts=self._counts.cpu().clone())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a metric with the same number of classes.

        Raises:
            ValueError: it is of another number of classes.
        """
        counts = state_dict["counts"]
        if counts.shape != self._counts.shape:
            raise ValueError(f"the state is of {counts.shape[1]} classes, the metric of {self._num_classes}")
        self.reset()
        self._counts = counts.clone()
