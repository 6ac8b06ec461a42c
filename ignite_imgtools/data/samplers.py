"""Which samples each process loads, in which order: for training and for evaluation."""

from __future__ import annotations

import hashlib
import logging
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from torch import Tensor
from torch.utils.data import Sampler

from ignite_imgtools.distributed import keyed_seed
from ignite_imgtools.formats import register_resumable, resumables

__all__ = ["EpochBatch", "EvalSampler", "GroupedBatchSampler"]

_logger = logging.getLogger(__name__)

_FOLLOWED = (Events.EPOCH_STARTED, Events.DATALOADER_STOP_ITERATION, Events.TERMINATE_SINGLE_EPOCH)
# Batches turned from arrays into lists at a time: enough that NumPy's overhead is shared by many, few enough that the
# first batch comes at once.
_CHUNK = 1024


class EpochBatch(list[int]):
    """Sample indices of one batch of one process: a list that also knows its epoch.

    The loader draws the random numbers of a sample by (seed, epoch, index), and a worker process has no other way to
    know the epoch: as workers load ahead, it need not be the one that the trainer is in.
    """

    __slots__ = ("epoch",)

    epoch: int
    """Counted from 0."""


class GroupedBatchSampler(Sampler[list[int]]):
    """Batches for training, each of samples of one group; to be a ``DataLoader``'s ``batch_sampler``.

    The batches of an epoch are a pure function of (seed, epoch, ``batch_size``): not of the number of processes, nor
    of what was loaded before. A *global* batch is made of one group and dealt out to the processes in turn
    (``batch[rank::world_size]``), so all of them meet similar shapes at the same step. Each group is cut into batches
    of ``batch_size``; its last one may be smaller, and stands anywhere in the epoch.

    Every sample appears exactly once in an epoch, with one exception: where a last batch has fewer samples than there
    are processes, every process still needs one to take part in the step, so those that would go without repeat one of
    the batch, in turn. That is the fewest repeats possible; :attr:`repeats` counts them. Nothing is repeated where
    ``drop_last`` leaves out the smaller batches, and with them the samples of groups smaller than ``batch_size``.

    The sampler follows a trainer with :meth:`attach` (trainers made by ``create_*_trainer`` call it), resumes included.
    In a loop of your own call :meth:`set_epoch`. Without either each epoch is the first one again, which is told once.

    Args:
        groups: integers ``[N]``, the group of each sample, as from
            :func:`~ignite_imgtools.data.padded_shape_groups`.
        batch_size: total over all processes.
        shuffle: whether the order differs from epoch to epoch; else samples stand in order within their group and
            batches in order of their first sample.
        seed: of the order.
        rank: this process; by default as ``ignite.distributed`` has it.
        world_size: how many processes there are; by default as ``ignite.distributed`` has it.
        drop_last: whether to leave out batches smaller than ``batch_size``.

    Raises:
        ValueError: there are no samples or, with ``drop_last``, no batches; ``batch_size`` is below ``world_size``, as
            then some process would never have a sample of its own; ``rank`` is not one of ``world_size``.

    >>> sampler = GroupedBatchSampler([0, 0, 1, 1, 1], batch_size=2, shuffle=False)
    >>> list(sampler), len(sampler)
    ([[0, 1], [2, 3], [4]], 3)
    """

    def __init__(
        self,
        groups: Sequence[int] | np.ndarray | Tensor,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = False,
    ):
        super().__init__()
        self.rank, self.world_size = _checked_rank(rank, world_size)
        if batch_size < self.world_size:
            raise ValueError(
                f"batch_size={batch_size} is the total over all processes and must be at least world_size="
                f"{self.world_size}, so that each has a sample"
            )
        self.batch_size, self.shuffle, self.seed, self.drop_last = batch_size, shuffle, seed, drop_last
        self._groups = _compact_groups(groups)
        self._fingerprint: str | None = None
        counts = np.bincount(self._groups)
        self._starts, self._sizes = _cut_groups(counts, batch_size, drop_last)
        if not len(self._sizes):
            raise ValueError(
                f"drop_last leaves no batch: batch_size={batch_size}, but the largest group has {counts.max()} samples"
            )
        self._epoch = self._position = self._handed_out = 0
        self._is_led = False  # somebody says which epoch it is
        self._plan: tuple[int, np.ndarray, np.ndarray] | None = None
        # Weak, else loaders would go only as part of a reference cycle, which their workers do not survive in order.
        self._trainer: weakref.ref[Engine] | None = None

    def __len__(self) -> int:
        """Number of batches in a whole epoch, wherever in it the next iteration starts."""
        return len(self._sizes)

    def __iter__(self) -> Iterator[list[int]]:
        """Batches of this process, from :attr:`position` to the end of :attr:`epoch`."""
        if self.shuffle and self._handed_out == len(self) and not self._is_led:
            self._is_led = True
            if self.rank == 0:
                _logger.warning(
                    "the batches of epoch %d are given again, in the same order: call sampler.attach(trainer) before "
                    "the run (of a loader: loader.batch_sampler.attach(trainer)), or sampler.set_epoch(epoch) before "
                    "each epoch of a loop",
                    self._epoch,
                )
        # The place is taken now, not when the first batch is asked for: it may have moved by then.
        return self._batches(self._epoch, self._position)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration is in, counted from 0."""
        return self._epoch

    @property
    def position(self) -> int:
        """The batch that the next iteration starts at; not 0 only after a resume."""
        return self._position

    @property
    def repeats(self) -> int:
        """Samples in the current epoch, over all processes, that are there a second time; the same in each epoch."""
        return int(np.maximum(self.world_size - self._sizes, 0).sum())

    @property
    def smallest_share(self) -> int:
        """Samples that a process has at least of any batch; 1 of a last one, perhaps."""
        return max(1, int(self._sizes.min()) // self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0. Where it is the epoch that a resume led into, its position stays."""
        self._is_led = True
        if epoch != self._epoch:
            self.set_position(epoch, 0)

    def set_position(self, epoch: int, position: int) -> None:
        """Let the next iteration start at batch ``position`` of ``epoch``, both counted from 0.

        Raises:
            ValueError: one of them is negative, or the epoch has no such batch.
        """
        if epoch < 0 or not 0 <= position <= len(self):
            raise ValueError(
                f"expected an epoch from 0 and a position from 0 to {len(self)}, got epoch={epoch}, position={position}"
            )
        self._is_led = True
        if position == len(self):
            epoch, position = epoch + 1, 0
        self._epoch, self._position, self._handed_out = epoch, position, position

    def attach(self, trainer: Engine) -> None:
        """Let the sampler follow ``trainer``, and make it part of the trainer's checkpoints, as ``"sampler"``.

        Whenever the trainer starts to iterate, the place in the data is what its ``state.iteration`` says: an epoch of
        the sampler is one pass over the data, whatever ``epoch_length`` the trainer runs with, and a trainer resumed
        at any iteration gets exactly the batches that it would have got. The sampler of an earlier run of this
        trainer is detached.
        """
        former = resumables(trainer).get("sampler")
        if isinstance(former, GroupedBatchSampler):
            former.detach(trainer)
        register_resumable(trainer, "sampler", self)
        # The loader is iterated anew after the first event; after the others where it is exhausted, or left early.
        for event in _FOLLOWED:
            trainer.add_event_handler(event, self._follow)
        self._trainer = weakref.ref(trainer)

    def detach(self, trainer: Engine) -> None:
        """Undo :meth:`attach`."""
        if resumables(trainer).get("sampler") is self:
            del resumables(trainer)["sampler"]
            for event in _FOLLOWED:
                trainer.remove_event_handler(self._follow, event)
            self._trainer = None

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs to go on: a few numbers, the same on every process.

        The place is that of the attached trainer; without one, behind the last batch that was handed out, which is
        too far ahead where workers prefetch: there call :meth:`set_position` first.
        """
        epoch, position = self._epoch, self._handed_out
        if self._trainer is not None and (trainer := self._trainer()) is not None:
            epoch, position = divmod(trainer.state.iteration, len(self))
        return {**self._identity(), "epoch": epoch, "position": position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken, possibly with another number of processes.

        Raises:
            ValueError: the state is of another order: of other data, another seed, or another total ``batch_size``;
                names what differs.
        """
        different = [
            f"{name} {state.get(name)!r}, here {value!r}"
            for name, value in self._identity().items()
            if state.get(name) != value
        ]
        if different:
            raise ValueError(f"the state is of another order of samples: {'; '.join(different)}")
        self.set_position(int(state["epoch"]), int(state["position"]))

    def _identity(self) -> dict[str, Any]:
        """All that the order depends on."""
        if self._fingerprint is None:
            self._fingerprint = hashlib.sha256(self._groups.astype("<i4").tobytes()).hexdigest()[:16]
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "num_samples": len(self._groups),
            "fingerprint": self._fingerprint,
        }

    def _follow(self, trainer: Engine, iter_counter: int | None = None) -> None:
        self.set_position(*divmod(trainer.state.iteration, len(self)))

    def _batches(self, epoch: int, position: int) -> Iterator[list[int]]:
        order, batches = self._plan_of(epoch)
        for first in range(position, len(batches), _CHUNK):
            samples, ends = self._own_samples(order, batches[first : first + _CHUNK])
            begin = 0
            for number, end in enumerate(ends, first + 1):
                batch = EpochBatch(samples[begin:end])
                batch.epoch = epoch
                self._handed_out, begin = number, end
                yield batch
        if (self._epoch, self._position) == (epoch, position):
            self._position = 0

    def _plan_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples in order, group by group, and the order of the batches cut out of them."""
        if self._plan is None or self._plan[0] != epoch:
            self._plan = None  # the former one's memory is free before the next one is made
            order = _order_in_groups(self._groups, keyed_seed(self.seed, epoch, 0) if self.shuffle else None)
            if self.shuffle:
                no_groups = np.zeros(len(self), dtype=np.uint8)
                batches = _order_in_groups(no_groups, keyed_seed(self.seed, epoch, 1))
            else:
                batches = np.argsort(order[self._starts])
            self._plan = epoch, order, batches
        return self._plan[1:]

    def _own_samples(self, order: np.ndarray, batches: np.ndarray) -> tuple[list[int], list[int]]:
        """This process's shares of ``batches``, one behind the other, and where each ends."""
        starts, sizes = self._starts[batches], self._sizes[batches]
        shares = np.maximum(-(-(sizes - self.rank) // self.world_size), 1)
        # A batch that has none for this process lends one; where it has, rank % size is the rank.
        firsts = starts + self.rank % sizes
        ends = np.cumsum(shares)
        nth = np.arange(ends[-1]) - np.repeat(ends - shares, shares)
        return order[np.repeat(firsts, shares) + nth * self.world_size].tolist(), ends.tolist()


class EvalSampler(Sampler[list[int]]):
    """Batches for evaluation: over all processes every sample exactly once, in order, none repeated.

    Process ``r`` of ``world_size`` takes the samples ``r, r + world_size, ...``, so the numbers of batches may differ
    between processes by one. A process without any sample has one empty batch: its evaluator then still runs, fires
    its events and takes part in what the processes compute together.

    Args:
        num_samples: size of the data set.
        batch_size: total over all processes; each takes ``batch_size // world_size`` at a time, at least 1.
        rank: this process; by default as ``ignite.distributed`` has it.
        world_size: how many processes there are; by default as ``ignite.distributed`` has it.

    Raises:
        ValueError: ``num_samples`` is negative, ``batch_size`` below 1, or ``rank`` not one of ``world_size``.

    >>> [list(EvalSampler(5, 2, rank=rank, world_size=2)) for rank in range(2)]
    [[[0], [2], [4]], [[1], [3]]]
    """

    def __init__(self, num_samples: int, batch_size: int, *, rank: int | None = None, world_size: int | None = None):
        super().__init__()
        if num_samples < 0:
            raise ValueError(f"num_samples must be 0 or more, got {num_samples}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.num_samples, self.batch_size = num_samples, batch_size
        self.rank, self.world_size = _checked_rank(rank, world_size)
        self.batch_size_per_process = max(1, batch_size // self.world_size)
        self._samples = range(self.rank, num_samples, self.world_size)

    def __len__(self) -> int:
        return max(1, -(-len(self._samples) // self.batch_size_per_process))

    def __iter__(self) -> Iterator[list[int]]:
        step = self.batch_size_per_process
        for first in range(0, max(1, len(self._samples)), step):
            yield list(self._samples[first : first + step])

    def attach(self, trainer: Engine) -> None:
        """Refuse to train on these batches.

        Raises:
            ValueError: always: processes have different numbers of batches, so the one with more would wait for the
                others for ever, and each epoch would see the same augmentation of each sample.
        """
        raise ValueError(
            "this loader is made for evaluation, a trainer needs another: create_loader(..., shuffle=True), or "
            "group_by=[0] * len(dataset) for a fixed order"
        )


def _checked_rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    world_size = idist.get_world_size() if world_size is None else world_size
    rank = idist.get_rank() if rank is None else rank
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to world_size - 1, got rank={rank}, world_size={world_size}")
    return rank, world_size


def _compact_groups(groups: Sequence[int] | np.ndarray | Tensor) -> np.ndarray:
    """Groups numbered from 0 in order of their value, in the smallest dtype."""
    array = np.asarray(groups)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"groups must be one integer for each sample, at least one, got shape {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"groups must be integers, got {array.dtype}")
    low, high = int(array.min()), int(array.max())
    if high - low < max(1024, len(array)):
        # Small numbers, the usual case, need no sort.
        shifted = array if low == 0 else array - low
        present = np.bincount(shifted) > 0
        numbers, count = np.cumsum(present) - 1, int(present.sum())
        return numbers.astype(np.min_scalar_type(count - 1))[shifted]
    values, inverse = np.unique(array, return_inverse=True)
    return inverse.astype(np.min_scalar_type(len(values) - 1))


def _cut_groups(counts: np.ndarray, batch_size: int, drop_last: bool) -> tuple[np.ndarray, np.ndarray]:
    """Start and size of each batch, where samples stand group by group."""
    batches = counts // batch_size if drop_last else -(-counts // batch_size)
    ends = np.cumsum(counts)
    nth = np.arange(batches.sum()) - np.repeat(np.cumsum(batches) - batches, batches)
    starts = np.repeat(ends - counts, batches) + nth * batch_size
    sizes = np.minimum(batch_size, np.repeat(ends, batches) - starts)
    dtype = np.int32 if counts.sum() <= np.iinfo(np.int32).max else np.int64
    return starts.astype(dtype), sizes.astype(dtype)


def _order_in_groups(groups: np.ndarray, seed: int | None) -> np.ndarray:
    """Indices sorted by group and, within a group, at random; in their own order where ``seed`` is ``None``.

    One sort of 64-bit keys of three fields, the highest first: the group, a random number, and the index, which
    makes the keys different and is what is left when the rest is masked away. The random numbers are the stream of
    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): unlike NumPy's permutations they are the same in every version.
    """
    count = len(groups)
    index_bits = max(1, (count - 1).bit_length())
    random_bits = 64 - index_bits - int(groups.max()).bit_length()
    keys = np.zeros(count, dtype=np.uint64) if seed is None else _random_numbers(seed, count)
    keys >>= np.uint64(64 - random_bits)
    keys |= groups.astype(np.uint64) << np.uint64(random_bits)
    keys <<= np.uint64(index_bits)
    np.bitwise_or(keys, np.arange(count, dtype=np.uint64), out=keys)
    keys.sort()
    keys &= np.uint64((1 << index_bits) - 1)
    return keys.astype(np.int32 if index_bits <= 31 else np.int64)


def _random_numbers(seed: int, count: int) -> np.ndarray:
    numbers = np.arange(1, count + 1, dtype=np.uint64)
    numbers *= np.uint64(0x9E3779B97F4A7C15)  # unsigned arithmetic is modulo 2^64, as the generator has it
    numbers += np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers ^= numbers >> np.uint64(shift)
        numbers *= np.uint64(factor)
    numbers ^= numbers >> np.uint64(31)
    return numbers
