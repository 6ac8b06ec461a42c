"""Samplers: invariants over generated cases, against slow and obvious loops, and following real trainers."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine, Events
from torch.utils.data import DataLoader, Sampler

from ignite_imgtools.data.samplers import EvalSampler, GroupedBatchSampler
from ignite_imgtools.distributed import keyed_seed
from ignite_imgtools.formats import resumables

GROUPS = st.lists(st.integers(-2, 5), min_size=1, max_size=60)
CASES = {"groups": GROUPS, "batch_size": st.integers(1, 9), "seed": st.integers(0, 3), "epoch": st.integers(0, 2)}


def epoch_of(epoch: int, *args: Any, **options: Any) -> list[list[int]]:
    sampler = GroupedBatchSampler(*args, **options)
    sampler.set_epoch(epoch)
    return list(sampler)


def slow_epoch(groups: list[int], batch_size: int, seed: int | None, epoch: int) -> list[list[int]]:
    """The order as the documentation has it, with plain integers; of the random bits as many as there is room for."""

    def numbers(key: int, count: int) -> list[int]:
        state, mask, drawn = keyed_seed(seed or 0, epoch, key), 2**64 - 1, []
        for _ in range(count):
            state = (state + 0x9E3779B97F4A7C15) & mask
            mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
            mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
            drawn.append((mixed ^ (mixed >> 31)) >> 40 if seed is not None else 0)
        return drawn

    order = numbers(0, len(groups))
    batches = []
    for group in sorted(set(groups)):
        members = sorted((i for i, g in enumerate(groups) if g == group), key=lambda i: (order[i], i))
        batches += [members[first : first + batch_size] for first in range(0, len(members), batch_size)]
    if seed is None:
        return sorted(batches)
    ranks = numbers(1, len(batches))
    return [batch for _, batch in sorted(zip(ranks, batches, strict=True))]


@given(**CASES)
@settings(max_examples=150, deadline=None)
def test_the_order_is_that_of_a_slow_loop(groups: list[int], batch_size: int, seed: int, epoch: int) -> None:
    options = {"rank": 0, "world_size": 1}
    assert epoch_of(epoch, groups, batch_size, seed=seed, **options) == slow_epoch(groups, batch_size, seed, epoch)
    assert epoch_of(epoch, groups, batch_size, shuffle=False, **options) == slow_epoch(groups, batch_size, None, epoch)


@given(**CASES, shuffle=st.booleans(), drop_last=st.booleans(), world_size=st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_each_sample_once_one_group_a_batch_at_any_world_size(
    groups: list[int], batch_size: int, seed: int, epoch: int, shuffle: bool, drop_last: bool, world_size: int
) -> None:
    counts = Counter(groups)
    if drop_last and max(counts.values()) < batch_size:
        with pytest.raises(ValueError, match=f"drop_last leaves no batch: .* has {max(counts.values())} samples"):
            GroupedBatchSampler(groups, batch_size, drop_last=True, rank=0, world_size=1)
        return
    options = {"seed": seed, "shuffle": shuffle, "drop_last": drop_last}
    whole = epoch_of(epoch, groups, batch_size, **options, rank=0, world_size=1)
    assert all(len({groups[i] for i in batch}) == 1 for batch in whole)
    seen = Counter(i for batch in whole for i in batch)
    assert set(seen.values()) <= {1}
    if drop_last:
        assert {len(batch) for batch in whole} == {batch_size}
        assert len(whole) == sum(count // batch_size for count in counts.values())
    else:
        assert sorted(seen) == list(range(len(groups)))
        assert max(map(len, whole)) <= batch_size
        assert len(whole) == sum(-(-count // batch_size) for count in counts.values())

    if world_size > batch_size:
        with pytest.raises(ValueError, match=f"batch_size={batch_size} .* at least world_size={world_size}"):
            GroupedBatchSampler(groups, batch_size, rank=0, world_size=world_size)
        return
    samplers = [
        GroupedBatchSampler(groups, batch_size, **options, rank=r, world_size=world_size) for r in range(world_size)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
        assert len(sampler) == len(whole)
    repeats = 0
    for batch, *shares in zip(whole, *samplers, strict=True):
        assert all(
            share == (batch[rank::world_size] or [batch[rank % len(batch)]]) for rank, share in enumerate(shares)
        )
        repeats += sum(map(len, shares)) - len(batch)
    assert {sampler.repeats for sampler in samplers} == {repeats}


@given(**CASES, before=st.integers(1, 4), after=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_resuming_at_every_batch_gives_the_rest(
    groups: list[int], batch_size: int, seed: int, epoch: int, before: int, after: int
) -> None:
    before, after = min(before, batch_size), min(after, batch_size)
    whole = epoch_of(epoch, groups, batch_size, seed=seed, rank=after - 1, world_size=after)
    stopped = GroupedBatchSampler(groups, batch_size, seed=seed, rank=0, world_size=before)
    stopped.set_epoch(epoch)
    states = [stopped.state_dict()] + [stopped.state_dict() for _ in stopped]
    for position, state in enumerate(states):
        resumed = GroupedBatchSampler(groups, batch_size, seed=seed, rank=after - 1, world_size=after)
        resumed.load_state_dict(pickle.loads(pickle.dumps(state)))
        assert len(resumed) == len(whole)
        if position == len(whole):
            assert (resumed.epoch, resumed.position) == (epoch + 1, 0)
            continue
        resumed.set_epoch(epoch)  # as a loop does at the start of each epoch, the resumed one too
        assert list(resumed) == whole[position:]
        assert list(resumed) == whole  # the next pass is whole again


def test_epochs_and_seeds_differ_and_partial_batches_stand_anywhere() -> None:
    groups = np.repeat(np.arange(5), 11)
    options = {"rank": 0, "world_size": 1}
    orders = [epoch_of(epoch, groups, 4, seed=seed, **options) for epoch in range(20) for seed in range(2)]
    assert len({str(order) for order in orders}) == len(orders)
    places = [place for order in orders for place, batch in enumerate(order) if len(batch) < 4]
    assert set(places) == set(range(len(orders[0])))
    # 40 orders, 15 batches, 5 of them partial: a fair share for the last place is 13.
    assert 5 <= places.count(14) <= 24


def test_every_order_is_as_likely() -> None:
    firsts = Counter(epoch_of(epoch, [0] * 6, 3, rank=0, world_size=1)[0][0] for epoch in range(3000))
    chi_square = sum((firsts[i] - 500) ** 2 / 500 for i in range(6))
    assert chi_square < 25  # 5 degrees of freedom: exceeded once in 7,000 seeds


def test_groups_of_any_integers() -> None:
    values = np.array([2**40, -7, 0, -7, 2**40, 2**62])
    batches = epoch_of(0, values, 2, shuffle=False, rank=0, world_size=1)
    assert batches == [[0, 4], [1, 3], [2], [5]]
    for same in (values.tolist(), torch.from_numpy(values)):
        assert epoch_of(0, same, 2, shuffle=False, rank=0, world_size=1) == batches


def test_works_in_a_plain_loader() -> None:
    sampler = GroupedBatchSampler([0, 1] * 5, 4, rank=1, world_size=2)
    assert isinstance(sampler, Sampler)
    data = torch.arange(10)
    assert [batch.tolist() for batch in DataLoader(data, batch_sampler=sampler)] == list(sampler)
    assert len(DataLoader(data, batch_sampler=sampler)) == len(sampler) == 4


def test_a_state_of_another_order_is_refused() -> None:
    def state(groups: Any = (0, 0, 1), batch_size: int = 2, **options: Any) -> dict[str, Any]:
        return GroupedBatchSampler(groups, batch_size, **options, rank=0, world_size=1).state_dict()

    sampler = GroupedBatchSampler([0, 0, 1], 2, rank=0, world_size=1)
    sampler.load_state_dict(state())
    for other, reason in (
        (state(seed=5), "seed 5, here 0"),
        (state(batch_size=3), "batch_size 3, here 2"),
        (state(shuffle=False), "shuffle False, here True"),
        (state(drop_last=True), "drop_last True, here False"),
        (state((0, 0, 1, 1)), "num_samples 4, here 3"),
        (state((0, 1, 1)), "fingerprint '.*', here '.*'"),
        ({}, "seed None, here 0"),
    ):
        with pytest.raises(ValueError, match=reason):
            sampler.load_state_dict(other)
    assert (sampler.epoch, sampler.position) == (0, 0)


def test_what_is_wrong_is_said() -> None:
    one = {"rank": 0, "world_size": 1}
    for groups, reason in (([], "at least one"), ([[1]], r"shape \(1, 1\)"), ([0.5], "integers, got float64")):
        with pytest.raises(ValueError, match=reason):
            GroupedBatchSampler(groups, 1, **one)
    with pytest.raises(ValueError, match="rank=2, world_size=2"):
        GroupedBatchSampler([0], 2, rank=2, world_size=2)
    sampler = GroupedBatchSampler([0] * 4, 2, **one)
    for epoch, position in ((-1, 0), (0, 3), (0, -1)):
        with pytest.raises(ValueError, match=f"epoch={epoch}, position={position}"):
            sampler.set_position(epoch, position)


def run_trainer(
    sampler: Any, iterations: int, start: int = 0, stop: int | None = None, **options: Any
) -> list[list[int]]:
    """Batches that a trainer gets from iteration ``start``, stopped after ``stop``."""
    seen: list[list[int]] = []
    trainer = Engine(lambda engine, batch: seen.append(batch.tolist()))

    @trainer.on(Events.STARTED)
    def resume() -> None:
        sampler.attach(trainer)
        length = options.get("epoch_length", len(sampler))
        trainer.state.iteration, trainer.state.epoch = start, start // length

    if stop is not None:
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=stop), trainer.terminate)
    loader = DataLoader(torch.arange(100), batch_sampler=sampler)
    epochs = -(-iterations // options.get("epoch_length", len(sampler)))
    trainer.run(loader, max_epochs=epochs, **options)
    return seen


@pytest.mark.parametrize("epoch_length", [None, 4, 15])
def test_a_trainer_resumed_anywhere_gets_what_it_would_have_got(epoch_length: int | None) -> None:
    groups = [0, 1, 1, 2] * 6  # 3 + 6 + 3 batches of 2
    options = {} if epoch_length is None else {"epoch_length": epoch_length}

    def new() -> GroupedBatchSampler:
        return GroupedBatchSampler(groups, 2, seed=4, rank=0, world_size=1)

    passes = [epoch_of(epoch, groups, 2, seed=4, rank=0, world_size=1) for epoch in range(5)]
    expected = [batch for batches in passes for batch in batches]
    total = 60 if epoch_length == 15 else 36
    assert len(passes[0]) == 12
    assert run_trainer(new(), total, **options) == expected[:total]
    for start in range(0, total, 7):
        assert run_trainer(new(), total, start, **options) == expected[start:total]
    assert run_trainer(new(), total, 5, stop=9, **options) == expected[5:9]


def test_state_of_an_attached_sampler_is_where_the_trainer_is() -> None:
    sampler = GroupedBatchSampler([0] * 10, 2, rank=0, world_size=1)
    trainer = Engine(lambda engine, batch: None)
    places = []

    @trainer.on(Events.ITERATION_COMPLETED)
    def look() -> None:
        state = resumables(trainer)["sampler"].state_dict()
        places.append((state["epoch"], state["position"]))

    sampler.attach(trainer)
    # Workers ask for batches ahead of the trainer.
    loader = DataLoader(torch.arange(10), batch_sampler=sampler, num_workers=1)
    trainer.run(loader, max_epochs=2)
    assert places == [divmod(iteration, 5) for iteration in range(1, 11)]


@pytest.mark.parametrize("led", [None, "attach", "set_epoch", "no shuffle"])
def test_the_same_order_in_each_epoch_is_told_once(caplog: pytest.LogCaptureFixture, led: str | None) -> None:
    sampler = GroupedBatchSampler([0] * 10, 2, shuffle=led != "no shuffle", rank=0, world_size=1)
    seen: list[list[int]] = []
    trainer = Engine(lambda engine, batch: seen.append(batch.tolist()))
    if led == "attach":
        sampler.attach(trainer)
    if led == "set_epoch":
        trainer.add_event_handler(Events.EPOCH_STARTED, lambda: sampler.set_epoch(trainer.state.epoch - 1))
    trainer.run(DataLoader(torch.arange(10), batch_sampler=sampler), max_epochs=3)
    assert (seen[:5] == seen[5:10] == seen[10:]) == (led in (None, "no shuffle"))
    told = ["batches of epoch 0 are given again" in record.getMessage() for record in caplog.records]
    assert told == [True] * (led is None)


def test_a_second_run_of_a_trainer_may_have_another_sampler() -> None:
    first, second = (GroupedBatchSampler([0] * count, 2, rank=0, world_size=1) for count in (6, 4))
    trainer = Engine(lambda engine, batch: None)
    first.attach(trainer)
    first.attach(trainer)
    assert trainer.has_event_handler(first._follow, Events.EPOCH_STARTED)
    second.attach(trainer)
    assert resumables(trainer) == {"sampler": second}
    assert not trainer.has_event_handler(first._follow)
    second.detach(trainer)
    second.detach(trainer)
    assert resumables(trainer) == {}
    assert not trainer.has_event_handler(second._follow)
    assert second.state_dict()["position"] == 0


@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_evaluation_sees_each_sample_once(num_samples: int, batch_size: int, world_size: int) -> None:
    samplers = [EvalSampler(num_samples, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [list(sampler) for sampler in samplers]
    assert sorted(i for share in shares for batch in share for i in batch) == list(range(num_samples))
    for rank, (sampler, share) in enumerate(zip(samplers, shares, strict=True)):
        assert len(sampler) == len(share) >= 1
        assert all(len(batch) <= max(1, batch_size // world_size) for batch in share)
        assert share == [[]] if rank >= num_samples else all(share)
        assert [i for batch in share for i in batch] == list(range(rank, num_samples, world_size))
    assert max(map(len, samplers)) - min(map(len, samplers)) <= 1


def test_evaluation_batches_are_not_trained_on() -> None:
    with pytest.raises(ValueError, match="shuffle=True"):
        EvalSampler(4, 2).attach(Engine(lambda engine, batch: None))
    with pytest.raises(ValueError, match="num_samples must be 0 or more, got -1"):
        EvalSampler(-1, 2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        EvalSampler(1, 0)


def test_a_data_set_of_cocos_size_is_planned_at_once() -> None:
    groups = np.random.default_rng(0).integers(0, 60, 118_287)
    start = time.process_time()
    sampler = GroupedBatchSampler(groups, 8, rank=0, world_size=2)
    batches = sum(1 for _ in sampler)
    # Measured 15 ms; the promise is 100 ms.
    assert time.process_time() - start < 0.1
    assert batches == len(sampler)
    assert sampler._plan is not None
    assert sampler._plan[1].dtype == np.int32


@pytest.mark.parametrize(("groups", "world_size", "expected"), [([0] * 9, 1, 1), ([0] * 10, 1, 2), ([0] * 10, 2, 1)])
def test_the_smallest_share(groups: list[int], world_size: int, expected: int) -> None:
    samplers = [GroupedBatchSampler(groups, 4, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert min(len(batch) for sampler in samplers for batch in sampler) == expected
    assert {sampler.smallest_share for sampler in samplers} == {expected}


def test_after_an_epoch_that_was_cut_short_the_data_go_on_where_they_were_left() -> None:
    def run(cut: bool) -> list[list[int]]:
        seen: list[list[int]] = []
        sampler = GroupedBatchSampler([0] * 12, 2, seed=4, rank=0, world_size=1)
        trainer = Engine(lambda engine, batch: seen.append(batch.tolist()))
        sampler.attach(trainer)
        if cut:
            trainer.add_event_handler(Events.ITERATION_COMPLETED(once=4), lambda: trainer.terminate_epoch())
        trainer.run(DataLoader(torch.arange(12), batch_sampler=sampler), max_epochs=2)
        sampler.detach(trainer)
        assert not any(trainer.has_event_handler(sampler._follow, event) for event in Events)
        return seen

    assert run(cut=True) == run(cut=False)[:10]
