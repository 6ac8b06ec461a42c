"""Parts of data sets: made by a split, and looked through to the whole."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset, Subset

from ignite_imgtools.distributed import keyed_seed
from ignite_imgtools.formats import DataError

__all__ = ["category_ids", "class_names", "split_dataset", "unwrap_subset"]


def split_dataset(
    dataset: Dataset[Any], val_fraction: float, seed: int, source: object = "the data set"
) -> tuple[Subset[Any], Subset[Any]]:
    """Split a data set at random, always the same way for the same seed and number of samples.

    Args:
        dataset: at least 2 samples.
        val_fraction: share of the second part, between 0 and 1; both parts get at least one sample.
        seed: chooses the split.
        source: names the data set in errors.

    Returns:
        The parts for training and for validation, samples in the order of the data set.

    Raises:
        ValueError: ``val_fraction`` is not between 0 and 1.
        DataError: there are fewer than 2 samples.
    """
    total = len(cast(Sized, dataset))
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must lie between 0 and 1, got {val_fraction}")
    if total < 2:
        raise DataError(f"{source}: expected 2 samples or more, one of them to validate with, got {total}; add images")
    num_val = min(max(round(total * val_fraction), 1), total - 1)
    # A sample's rank is a hash of its own, so that it does not depend on a generator of some version.
    order = sorted(range(total), key=lambda index: keyed_seed(seed, index))
    return Subset(dataset, sorted(order[num_val:])), Subset(dataset, sorted(order[:num_val]))


def unwrap_subset(dataset: Dataset[Any]) -> tuple[Dataset[Any], np.ndarray | None]:
    """The data set inside subsets, however they are nested, and which of its samples they hold.

    Returns:
        The data set and the indices, int64; ``None`` instead of them if it is no subset.
    """
    indices = None
    while isinstance(dataset, Subset):
        chosen = np.asarray(dataset.indices, dtype=np.int64)
        indices = chosen if indices is None else chosen[indices]
        dataset = dataset.dataset
    return dataset, indices


def class_names(dataset: Dataset[Any]) -> list[str]:
    """Name of each label, of a data set that has ``class_names`` or of a subset of one.

    Raises:
        TypeError: it has no ``class_names``.
    """
    base, _ = unwrap_subset(dataset)
    names = getattr(base, "class_names", None)
    if names is None:
        raise TypeError(
            f"{type(base).__name__} has no class_names: give it the list of the names of its labels, "
            "the background's at 0"
        )
    return list(names)


def category_ids(dataset: Dataset[Any]) -> dict[int, int] | None:
    """The id in the data set's own annotation file of each label, of a data set that has ``category_ids`` or of a
    subset of one; ``None`` for others."""
    ids: dict[int, int] | None = getattr(unwrap_subset(dataset)[0], "category_ids", None)
    return ids
