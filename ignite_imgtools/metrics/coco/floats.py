"""Columns of floats that are single precision unless that would change them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["compact_floats", "join_double", "split_double"]


def compact_floats(values: NDArray[Any]) -> NDArray[Any]:
    """Values of any shape as float32 if that loses nothing, else as float64."""
    if values.dtype == np.float32:
        return values
    values = values.astype(np.float64, copy=False)
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    return single if np.array_equal(single, values) else values


def split_double(name: str, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Values as two arrays of fixed dtypes, ``name`` and ``name_double``, one of them empty.

    So processes exchange them without first agreeing on a dtype.
    """
    single = values.dtype == np.float32
    return {
        name: values if single else np.zeros_like(values[:0], dtype=np.float32),
        f"{name}_double": values[:0].astype(np.float64) if single else values,
    }


def join_double(name: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The inverse of :func:`split_double`."""
    return arrays[name] if len(arrays[name]) else arrays[f"{name}_double"]
