"""Random numbers that depend on a seed and on keys, and on nothing that was drawn before."""

from __future__ import annotations

import functools
import math
import os
import random
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch

from ignite_imgtools.distributed.gather import all_gather_arrays

__all__ = ["HostGenerators", "keyed_seed", "seed_all", "seed_step"]

_MASK64 = (1 << 64) - 1
_STEPS = int.from_bytes(b"steps", "big")  # apart from the streams of (seed, epoch, image)
_HAS_PROCESSES = torch.distributed.is_available()


def keyed_seed(seed: int, *keys: int) -> int:
    """A 63-bit seed that is a pure function of ``seed`` and ``keys``, each combination giving another stream.

    Keys are mixed in with the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), so that neighbouring
    epochs, indices and ranks share nothing.

    >>> keyed_seed(0, 1, 2) == keyed_seed(0, 1, 2), keyed_seed(0, 1, 2) == keyed_seed(0, 2, 1)
    (True, False)
    """
    return functools.reduce(_mixed, (seed, *keys), 0) >> 1


def _mixed(state: int, key: int) -> int:
    state = (state + key + 0x9E3779B97F4A7C15) & _MASK64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
    return state ^ (state >> 31)


def seed_all(seed: int) -> None:
    """Seed torch's generators of the CPU and the current device, ``random`` and ``numpy.random``.

    Unlike ``torch.manual_seed`` it touches the current CUDA device alone, and nothing of CUDA before its first use.
    """
    _seed_torch(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  # users' data sets draw from it


def _seed_torch(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


def seed_step(seed: int, iteration: int) -> None:
    """Seed what a training step draws (dropout, the sampling of proposals) by (seed, rank, iteration).

    Nothing that torch draws then depends on what was drawn before, so a resumed run draws what the uninterrupted one
    would have. ``random`` and ``numpy.random`` are slower to seed: they are seeded in iteration 1 and go on from
    there, and checkpoints hold where they are (:class:`HostGenerators`).

    Which process this is, and whether there is CUDA at all, is looked up where an epoch of a trainer of
    :mod:`ignite_imgtools.engines` begins; the rank also wherever ``iteration`` is not the one after that of the call
    before.
    """
    global _newest
    newest = _newest
    if newest is None or newest.seed != seed or newest.iteration + 1 != iteration:
        newest = _Seeded(seed, iteration, _state_of_rank(seed), _has_cuda())
    newest.iteration = iteration
    _newest = newest
    key = _mixed(newest.state, iteration) >> 1
    if iteration == 1:
        seed_all(key)
    elif newest.has_cuda:
        _seed_torch(key)
    else:
        torch.default_generator.manual_seed(key)


class _Seeded:
    """What the newest call of :func:`seed_step` knew; to look it up again takes longer than all else that it does."""

    __slots__ = ("has_cuda", "iteration", "seed", "state")

    def __init__(self, seed: int, iteration: int, state: int, has_cuda: bool):
        self.seed, self.iteration, self.state, self.has_cuda = seed, iteration, state, has_cuda


_newest: _Seeded | None = None


def look_up_again() -> None:
    """Let :func:`seed_step` look up in its next call which process this is, and whether there is CUDA."""
    global _newest
    _newest = None
    _has_cuda.cache_clear()


@functools.cache
def _has_cuda() -> bool:
    return torch.cuda.device_count() > 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=look_up_again)


def _state_of_rank(seed: int) -> int:
    return functools.reduce(_mixed, (seed, _STEPS, _rank()), 0)


def _rank() -> int:
    # idist.get_rank() looks at all that could have started processes, which takes a hundred times as long.
    return torch.distributed.get_rank() if _HAS_PROCESSES and torch.distributed.is_initialized() else 0


class HostGenerators:
    """The states of ``random`` and ``numpy.random`` as part of the checkpoints of a trainer.

    What is loaded takes effect by :meth:`restore`, when all is over that a run does before it goes on.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, np.ndarray] | None = None

    def restore(self) -> None:
        """Put the generators where the newest :meth:`load_state_dict` says, once."""
        if self._loaded is not None:
            state, self._loaded = self._loaded, None
            _set_host_generators(state)

    def state_dict(self) -> dict[str, Any]:
        """The states of every process, by rank, as tensors. Call it on every process."""
        gathered = all_gather_arrays(_host_generators() if self._loaded is None else self._loaded)
        return {"processes": [{k: torch.from_numpy(v.copy()) for k, v in arrays.items()} for arrays in gathered]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`; processes beyond those that wrote it begin anew.

        Raises:
            ValueError: it holds something else.
        """
        processes, rank = state["processes"], idist.get_rank()
        own = {key: value.numpy().copy() for key, value in processes[rank % len(processes)].items()}
        if own["random"].shape != (_MT_WORDS + 1,) or own["numpy"].shape != (_MT_WORDS + 1,):
            raise ValueError(f"expected the states of two generators of {_MT_WORDS} words")
        if rank >= len(processes):
            for key in ("random", "numpy"):
                own[key][:-1] = np.random.default_rng([*own[key][:-1], rank]).integers(2**32, size=_MT_WORDS)
        self._loaded = own


_MT_WORDS = 624  # of the Mersenne Twister's state


def _host_generators() -> dict[str, np.ndarray]:
    _, words, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=False)  # noqa: NPY002  # users' code draws from it
    return {
        "random": np.array(words, np.int64),
        "random_gauss": np.array([math.nan if gauss is None else gauss]),
        "numpy": np.append(legacy["state"]["key"].astype(np.int64), legacy["state"]["pos"]),
        "numpy_gauss": np.array([legacy["gauss"] if legacy["has_gauss"] else math.nan]),
    }


def _set_host_generators(state: Mapping[str, np.ndarray]) -> None:
    gauss = {key: float(state[f"{key}_gauss"][0]) for key in ("random", "numpy")}
    random.setstate((3, tuple(state["random"].tolist()), None if math.isnan(gauss["random"]) else gauss["random"]))
    key, position = state["numpy"][:-1].astype(np.uint32), int(state["numpy"][-1])
    cached = not math.isnan(gauss["numpy"])
    np.random.set_state(("MT19937", key, position, int(cached), gauss["numpy"] if cached else 0.0))  # noqa: NPY002
