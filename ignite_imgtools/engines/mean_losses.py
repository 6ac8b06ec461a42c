"""The mean of loss terms over a whole evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.metrics import Metric
from torch import Tensor

from ignite_imgtools.distributed import all_gather_arrays, all_gather_strings

__all__ = ["MeanDenseLosses", "MeanLosses"]


class _LossesOfImages(Metric):
    """Keeps the loss terms of each image; values stay on the device until the end."""

    def __init__(self) -> None:
        super().__init__(skip_unrolling=True, metrics_result_mode="flatten")

    def reset(self) -> None:
        self._terms: list[str] = []
        self._values: list[Tensor] = []

    def _append(self, losses: Mapping[str, Tensor]) -> None:
        if self._terms and self._terms != list(losses):
            raise ValueError(f"loss terms must be the same in all batches, got {list(losses)} after {self._terms}")
        self._terms = list(losses)
        self._values.append(torch.stack(list(losses.values()), dim=1))

    def _gathered(self, **arrays: np.ndarray) -> tuple[list[str], np.ndarray, list[dict[str, np.ndarray]]]:
        """The names of the terms, their values ``[images, terms]`` and ``arrays``, of all processes in their order."""
        # A process without images knows no terms.
        terms = max((json.loads(text) for text in all_gather_strings(json.dumps(self._terms))), key=len)
        values = torch.cat(self._values).double().cpu().numpy() if self._values else np.empty((0, len(terms)))
        gathered = all_gather_arrays({"values": values, **arrays})
        return terms, np.concatenate([of_process["values"] for of_process in gathered]), gathered


class MeanLosses(_LossesOfImages):
    """The mean of each loss term over the images of all processes, and ``loss``, the sum of these means.

    Reads ``losses`` (``{term: [batch_size]}``) and ``y`` (targets with ``image_id``) of the step's output. An image
    that is seen twice counts once; terms are added in the order of image ids in float64, so that the result does
    not depend on batches or processes. Values stay on the device until the end.
    """

    required_output_keys = ("losses", "y")

    def reset(self) -> None:
        super().reset()
        self._image_ids: list[int] = []

    def update(self, output: tuple[Mapping[str, Tensor], Sequence[Mapping[str, Any]]]) -> None:
        """Take the losses of one batch.

        Raises:
            ValueError: the terms are not those of the batches before.
        """
        losses, targets = output
        if targets:
            self._append(losses)
            self._image_ids += [int(target["image_id"]) for target in targets]

    def compute(self) -> dict[str, float]:
        """``{"loss": mean, each term: mean}``, the same on every process; NaN where there were no images."""
        terms, values, gathered = self._gathered(ids=np.array(self._image_ids, dtype=np.int64))
        _, first = np.unique(np.concatenate([of_process["ids"] for of_process in gathered]), return_index=True)
        means = values[first].mean(axis=0).tolist() if len(first) else [math.nan] * len(terms)
        return {"loss": sum(means) if len(first) else math.nan, **dict(zip(terms, means, strict=True))}


class MeanDenseLosses(_LossesOfImages):
    """The mean of each loss term over the images of all processes, and ``loss``, the sum of these means; images need
    no ids.

    Reads ``losses`` (``{term: [batch_size]}``) of the step's output. The exact sum is rounded once (``math.fsum``),
    so that the result does not depend on the order of images, on batches or processes. A term that is not a number,
    as the mean over an image without any pixel to learn from, is left out of its mean. Values stay on the device until
    the end.
    """

    required_output_keys = ("losses",)

    def update(self, output: tuple[Mapping[str, Tensor]]) -> None:
        """Take the losses of one batch.

        Raises:
            ValueError: the terms are not those of the batches before.
        """
        (losses,) = output
        if losses:
            self._append(losses)

    def compute(self) -> dict[str, float]:
        """``{"loss": mean, each term: mean}``, the same on every process; NaN where there were no images."""
        terms, values, _ = self._gathered()
        means = [_mean(column[~np.isnan(column)].tolist()) for column in values.T]
        return {"loss": math.fsum(means) if means else math.nan, **dict(zip(terms, means, strict=True))}


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
