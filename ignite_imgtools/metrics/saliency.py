"""Mean absolute error and the largest F measure of maps of salient objects."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.metrics import Metric
from numpy.typing import NDArray
from torch import Tensor

from ignite_imgtools.metrics.image_rows import ImageRows

__all__ = ["SaliencyMetric", "f_measure", "saliency_counts", "saliency_curves"]

Curves = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

_THRESHOLDS = 255
# An error of 1; a float32 above 2^-7 is a multiple of its inverse, so nothing of any weight is lost.
_ONE = 2**30
_WIDTH = 2 * _THRESHOLDS + 2


def saliency_counts(probs: Tensor, truth: Tensor) -> Tensor:
    """The integers from which the numbers of one image follow.

    Sums of integers are the same in any order, so on any number of threads and in any batch.

    Args:
        probs: ``[H, W]``, floating point in 0..1.
        truth: ``[H, W]`` in 0..1; above 0.5 is salient.

    Returns:
        int64 ``[512]`` on the device of ``probs``: how many pixels are not salient and how many are, for
        ``floor(255 p)`` of 0..254, where 1 belongs to the last; the sum of ``|p - truth|`` in units of ``2^-30``; and
        the number of pixels.
    """
    probs, truth = probs.float(), truth.to(probs.device, torch.float32)
    error = probs.mul(_ONE).to(torch.int32).sub_(truth.mul(_ONE).to(torch.int32)).abs_().sum(dtype=torch.int64)
    level = probs.mul(_THRESHOLDS).clamp_(max=_THRESHOLDS - 1).to(torch.int16)
    level.add_(truth > 0.5, alpha=_THRESHOLDS)
    histogram = torch.bincount(level.flatten(), minlength=2 * _THRESHOLDS)
    return torch.cat([histogram, error.view(1), error.new_full((1,), truth.numel())])


def saliency_curves(histograms: NDArray[np.int64]) -> Curves:
    """Precision and recall at each threshold, averaged over images.

    At threshold ``k / 255`` the pixels with ``floor(255 p) >= k`` are found. Precision is 0 where nothing is found,
    recall is 0 where nothing is salient.

    Args:
        histograms: ``[N, 2, 255]``, counts of not salient and salient pixels.

    Returns:
        ``(precision, recall, thresholds)``, float64 ``[255]``, thresholds 0, 1/255, ..., 254/255.
    """
    found = histograms[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
    hits, all_found = found[:, 1], found.sum(axis=1)
    precision = hits / np.maximum(all_found, 1)
    recall = hits / np.maximum(hits[:, :1], 1)
    # Exact sums, so that the order of the images does not matter.
    means = [np.array([math.fsum(c) / max(len(v), 1) for c in v.T.tolist()]) for v in (precision, recall)]
    return means[0], means[1], np.arange(_THRESHOLDS) / _THRESHOLDS


def f_measure(
    precision: NDArray[np.float64], recall: NDArray[np.float64], beta_squared: float = 0.3
) -> NDArray[np.float64]:
    """``(1 + b) P R / (b P + R)``, 0 where both are 0; ``b`` below 1 gives precision more weight (Achanta et al. 2009).

    Args:
        precision: in 0..1, of any shape.
        recall: of the same shape.
        beta_squared: ``b``.
    """
    below = beta_squared * precision + recall
    return np.where(below > 0, (1 + beta_squared) * precision * recall / np.where(below > 0, below, 1), 0.0)


class SaliencyMetric(Metric):
    """Mean absolute error and the largest F measure of maps of salient objects, over images of any sizes.

    ``update`` takes ``(y_pred, y)``: two tensors ``[B, 1, H, W]`` or two lists of ``[1, H, W]``, ``[1, 1, H, W]`` or
    ``[H, W]``; the truth in 0..1. Errors are averaged over the pixels of an image and then over the images;
    precision and recall at 255 thresholds are averaged over the images, and the F measure is that of these means.
    Integers are kept for each image, on the device, and what follows from them is added exactly, so that the result
    does not depend on batches, order or the number of processes.

    The result is ``{"MAE": ..., "max_F": ...}``, in 0..1, which ignite puts into ``engine.state.metrics``; -1 where
    there was no image.

    Args:
        from_logits: ``y_pred`` is before the sigmoid; else it is in 0..1.
        beta_squared: of the F measure; 0.3 by custom.
        output_transform: from the engine's output to ``(y_pred, y)`` or a dict with these keys.

    Raises:
        ValueError: shapes do not fit, or a value is NaN or not in 0..1.

    >>> metric = SaliencyMetric(from_logits=False)
    >>> metric.update((torch.tensor([[[[0.9, 0.2, 0.6]]]]), torch.tensor([[[[1.0, 0.0, 0.0]]]])))
    >>> {name: round(value, 3) for name, value in metric.compute().items()}
    {'MAE': 0.3, 'max_F': 1.0}
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        beta_squared: float = 0.3,
        output_transform: Callable[[Any], Any] = lambda output: output,
    ):
        self._from_logits, self._beta_squared = from_logits, beta_squared
        super().__init__(output_transform, skip_unrolling=True, metrics_result_mode="flatten")

    def reset(self) -> None:
        self._rows = ImageRows(_WIDTH)
        self._curves: Curves | None = None

    def update(self, output: tuple[Tensor | Sequence[Tensor], Tensor | Sequence[Tensor]]) -> None:
        y_pred, y = output
        if len(y_pred) != len(y):
            raise ValueError(f"one prediction for each target is needed, got {len(y_pred)} and {len(y)}")
        self._curves = None
        # One by one: the last bit of a sigmoid may depend on a pixel's place in the batch.
        for predicted, true in zip(y_pred, y, strict=True):
            predicted, true = _as_map(predicted, "y_pred"), _as_map(true, "y")
            if predicted.shape != true.shape:
                raise ValueError(f"y_pred and y must be of one size, got {[*predicted.shape]} and {[*true.shape]}")
            if true.numel() == 0:
                raise ValueError(f"an image must have pixels, got {[*true.shape]}")
            probs = predicted.float().sigmoid() if self._from_logits else predicted
            _check_range(probs, "y_pred" if not self._from_logits else "the sigmoid of y_pred")
            _check_range(true, "y")
            self._rows.add(saliency_counts(probs, true))

    def compute(self) -> dict[str, float]:
        """The numbers; call it on all processes, all get the same."""
        rows = self._rows.gather()
        if not len(rows):
            return {"MAE": -1.0, "max_F": -1.0}
        errors = rows[:, -2] / (rows[:, -1] * float(_ONE))
        precision, recall, _ = self.curves()
        return {
            "MAE": math.fsum(errors.tolist()) / len(rows),
            "max_F": float(f_measure(precision, recall, self._beta_squared).max()),
        }

    def curves(self) -> Curves:
        """``(precision, recall, thresholds)``, float64 ``[255]``, all 0 where there was no image.

        Call it on all processes, or on any after :meth:`compute`.
        """
        if self._curves is None:
            self._curves = saliency_curves(self._rows.gather()[:, :-2].reshape(-1, 2, _THRESHOLDS))
        return self._curves

    def state_dict(self) -> OrderedDict[str, Any]:
        """What this process has counted; unlike most metrics of ignite it speaks to no other process."""
        return self._rows.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`.

        Raises:
            ValueError: it is of another metric.
        """
        self._rows.load_state_dict(state_dict)
        self._curves = None


def _as_map(image: Tensor, name: str) -> Tensor:
    if image.ndim < 2 or image.shape[:-2].numel() != 1:
        raise ValueError(f"{name} must have one map for each image, got an image of {[*image.shape]}")
    return image.detach().reshape(image.shape[-2:])


def _check_range(values: Tensor, name: str) -> None:
    lowest, highest = (float(value) for value in torch.aminmax(values))
    if not (lowest >= 0 and highest <= 1):  # NaN fails too
        raise ValueError(f"{name} must be in 0..1, got {lowest:g}..{highest:g}")
