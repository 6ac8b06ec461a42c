"""The mean of loss terms over the images of an evaluation, where images have no ids."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
import torch
from ignite.metrics import Metric
from torch import Tensor

from ignite_imgtools.distributed import all_gather_arrays, all_gather_strings

__all__ = ["MeanDenseLosses"]


class MeanDenseLosses(Metric):
    """The mean of each loss term over the images of all processes, and ``loss``, the sum of these means.

    Reads ``losses`` (``{term: [batch_size]}``) of the step's output. The exact sum is rounded once (``math.fsum``),
    so that the result does not depend on the order of images, on batches or processes. A term that is not a number,
    as the mean over an image without any pixel to learn from, is left out of its mean. Values stay on the device until
    the end.
    """

    required_output_keys = ("losses",)

    def __init__(self) -> None:
        super().__init__(skip_unrolling=True, metrics_result_mode="flatten")

    def reset(self) -> None:
        self._terms: list[str] = []
        self._values: list[Tensor] = []

    def update(self, output: tuple[Mapping[str, Tensor]]) -> None:
        """Take the losses of one batch.

        Raises:
            ValueError: the terms are not those of the batches before.
        """
        (losses,) = output
        if not losses:
            return
        if self._terms and self._terms != list(losses):
            raise ValueError(f"loss terms must be the same in all batches, got {list(losses)} after {self._terms}")
        self._terms = list(losses)
        self._values.append(torch.stack(list(losses.values()), dim=1))

    def compute(self) -> dict[str, float]:
        """``{"loss": mean, each term: mean}``, the same on every process; NaN where there were no images."""
        # A process without images knows no terms.
        named = max((json.loads(text) for text in all_gather_strings(json.dumps(self._terms))), key=len)
        values = torch.cat(self._values).double().cpu().numpy() if self._values else np.empty((0, len(named)))
        rows = np.concatenate([arrays["values"] for arrays in all_gather_arrays({"values": values})])
        means = [_mean(column[~np.isnan(column)].tolist()) for column in rows.T]
        return {"loss": math.fsum(means) if means else math.nan, **dict(zip(named, means, strict=True))}


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
