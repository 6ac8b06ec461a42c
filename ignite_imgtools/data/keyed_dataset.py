"""Loading the samples of a batch: with random numbers of their own, and with bad samples left out or reported."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, get_worker_info

from ignite_imgtools.distributed import keyed_seed, seed_all
from ignite_imgtools.formats import DataError, one_line

__all__ = ["KeyedDataset", "LoadFailure"]

_LOGGER = logging.getLogger("ignite_imgtools")

# When a batch has no good sample, so many others are tried before the whole data set is taken to be unreadable.
_MAX_BAD_IN_A_ROW = 100

_BAD = object()


@dataclass(frozen=True)
class LoadFailure:
    """Takes the place of a batch on its way out of a worker process: torch would wrap an error in two tracebacks."""

    message: str


class KeyedDataset(Dataset[Any]):
    """A data set whose samples depend on nothing but (seed, epoch, index).

    Before a sample is loaded, all generators of random numbers are seeded by its key, so its augmentation is the same
    in whichever process, after whatever came before. Outside of worker processes the states of the generators are
    then put back.

    Args:
        dataset: with ``dataset[index]`` and a length.
        seed: of the random numbers.
        skip_bad: leave samples out whose loading raises DataError or OSError.
        fill_empty: load the next good sample where a batch would be left empty.
        num_workers: how many worker processes load.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, *, skip_bad: bool, fill_empty: bool, num_workers: int):
        self.dataset, self.seed = dataset, seed
        self.skip_bad, self.fill_empty = skip_bad, fill_empty
        slots = max(1, num_workers)
        # Written by the workers, read by the main process: one slot for each, so no lock is needed.
        self._loading = torch.full((slots,), -1)
        self._skipped = torch.zeros(slots, dtype=torch.int64)
        self._bad = torch.zeros(len(self) if skip_bad else 0, dtype=torch.bool)
        if num_workers:
            for tensor in (self._loading, self._skipped, self._bad):
                tensor.share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # Dataset does not declare the length it must have

    def __getitem__(self, index: int) -> Any:
        samples = self.__getitems__([index])
        return samples[0] if isinstance(samples, list) else samples

    def __getitems__(self, indices: Sequence[int]) -> list[Any] | LoadFailure:
        """The samples of a batch; of the epoch ``indices.epoch``, or 0 where there is none, as in evaluation."""
        epoch = getattr(indices, "epoch", 0)
        if get_worker_info() is None:
            with _random_states_kept():
                return self._load_batch(indices, epoch)
        try:
            return self._load_batch(indices, epoch)
        except DataError as error:
            return LoadFailure(str(error))

    def count_skipped(self) -> int:
        """How many times a sample was left out, by all workers of this process."""
        return int(self._skipped.sum())

    def bad_indices(self) -> list[int]:
        """Indices of the samples that were left out, by all workers of this process."""
        return torch.nonzero(self._bad).flatten().tolist()

    def describe_loading(self, worker: int) -> str:
        """What a worker is loading, in words."""
        index = int(self._loading[worker])
        if index < 0:
            return "no sample"
        dataset: Any = self.dataset
        with contextlib.suppress(Exception):
            part = index
            while isinstance(dataset, Subset):
                dataset, part = dataset.dataset, dataset.indices[part]
            return one_line(f"sample {index} ({dataset.image_path(part)})")
        return f"sample {index}"

    def _load_batch(self, indices: Sequence[int], epoch: int) -> list[Any]:
        samples = [sample for sample in (self._load(index, epoch) for index in indices) if sample is not _BAD]
        if not samples and indices and self.fill_empty:
            samples = [self._load_next_good(indices[-1], epoch)]
        return samples

    def _load(self, index: int, epoch: int) -> Any:
        worker = get_worker_info()
        slot = 0 if worker is None else worker.id
        loading = self._loading.numpy()  # the same memory; a tensor's item costs 50 times as much to set
        loading[slot] = index
        seed_all(keyed_seed(self.seed, epoch, index))
        try:
            return self.dataset[index]
        except (DataError, OSError) as error:
            if not self.skip_bad:
                raise
            self._skipped[slot] += 1
            if not self._bad[index]:
                self._bad[index] = True
                _LOGGER.warning("sample %d is left out: %s", index, error)
            return _BAD
        except Exception as error:
            if hasattr(error, "add_note"):  # Python 3.11
                error.add_note(f"raised while sample {index} was loaded")
            raise
        finally:
            loading[slot] = -1

    def _load_next_good(self, index: int, epoch: int) -> Any:
        count = min(len(self), _MAX_BAD_IN_A_ROW)
        for step in range(1, count):
            sample = self._load((index + step) % len(self), epoch)
            if sample is not _BAD:
                return sample
        raise DataError(
            f"none of {count} samples in a row, from sample {index}, can be loaded (the warnings say why); "
            "correct the data set or the folder that it is read from"
        )


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    """Put back what :func:`~ignite_imgtools.distributed.seed_all` and the transforms do to random states."""
    state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002  the legacy state is what transforms draw from
    cuda_state = torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        torch.set_rng_state(state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state)
