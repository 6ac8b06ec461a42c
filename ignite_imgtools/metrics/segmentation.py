"""Pixel accuracy, IoU and Dice of classes from one matrix of counts."""

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
from ignite_imgtools.metrics.class_maps import Maps, pairs_of_class_maps

__all__ = ["SegmentationMetric", "check_truth", "class_scores", "confusion_counts", "pixel_confusion"]


def pixel_confusion(y_pred: Maps, y: Maps, num_classes: int, *, ignore_index: int = 255) -> Tensor:
    """How many pixels of each class were taken for each class.

    Args:
        y_pred: logits ``[B, C, H, W]`` or classes ``[B, H, W]``; or a list of them, of any sizes.
        y: classes ``[B, H, W]``, integer; or a list.
        num_classes: C.
        ignore_index: pixels whose true class this is do not count.

    Returns:
        int64 ``[C, C]`` on the device of ``y_pred``: a row for each true class, a column for each predicted one.

    Raises:
        ValueError: the shapes do not fit, or a predicted class is not in 0..C-1.
        DataError: a true class is neither in 0..C-1 nor ``ignore_index``.

    >>> pixel_confusion(torch.tensor([[[0, 1, 1, 0]]]), torch.tensor([[[0, 0, 1, 255]]]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts = torch.zeros(num_classes + 1, num_classes, dtype=torch.int64)
    for predicted, true in pairs_of_class_maps(y_pred, y, num_classes):
        counts = counts.to(predicted.device) + confusion_counts(predicted, true, num_classes, ignore_index)
    check_truth(int(counts[-1].sum()), num_classes, ignore_index)
    return counts[:-1]


def class_scores(matrix: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """The scores of each class, NaN for one that no pixel of the truth has.

    With ``n`` pixels of the class in the truth, ``m`` in the prediction and ``k`` in both: ``accuracy`` is ``k / n``,
    ``IoU`` is ``k / (n + m - k)``, ``dice`` is ``2 k / (n + m)``.

    Args:
        matrix: ``[C, C]`` as of :func:`pixel_confusion`.

    Returns:
        float64 ``[C]`` for each name.
    """
    both, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    present = np.where(true > 0, 1.0, np.nan)
    some = np.maximum(true, 1)
    return {
        "accuracy": present * both / some,
        "IoU": present * both / np.maximum(true + predicted - both, 1),
        "dice": present * 2 * both / np.maximum(true + predicted, 1),
    }


class SegmentationMetric(Metric):
    """Pixel accuracy, mean accuracy, mean IoU and mean Dice over all pixels of all images.

    ``update`` takes ``(y_pred, y)``: logits ``[B, C, H, W]`` (floating point) or classes ``[B, H, W]`` (integer)
    against classes ``[B, H, W]``; or two lists of these, an entry for each image, of any sizes, with or without the
    dimension of the batch. What is counted are the pixels as they come: enlarge logits to the original size for the
    usual measure.

    Counts are integers, kept on the device of ``y_pred`` and added up over the processes in :meth:`compute`, so that
    the result does not depend on batches, order or the number of processes.

    The result is a flat dict, which ignite puts into ``engine.state.metrics``: ``pixel_accuracy``, ``mean_accuracy``,
    ``mean_IoU``, ``mean_dice``, ``dice_foreground`` (the mean over all classes but the first) and, with
    ``per_class``, ``IoU/<name>`` and ``dice/<name>``. Values in 0..1. A class that no pixel of the truth has is left
    out of the means, whatever was predicted, so that these are over the same classes for every model; its own
    numbers are -1, and so are all where there was no image.

    Args:
        num_classes: C, the background among them; at least 2.
        class_names: by default the numbers.
        ignore_index: pixels whose true class this is do not count.
        per_class: also give the numbers of each class.
        absent_as_zero: count a class without truth as 0 in the means, as ignite's ``mIoU`` does.
        output_transform: from the engine's output to ``(y_pred, y)`` or a dict with these keys.

    Raises:
        ValueError: an argument is out of its range, or shapes or predicted classes do not fit.
        DataError: in :meth:`compute`, on all processes: a true class is neither in 0..C-1 nor ``ignore_index``.

    Example:
        >>> metric = SegmentationMetric(3, class_names=["sky", "road", "car"], per_class=True)
        >>> metric.update((torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 255]]])))
        >>> {key: round(value, 3) for key, value in metric.compute().items() if "IoU" in key}
        {'mean_IoU': 0.5, 'IoU/sky': 0.5, 'IoU/road': 0.5, 'IoU/car': -1.0}
        >>> metric.absent_classes()
        ['car']
    """

    def __init__(
        self,
        num_classes: int,
        *,
        class_names: Sequence[str] | None = None,
        ignore_index: int = 255,
        per_class: bool = False,
        absent_as_zero: bool = False,
        output_transform: Callable[[Any], Any] = lambda output: output,
    ):
        if num_classes < 2:
            raise ValueError(f"num_classes counts the background and must be at least 2, got {num_classes}")
        names = [str(number) for number in range(num_classes)] if class_names is None else list(class_names)
        if len(set(names)) != len(names) or len(names) != num_classes:
            raise ValueError(f"class_names must be {num_classes} different names, got {names}")
        self._num_classes, self._names, self._ignore_index = num_classes, names, ignore_index
        self._per_class, self._absent_as_zero = per_class, absent_as_zero
        super().__init__(output_transform, skip_unrolling=True, metrics_result_mode="flatten")

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, by their number."""
        return list(self._names)

    def reset(self) -> None:
        # The last row counts pixels whose true class cannot be.
        self._counts = torch.zeros(self._num_classes + 1, self._num_classes, dtype=torch.int64)
        self._total: NDArray[np.int64] | None = None

    def update(self, output: tuple[Maps, Maps]) -> None:
        self._total = None
        for predicted, true in pairs_of_class_maps(*output, self._num_classes):
            counts = confusion_counts(predicted, true, self._num_classes, self._ignore_index)
            self._counts = self._counts.to(counts.device) + counts

    def compute(self) -> dict[str, float]:
        """The numbers; call it on all processes, all get the same."""
        matrix = self.matrix()
        scores = class_scores(matrix)
        pixels = int(matrix.sum())
        result = {"pixel_accuracy": int(np.diag(matrix).sum()) / pixels if pixels else -1.0}
        for name, values in (("accuracy", "accuracy"), ("IoU", "IoU"), ("dice", "dice")):
            result[f"mean_{name}"] = self._mean(scores[values])
        result["dice_foreground"] = self._mean(scores["dice"][1:])
        if self._per_class:
            for kind in ("IoU", "dice"):
                values = np.nan_to_num(scores[kind], nan=-1.0).tolist()
                result |= {f"{kind}/{name}": value for name, value in zip(self._names, values, strict=True)}
        return result

    def matrix(self) -> NDArray[np.int64]:
        """Pixels of all processes, int64 ``[C, C]``: a row for each true class, a column for each predicted one.

        Call it on all processes, or on any after :meth:`compute`.
        """
        if self._total is None:
            gathered = all_gather_arrays({"counts": self._counts.cpu().numpy()})
            total = np.sum([arrays["counts"] for arrays in gathered], axis=0)
            check_truth(int(total[-1].sum()), self._num_classes, self._ignore_index)
            self._total = total[:-1]
        return self._total

    def absent_classes(self) -> list[str]:
        """Names of the classes that no pixel of the truth has. Call it as :meth:`matrix`."""
        return [name for name, pixels in zip(self._names, self.matrix().sum(axis=1), strict=True) if pixels == 0]

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

    def _mean(self, values: NDArray[np.float64]) -> float:
        counted = values[~np.isnan(values)]
        if not len(counted):
            return -1.0
        return float(counted.sum() / (len(values) if self._absent_as_zero else len(counted)))


def confusion_counts(predicted: Tensor, true: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """:func:`pixel_confusion` of maps of one shape, with one more row: of true classes that cannot be.

    A single histogram of the pairs of classes, written as small integers where they fit.
    """
    if not true.numel():
        return torch.zeros(num_classes + 1, num_classes, dtype=torch.int64, device=true.device)
    lowest, highest = (int(value) for value in torch.aminmax(true))
    rows = 256
    if lowest < 0 or highest >= rows or num_classes >= rows or not 0 <= ignore_index < rows:
        rows, true = num_classes + 2, true.long()
        impossible = (true < 0) | (true >= num_classes)
        true = true.masked_fill(impossible, num_classes + 1).masked_fill_(true == ignore_index, num_classes)
        ignore_index = num_classes
    # Fewer bytes are faster on a CPU; elsewhere it does not matter.
    dtype = torch.int64
    if true.device.type == "cpu":
        dtype = torch.int16 if rows * num_classes < 2**15 else torch.int32
    pairs = true.to(dtype).mul(num_classes).add_(predicted)
    table = torch.bincount(pairs.flatten(), minlength=rows * num_classes).view(rows, num_classes)
    table[ignore_index] = 0
    return torch.cat([table[:num_classes], table[num_classes:].sum(dim=0, keepdim=True)])


def check_truth(impossible: int, num_classes: int, ignore_index: int) -> None:
    """Refuse truth in which ``impossible`` pixels have a class that cannot be.

    Raises:
        DataError: there are such pixels.
    """
    if impossible:
        raise DataError(
            f"the truth has {impossible} pixels whose class is neither in 0..{num_classes - 1} nor {ignore_index} "
            "(ignored); set num_classes, or let ignite-imgtools check name the files"
        )
