"""The mean of loss terms over a whole evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.metrics import Metric
from torch import Tensor

from ignite_imgtools.distributed import all_gather_arrays, all_gather_strings

__all__ = ["MeanLosses"]


class MeanLosses(Metric):
    """The mean of each loss term over the images of all processes, and ``loss``, the sum of these means.

    Reads ``losses`` (``{term: [batch_size]}``) and ``y`` (targets with ``image_id``) of the step's output. An image
    that is seen twice counts once; terms are added in the order of image ids in float64, so that the result does
    not depend on batches or processes. Values stay on the device until the end.
    """

    required_output_keys = ("losses", "y")

    def __init__(self) -> None:
        super().__init__(skip_unrolling=True, metrics_result_mode="flatten")

    def reset(self) -> None:
        self._image_ids: list[int] = []
        self._terms: list[str] = []
        self._values: list[Tensor] = []

    def update(self, output: tuple[Mapping[str, Tensor], Sequence[Mapping[str, Any]]]) -> None:
        """Take the losses of one batch.

        Raises:
            ValueError: the terms are not those of the batches before.
        """
        losses, targets = output
        if not targets:
            return
        if self._terms and self._terms != list(losses):
            raise ValueError(f"loss terms must be the same in all batches, got {list(losses)} after {self._terms}")
        self._terms = list(losses)
        self._image_ids += [int(target["image_id"]) for target in targets]
        self._values.append(torch.stack(list(losses.values()), dim=1))

    def compute(self) -> dict[str, float]:
        """``{"loss": mean, each term: mean}``, the same on every process; NaN where there were no images."""
        # A process without images knows no terms.
        named = max((json.loads(text) for text in all_gather_strings(json.dumps(self._terms))), key=len)
        values = torch.cat(self._values).double().cpu().numpy() if self._values else np.empty((0, len(named)))
        gathered = all_gather_arrays({"ids": np.array(self._image_ids, dtype=np.int64), "values": values})
        _, first = np.unique(np.concatenate([arrays["ids"] for arrays in gathered]), return_index=True)
        rows = np.concatenate([arrays["values"] for arrays in gathered])[first]
        means = rows.mean(axis=0).tolist() if len(rows) else [float("nan")] * len(named)
        return {"loss": sum(means) if len(rows) else float("nan"), **dict(zip(named, means, strict=True))}
