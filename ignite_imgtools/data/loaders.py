"""Loaders that go on exactly where they were stopped, whatever the number of processes and of workers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from ignite_imgtools.data.batch_packing import PackedBatch, pack_batch
from ignite_imgtools.data.device_batches import BatchMover
from ignite_imgtools.data.groups import aspect_ratio_groups, padded_shape_groups
from ignite_imgtools.data.keyed_dataset import KeyedDataset, LoadFailure
from ignite_imgtools.data.samplers import EvalSampler, GroupedBatchSampler
from ignite_imgtools.distributed import keyed_seed
from ignite_imgtools.formats import DataError, DetectionBatch
from ignite_imgtools.free_memory import give_back_free_memory

__all__ = ["SampleLoader", "collate_detection", "create_loader"]

# How long a worker whose connection broke may take to be gone, in seconds.
_SECONDS_TO_END = 10
# How long a worker outlives a signal to end that is not from its main process, in seconds.
_GRACE = 30


def collate_detection(samples: Sequence[tuple[Tensor, Mapping[str, Any]]]) -> DetectionBatch:
    """Make a detection batch of samples: images keep their sizes, so they stay a list.

    Args:
        samples: pairs of an image ``[3, H, W]`` and its target.

    Returns:
        ``(images, targets)``, tv_tensors made plain tensors; ``([], [])`` for no samples.

    Raises:
        TypeError: the samples are of another task.
    """
    for sample in samples:
        if not (isinstance(sample, Sequence) and len(sample) == 2 and isinstance(sample[1], Mapping)):
            raise TypeError(
                f"collate_detection needs samples (image, target) with a dict as target, got {_kind(sample)}: give "
                "create_loader the collate_fn of the task, for one tensor each torch.utils.data.default_collate"
            )
    images = [_plain(image) for image, _ in samples]
    targets = [{key: _plain(value) for key, value in target.items()} for _, target in samples]
    return images, targets  # type: ignore[return-value]  # a TypedDict cannot be made key by key


class SampleLoader(DataLoader[Any]):
    """What :func:`create_loader` returns: a ``DataLoader`` whose errors name the sample, and that counts bad ones.

    ``batch_sampler`` is a :class:`~ignite_imgtools.data.GroupedBatchSampler` or an
    :class:`~ignite_imgtools.data.EvalSampler`; ``dataset.dataset`` is the data set it was made for.
    """

    dataset: KeyedDataset
    _mover: BatchMover | None = None
    _guard: weakref.finalize[..., Any] | None = None
    _workers: tuple[Any, ...] = ()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches.

        Raises:
            DataError: a sample is bad, and bad samples are not to be skipped.
            RuntimeError: a worker died, or took longer than ``timeout`` for a batch; names what it was loading.
        """
        kept: Any = self._iterator
        if kept is not None and any(map(_has_ended, getattr(kept, "_workers", ()))):
            self._end_workers(kept)  # one was killed while nobody waited for a batch
        if self.num_workers and not (self.persistent_workers and self._iterator is not None):
            self._spare_forks()
        # The iterator is made now, as DataLoader does, and with it the place in the sampler is taken.
        iterator = super().__iter__()
        if self.persistent_workers and self._guard is None:
            self._guard = weakref.finalize(self, _shut_down, iterator, os.getpid())
        if self.num_workers:
            self._workers = tuple(getattr(iterator, "_workers", ()))
            _loaders.add(self)
            _name_samples_of_killed_workers()
        return self._checked_batches(iterator)

    def _spare_forks(self) -> None:
        # A fork shares the pages of this process until they are written. Those of freed tensors are, soon and here,
        # and the worker would then hold a copy of each to its end. So they go back to the system before.
        context = self.multiprocessing_context or multiprocessing
        if context.get_start_method() == "fork":
            give_back_free_memory()

    def skipped_samples(self) -> int:
        """How many times this process left out a bad sample so far, each epoch counted."""
        return self.dataset.count_skipped()

    def bad_samples(self) -> list[int]:
        """Indices of the bad samples that this process has met so far."""
        return self.dataset.bad_indices()

    def _checked_batches(self, iterator: Any) -> Iterator[Any]:
        while True:
            try:
                batch = next(iterator)
            except StopIteration:
                if not self.persistent_workers:
                    self._workers = ()
                return
            except Exception as error:
                fault = self.describe_fault(error)
                self._end_workers(iterator)
                if fault is None or fault == str(error):
                    raise
                raise RuntimeError(fault) from error
            if isinstance(batch, LoadFailure):
                self._end_workers(iterator)
                raise DataError(batch.message)
            batch = batch.unpack() if isinstance(batch, PackedBatch) else batch
            yield batch if self._mover is None else self._mover(batch)

    def _end_workers(self, iterator: Any) -> None:
        _shut_down(iterator, os.getpid())
        self._iterator = None
        self._workers = ()
        if self._guard is not None:
            self._guard.detach()
            self._guard = None

    def describe_fault(self, error: BaseException) -> str | None:
        """Which worker died or is stuck, and with which sample, if ``error`` comes of that; else ``None``."""
        workers = self._workers
        if isinstance(error, OSError | EOFError):
            # A connection breaks, and a sentinel closes, before the process that caused it can be waited for.
            ended = wait([worker.sentinel for worker in workers], timeout=_SECONDS_TO_END)
            for worker in workers:
                if worker.sentinel in ended:
                    worker.join(_SECONDS_TO_END)
        for number, worker in enumerate(workers):
            if not worker.is_alive():
                code = worker.exitcode
                how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                how += " (is the machine out of memory?)" if -code == signal.SIGKILL else ""
                loading = self.dataset.describe_loading(number)
                return f"loader worker {number} (process {worker.pid}) {how} while it was loading {loading}"
        if workers and "timed out" in str(error):
            loading = ", ".join(
                f"worker {number} (process {worker.pid}) is loading {self.dataset.describe_loading(number)}"
                for number, worker in enumerate(workers)
            )
            _kill(workers)  # stuck as they are, they would hold up the end of this process too
            return f"no batch came within timeout={self.timeout:g} seconds: {loading}"
        return None


_loaders: weakref.WeakSet[SampleLoader] = weakref.WeakSet()


def _name_samples_of_killed_workers() -> None:
    """Add the sample to the error that torch's handler of SIGCHLD raises wherever the main thread is."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return
    handle = signal.getsignal(signal.SIGCHLD)
    if not callable(handle) or getattr(handle, "names_samples", False):
        return

    def handle_and_name(number: int, frame: Any) -> None:
        try:
            handle(number, frame)
        except RuntimeError as error:
            for loader in tuple(_loaders):
                if (fault := loader.describe_fault(error)) is not None:
                    raise RuntimeError(fault) from error
            raise

    handle_and_name.names_samples = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, handle_and_name)


def create_loader(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    shuffle: bool = False,
    group_by: Literal["shape", "aspect"] | Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
    num_workers: int = 0,
    on_bad_sample: Literal["raise", "skip"] = "raise",
    drop_last: bool = False,
    aspect_bins: int = 3,
    min_size: int = 800,
    max_size: int = 1333,
    collate_fn: Callable[[list[Any]], Any] = collate_detection,
    pin_memory: bool | None = None,
    device: torch.device | str | None = None,
    persistent_workers: bool | None = None,
    prefetch_factor: int | None = None,
    timeout: float = 600,
    multiprocessing_context: str | None = None,
) -> SampleLoader:
    """A loader for training, or, with neither ``shuffle`` nor ``group_by``, for evaluation.

    A training loader has a :class:`~ignite_imgtools.data.GroupedBatchSampler`: each sample once in an epoch, in an
    order that depends on (seed, epoch, ``batch_size``) alone. It follows trainers made by ``create_*_trainer``; of
    another Engine call ``loader.batch_sampler.attach(trainer)``, in a loop of your own ``set_epoch(epoch)`` of it. An
    evaluation loader has an :class:`~ignite_imgtools.data.EvalSampler`: each sample once over all processes.

    The random numbers of a sample (augmentation, by ``torch``, ``random`` or ``numpy.random``) depend on (seed, epoch,
    index) alone: not on the number of workers or processes, nor on where a run was resumed. Evaluation uses epoch 0
    always. The random states of the main process are left as they are.

    Args:
        dataset: with ``dataset[index]`` and a length.
        batch_size: total over all processes.
        shuffle: another order in each epoch.
        group_by: what the samples of a batch have in common. ``"shape"``: the exact padded shape in a detector,
            ``"aspect"``: the aspect ratio (see :mod:`ignite_imgtools.data.groups`; both need
            ``dataset.image_size(index)``); or one integer for each sample.
        seed: of the order and of the samples' random numbers; the same on all processes.
        num_workers: worker processes that load; 0 loads in this process.
        on_bad_sample: ``"raise"`` a sample's DataError; or ``"skip"`` samples that raise DataError or OSError: each is
            reported once to the logger ``ignite_imgtools``, and counted (``loader.skipped_samples()``). Its batch is
            the smaller by it; a training batch without any good sample takes the next one in the data set.
        drop_last: leave out training batches smaller than ``batch_size``.
        aspect_bins: of ``group_by="aspect"``.
        min_size: of ``group_by="shape"``: what the detector resizes the shorter side to, in pixels.
        max_size: of ``group_by="shape"``: what the longer side then may not exceed, in pixels.
        collate_fn: makes a batch of a list of samples; the list may be empty in evaluation.
        pin_memory: whether batches come in page-locked memory; by default where CUDA is available.
        device: where the images of batches are moved, without waiting for it; by default they stay in host memory, and
            a training step moves them. To a CUDA device they are copied while it computes the step before.
        persistent_workers: whether workers live on between epochs; by default they do.
        prefetch_factor: batches that each worker loads ahead; by default 2.
        timeout: seconds to wait for a batch of the workers before they are taken to be stuck; 0 waits for ever.
        multiprocessing_context: how workers are started: ``"fork"``, ``"forkserver"`` or ``"spawn"``; by default as
            Python does on this platform, in processes that were spawned too.

    Raises:
        ValueError: an argument is out of its range, the data set is empty, or ``batch_size`` below the number of
            processes in training.
        TypeError: ``group_by`` needs image sizes that the data set does not know.
    """
    if on_bad_sample not in ("raise", "skip"):
        raise ValueError(f"on_bad_sample must be 'raise' or 'skip', got {on_bad_sample!r}")
    if num_workers < 0:
        raise ValueError(f"num_workers must be 0 or more, got {num_workers}")
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ValueError(f"expected a data set with dataset[index] and a length, got {type(dataset).__name__}")
    if not len(dataset):
        raise ValueError(f"the data set ({type(dataset).__name__}) is empty")

    training = shuffle or group_by is not None
    sampler: GroupedBatchSampler | EvalSampler
    if training:
        groups = _groups(dataset, group_by, aspect_bins, min_size, max_size)
        sampler = GroupedBatchSampler(groups, batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last)
    elif drop_last:
        raise ValueError("drop_last is for training, with shuffle or group_by: evaluation leaves no sample out")
    else:
        sampler = EvalSampler(len(dataset), batch_size)

    workers: dict[str, Any] = {}
    if num_workers:
        workers = {
            "num_workers": num_workers,
            "persistent_workers": True if persistent_workers is None else persistent_workers,
            "prefetch_factor": 2 if prefetch_factor is None else prefetch_factor,
            "timeout": timeout,
            "worker_init_fn": _prepare_worker,
            "multiprocessing_context": multiprocessing_context or _platform_context(),
        }
    loader = SampleLoader(
        KeyedDataset(dataset, seed, skip_bad=on_bad_sample == "skip", fill_empty=training, num_workers=num_workers),
        batch_sampler=sampler,
        collate_fn=_GuardedCollate(collate_fn),
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        # Else each epoch would take a number from the global generator.
        generator=torch.Generator().manual_seed(keyed_seed(seed)),
        **workers,
    )
    if device is not None:
        loader._mover = BatchMover(torch.device(device))
    return loader


def _platform_context() -> str | None:
    # A spawned process, as idist.Parallel starts them, would spawn its workers too: each of them then imports torch
    # anew, which takes seconds, and has the data set copied to it by pickle.
    return multiprocessing.get_all_start_methods()[0] if multiprocessing.parent_process() is not None else None


def _groups(
    dataset: Any, group_by: str | Sequence[int] | np.ndarray | None, aspect_bins: int, min_size: int, max_size: int
) -> np.ndarray:
    if group_by is None:
        return np.zeros(len(dataset), dtype=np.uint8)
    if isinstance(group_by, str):
        if group_by == "shape":
            return padded_shape_groups(dataset, min_size, max_size)
        if group_by == "aspect":
            return aspect_ratio_groups(dataset, aspect_bins)
        raise ValueError(f"group_by must be 'shape', 'aspect' or one integer for each sample, got {group_by!r}")
    if len(group_by) != len(dataset):
        raise ValueError(f"group_by must have one integer for each of {len(dataset)} samples, got {len(group_by)}")
    return np.asarray(group_by)


class _GuardedCollate:
    """``collate_fn``, with the errors of a worker process turned into what passes out of it as it is."""

    def __init__(self, collate_fn: Callable[[list[Any]], Any]):
        self.collate_fn = collate_fn

    def __call__(self, samples: list[Any] | LoadFailure) -> Any:
        if isinstance(samples, LoadFailure):
            return samples
        try:
            return pack_batch(self.collate_fn(samples))
        except DataError as error:
            if get_worker_info() is None:
                raise
            return LoadFailure(str(error))


def _prepare_worker(worker_id: int) -> None:
    # Ctrl-C and schedulers signal all processes of a job at once. The main process may want to finish its step and
    # save, and needs a batch for that, so a worker does not go first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):  # asks the main process for a checkpoint; a worker would be ended by it
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_end, daemon=True).start()


def _await_end() -> None:
    if signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        signal.sigtimedwait({signal.SIGTERM}, _GRACE)
    os._exit(0)


def _shut_down(iterator: Any, process: int) -> None:
    # Workers that go as part of a reference cycle, as those of a loader in a trainer or in an error's frames do, lose
    # the message that ends them, and each holds up the process for 5 seconds. So they are ended before.
    if hasattr(iterator, "_shutdown_workers") and os.getpid() == process:
        iterator._shutdown_workers()


def _kill(workers: Sequence[Any]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        while worker.is_alive():
            # In here torch's handler of SIGCHLD raises that a worker was killed.
            with contextlib.suppress(RuntimeError):
                worker.join()


def _kind(sample: Any) -> str:
    if isinstance(sample, tuple | list):
        return f"({', '.join(type(part).__name__ for part in sample)})"
    return f"a {type(sample).__name__}"


def _has_ended(worker: Any) -> bool:
    return worker._parent_pid == os.getpid() and not worker.is_alive()  # only a parent may ask


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, Tensor) else value
