"""Random numbers that depend on a seed and on keys, and on nothing that was drawn before."""

from __future__ import annotations

import random

import ignite.distributed as idist
import numpy as np
import torch

__all__ = ["keyed_seed", "seed_all", "seed_step"]

_MASK64 = (1 << 64) - 1


def keyed_seed(seed: int, *keys: int) -> int:
    """A 63-bit seed that is a pure function of ``seed`` and ``keys``, each combination giving another stream.

    Keys are mixed in with the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), so that neighbouring
    epochs, indices and ranks share nothing.

    >>> keyed_seed(0, 1, 2) == keyed_seed(0, 1, 2), keyed_seed(0, 1, 2) == keyed_seed(0, 2, 1)
    (True, False)
    """
    state = 0
    for key in (seed, *keys):
        state = (state + key + 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state >> 1


def seed_all(seed: int) -> None:
    """Seed torch's generators of the CPU and the current device, ``random`` and ``numpy.random``.

    Unlike ``torch.manual_seed`` it touches the current CUDA device alone, and nothing of CUDA before its first use.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  # users' data sets draw from it


def seed_step(seed: int, iteration: int) -> None:
    """Seed what a training step draws (dropout, the sampling of proposals) by (seed, iteration, rank).

    Nothing then depends on what was drawn before, so a resumed run draws what the uninterrupted one would have.
    """
    seed_all(keyed_seed(seed, iteration, idist.get_rank()))
