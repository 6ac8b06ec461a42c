from __future__ import annotations

from collections import Counter

import pytest
from ignite.engine import Engine, Events
from torch import nn

from ignite_imgtools.engines import attach_multi_scale, multi_scale_size, multi_scale_sizes


class _Model(nn.Module):
    train_size: int | None = None


def _sizes(model: nn.Module, every: int = 1, seed: int = 3, epochs: int = 3) -> list[int | None]:
    trainer = Engine(lambda engine, batch: None)
    handle = attach_multi_scale(trainer, model, (64, 96, 128), seed=seed, every=every)
    seen = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append(model.train_size))
    trainer.run([0] * 8, max_epochs=epochs)
    handle.remove()
    return seen


def test_sizes_of_the_recipe() -> None:
    assert multi_scale_sizes(512) == tuple(range(320, 769, 32))
    assert multi_scale_sizes(160, 1.0) == (160,)
    assert multi_scale_sizes(64) == (64, 96)
    with pytest.raises(ValueError, match=r"sizes from 32 / 1\.5 to 32 \* 1\.5 in steps of 32 are impossible"):
        multi_scale_sizes(32)


def test_a_size_depends_on_seed_and_iteration_alone() -> None:
    one = _sizes(_Model())
    assert one == _sizes(nn.parallel.DataParallel(_Model()).module)
    assert one == [multi_scale_size((64, 96, 128), 3, iteration) for iteration in range(24)]
    assert one != _sizes(_Model(), seed=4)
    counts = Counter(multi_scale_size((64, 96, 128), 0, iteration) for iteration in range(3000))
    assert min(counts.values()) > 900


def test_batches_of_one_step_share_a_size() -> None:
    seen = _sizes(_Model(), every=2)
    assert seen[::2] == seen[1::2]
    assert len(set(seen)) == 3


def test_what_cannot_be_done() -> None:
    trainer = Engine(lambda engine, batch: None)
    with pytest.raises(ValueError, match=r"at least one size and every >= 1, got \[\] and 1"):
        attach_multi_scale(trainer, _Model(), ())
    with pytest.raises(TypeError, match="Linear has no train_size"):
        attach_multi_scale(trainer, nn.Linear(1, 1), (64,))
