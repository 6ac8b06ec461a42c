"""A few images of an evaluation, the same ones at any number of processes, batch size and order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import ignite.distributed as idist
import numpy as np

from ignite_imgtools.distributed import all_gather_arrays

__all__ = ["ChosenImages", "prediction_and_truth"]

Content = TypeVar("Content")

_NOTHING = np.empty((0, 0, 3), dtype=np.uint8)


def prediction_and_truth(output: Any) -> tuple[Any, Any]:
    """``y_pred`` and ``y`` of what an evaluation step returns: a dict with these keys, or a pair as metrics take it.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(output, Mapping) and {"y_pred", "y"} <= output.keys():
        return output["y_pred"], output["y"]
    if isinstance(output, tuple | list) and len(output) == 2:
        return output[0], output[1]
    got = f"a dict with {sorted(map(str, output))}" if isinstance(output, Mapping) else f"a {type(output).__name__}"
    raise TypeError(
        f"pictures of an evaluation need a step that returns {{'y_pred': ..., 'y': ...}} or (y_pred, y), got {got}"
    )


class ChosenImages(Generic[Content]):
    """Keeps what belongs to the images of the smallest keys, of those that all processes have seen.

    Args:
        num_images: how many are kept.
    """

    def __init__(self, num_images: int):
        self._num_images = num_images
        self._kept: dict[int, tuple[int, Content]] = {}

    def clear(self) -> None:
        """Forget all of them."""
        self._kept.clear()

    def wants(self, key: int) -> bool:
        """Whether an image with this key would be kept, as far as this process knows."""
        return key not in self._kept and (len(self._kept) < self._num_images or key < max(self._kept))

    def add(self, key: int, order: int, content: Content) -> None:
        """Keep an image.

        Args:
            key: a number from 0 below 2**63 that depends on the image alone.
            order: in which pictures are returned.
            content: what to draw it from.
        """
        self._kept[key] = (order, content)
        if len(self._kept) > self._num_images:
            del self._kept[max(self._kept)]

    def gather(self, draw: Callable[[Content], np.ndarray]) -> list[np.ndarray]:
        """The pictures of all processes, in order; call it on all of them.

        Processes agree on the images first, and then only those who have seen one of them draw and send it.

        Args:
            draw: makes a picture, uint8 ``[H, W, 3]``.
        """
        own = sorted(self._kept)
        keys = all_gather_arrays({"keys": np.array(own, dtype=np.int64)})
        # An image that two processes have seen is drawn by the lower rank.
        owners: dict[int, int] = {}
        for rank, arrays in enumerate(keys):
            for key in arrays["keys"].tolist():
                owners.setdefault(key, rank)
        winners = sorted(owners)[: self._num_images]
        mine = idist.get_rank()
        sent = {
            f"{i:04d}": draw(self._kept[key][1]) if owners[key] == mine else _NOTHING for i, key in enumerate(winners)
        }
        orders = np.array([self._kept[key][0] if owners[key] == mine else 0 for key in winners], dtype=np.int64)
        received = all_gather_arrays({**sent, "orders": orders})
        found = [
            (int(received[owners[key]]["orders"][i]), received[owners[key]][f"{i:04d}"])
            for i, key in enumerate(winners)
        ]
        return [picture for _, picture in sorted(found, key=lambda pair: pair[0])]
