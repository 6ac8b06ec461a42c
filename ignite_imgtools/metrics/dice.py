"""The Dice coefficient of each image's foreground, averaged over the images."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from ignite.metrics import Metric
from numpy.typing import NDArray

from ignite_imgtools.metrics.class_maps import Maps, pairs_of_class_maps
from ignite_imgtools.metrics.image_rows import ImageRows
from ignite_imgtools.metrics.segmentation import check_truth, confusion_counts

__all__ = ["DiceMetric", "dice_per_image"]


def dice_per_image(overlap: NDArray[np.int64], total: NDArray[np.int64]) -> NDArray[np.float64]:
    """The Dice coefficients ``2 overlap / total``, 1 where an image neither has nor predicts a class.

    Args:
        overlap: pixels of each image and class in the truth and in the prediction, of any shape.
        total: pixels in the truth plus pixels in the prediction.
    """
    return np.where(total > 0, 2 * overlap / np.maximum(total, 1), 1.0)


class DiceMetric(Metric):
    """The Dice coefficient of the predicted classes, averaged over the foreground classes and then over the images.

    This is the measure by which U-Nets are compared on DRIVE; ``mean_dice`` of :class:`SegmentationMetric` pools the
    pixels of all images instead. ``update`` takes the same as there. Integers are kept for each image, and their
    ratios added exactly, so that the result does not depend on batches, order or the number of processes.

    The result is a number in 0..1, or -1 where there was no image.

    Args:
        num_classes: C, the background among them, which is class 0; at least 2.
        ignore_index: pixels whose true class this is do not count.
        output_transform: from the engine's output to ``(y_pred, y)`` or a dict with these keys.

    Raises:
        ValueError: an argument is out of its range, or shapes or predicted classes do not fit.
        DataError: in :meth:`compute`, on all processes: a true class is neither in 0..C-1 nor ``ignore_index``.

    >>> metric = DiceMetric(2)
    >>> metric.update((torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 0, 1, 255]]])))
    >>> round(metric.compute(), 3)
    0.667
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        output_transform: Callable[[Any], Any] = lambda output: output,
    ):
        if num_classes < 2:
            raise ValueError(f"num_classes counts the background and must be at least 2, got {num_classes}")
        self._num_classes, self._ignore_index = num_classes, ignore_index
        super().__init__(output_transform, skip_unrolling=True)

    def reset(self) -> None:
        # For each image the overlap of each foreground class, the total of each, and pixels whose class cannot be.
        self._rows = ImageRows(2 * (self._num_classes - 1) + 1)

    def update(self, output: tuple[Maps, Maps]) -> None:
        for predicted, true in pairs_of_class_maps(*output, self._num_classes):
            for image in range(len(true)):
                counts = confusion_counts(predicted[image], true[image], self._num_classes, self._ignore_index)
                matrix = counts[:-1]
                total = matrix.sum(dim=0) + matrix.sum(dim=1)
                self._rows.add(torch.cat([matrix.diagonal()[1:], total[1:], counts[-1].sum().view(1)]))

    def compute(self) -> float:
        """The number; call it on all processes, all get the same."""
        rows = self._rows.gather()
        check_truth(int(rows[:, -1].sum()), self._num_classes, self._ignore_index)
        if not len(rows):
            return -1.0
        foreground = self._num_classes - 1
        dice = dice_per_image(rows[:, :foreground], rows[:, foreground:-1])
        return math.fsum(math.fsum(image) / foreground for image in dice.tolist()) / len(rows)

    def state_dict(self) -> OrderedDict[str, Any]:
        """What this process has counted; unlike most metrics of ignite it speaks to no other process."""
        return self._rows.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a metric with the same number of classes.

        Raises:
            ValueError: it is of another number of classes.
        """
        self._rows.load_state_dict(state_dict)
