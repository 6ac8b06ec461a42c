"""Samplers and loaders in real processes: together they load what one process loads."""

from __future__ import annotations

import multiprocessing
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events
from torch.utils.data import Dataset

from ignite_imgtools.data.loaders import create_loader
from tests.distributed.spawn import run_processes

GROUPS = [0] * 9 + [1] * 5 + [2]


class Noise(Dataset[Any]):
    def __len__(self) -> int:
        return len(GROUPS)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        return torch.rand(3, 1, 1), {"image_id": index}


def _train(start: int, num_workers: int) -> list[dict[int, float]]:
    """Samples and their first random number in each batch that a trainer of this process gets."""
    seen = []
    loader = create_loader(Noise(), 4, shuffle=True, group_by=GROUPS, seed=1, num_workers=num_workers)

    def step(engine: Engine, batch: Any) -> None:
        seen.append({t["image_id"]: image[0].item() for image, t in zip(*batch, strict=True)})

    trainer = Engine(step)

    @trainer.on(Events.STARTED)
    def resume() -> None:
        loader.batch_sampler.attach(trainer)
        trainer.state.iteration, trainer.state.epoch = start, start // len(loader)

    trainer.run(loader, max_epochs=2)
    states = idist.all_gather(repr(loader.batch_sampler.state_dict()))
    assert idist.get_world_size() == 1 or len(set(states)) == 1
    return seen


@pytest.mark.parametrize(("world_size", "start", "num_workers"), [(2, 0, 0), (2, 5, 1), (3, 8, 0)])
def test_processes_train_on_what_one_would(world_size: int, start: int, num_workers: int) -> None:
    alone = _train(0, 0)[start:]
    together = run_processes(_train, world_size, start, num_workers)
    for batch, *shares in zip(alone, *together, strict=True):
        union = {index: number for share in shares for index, number in share.items()}
        assert union == batch
        assert all(shares)
        assert sum(map(len, shares)) == max(len(batch), world_size)


def _worker_start_method() -> tuple[str, str]:
    context: Any = create_loader(Noise(), 4, shuffle=True, num_workers=1).multiprocessing_context
    return multiprocessing.get_start_method(), context.get_start_method()


def test_spawned_processes_start_workers_as_the_platform_does() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        inherited, used = pool.apply(_worker_start_method)
    assert inherited == "spawn"
    assert used == multiprocessing.get_all_start_methods()[0]


def _evaluate(num_workers: int) -> list[dict[int, float]]:
    loader = create_loader(Noise(), 4, num_workers=num_workers)
    return [{t["image_id"]: image[0].item() for image, t in zip(*batch, strict=True)} for batch in loader]


def test_processes_evaluate_each_sample_once() -> None:
    alone = {index: number for batch in _evaluate(0) for index, number in batch.items()}
    for world_size in (2, 3):
        shares = run_processes(_evaluate, world_size, 1)
        items = [item for share in shares for batch in share for item in batch.items()]
        assert sorted(items) == sorted(alone.items())


def _evaluate_one() -> int:
    # One sample: the second process has none, and its evaluator must still take part in what they compute.
    evaluator = Engine(lambda engine, batch: len(batch[0]))
    loader = create_loader(torch.utils.data.Subset(Noise(), [3]), 2)
    counts: list[int] = []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: counts.append(evaluator.state.output))
    evaluator.add_event_handler(Events.COMPLETED, lambda: counts.append(idist.all_reduce(sum(counts))))
    evaluator.run(loader)
    return counts[-1]


def test_a_process_without_samples_takes_part() -> None:
    assert run_processes(_evaluate_one, 2) == [1, 1]


def _too_small() -> str:
    with pytest.raises(ValueError, match="batch_size=2 is the total") as caught:
        create_loader(Noise(), 2, shuffle=True)
    return str(caught.value)


def test_a_batch_smaller_than_the_processes_is_refused_on_all() -> None:
    assert len(set(run_processes(_too_small, 3))) == 1
