"""A row of integers for each image, kept where it was computed and exchanged once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ignite_imgtools.distributed import all_gather_arrays

__all__ = ["ImageRows"]


class ImageRows:
    """What a metric that is a mean over images knows of each.

    Args:
        width: integers in a row.
    """

    def __init__(self, width: int):
        self._width = width
        self._on_host = torch.zeros(0, width, dtype=torch.int64)
        self._on_device: list[Tensor] = []
        self._gathered: NDArray[np.int64] | None = None

    def add(self, row: Tensor) -> None:
        """Add the row of an image, int64 ``[width]`` on any device, the same for all."""
        self._on_device.append(row)
        self._gathered = None

    def gather(self) -> NDArray[np.int64]:
        """The rows of all processes, int64 ``[N, width]``, by rank; call it on all processes."""
        if self._gathered is None:
            gathered = all_gather_arrays({"rows": self._own().numpy()})
            self._gathered = np.concatenate([arrays["rows"] for arrays in gathered])
        return self._gathered

    def state_dict(self) -> OrderedDict[str, Any]:
        """The rows of this process."""
        return OrderedDict(rows=self._own().clone())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the rows of a :meth:`state_dict` in the place of one's own.

        Raises:
            ValueError: they are of another width.
        """
        rows = state_dict["rows"]
        if rows.shape[1:] != (self._width,):
            raise ValueError(f"the state has rows of {list(rows.shape[1:])} integers, the metric of [{self._width}]")
        self._on_host, self._on_device, self._gathered = rows.cpu().clone(), [], None

    def _own(self) -> Tensor:
        if self._on_device:
            # One transfer for all images.
            self._on_host = torch.cat([self._on_host, torch.stack(self._on_device).cpu()])
            self._on_device = []
        return self._on_host
