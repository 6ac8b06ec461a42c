"""Processes: gathering, agreement, seeds, stopping together."""

from __future__ import annotations

import ast
import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from ignite_imgtools import distributed, engines, handlers
from ignite_imgtools.formats import DataError
from tests.distributed.spawn import run_processes


def _gather() -> list[dict[str, np.ndarray]]:
    rank = idist.get_rank()
    return distributed.all_gather_arrays(
        {
            "scores": np.arange(3 * rank, dtype=np.float32),
            "flag": np.array(rank == 1),
            "matrix": np.full((rank, 2), rank, dtype=np.uint16),
        }
    )


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_arrays_of_any_shape_are_gathered_by_rank(world_size: int) -> None:
    for gathered in run_processes(_gather, world_size):
        assert len(gathered) == world_size
        for rank, arrays in enumerate(gathered):
            assert arrays["scores"].dtype == np.float32
            assert arrays["scores"].tolist() == list(range(3 * rank))
            assert arrays["flag"].item() is (rank == 1)
            assert arrays["matrix"].tolist() == [[rank, rank]] * rank


def _strings() -> list[str]:
    return distributed.all_gather_strings("é" * idist.get_rank())


def test_strings_of_any_length_are_gathered_by_rank() -> None:
    assert run_processes(_strings, 3) == [["", "é", "éé"]] * 3


def _refuse() -> str:
    def check() -> None:
        raise DataError("a.json: no images")

    try:
        distributed.on_main_process(check)
    except DataError as error:
        return str(error)
    return "nothing raised"


def test_an_error_on_the_main_process_is_raised_on_all() -> None:
    assert run_processes(_refuse, 2) == ["a.json: no images"] * 2


def _result() -> Any:
    return distributed.on_main_process(lambda: 5)


def test_a_result_stays_on_the_main_process() -> None:
    assert run_processes(_result, 2) == [5, None]


def _stop_after(asked: dict[int, int], accumulate: int) -> int:
    # Every step ends with a reduction, as a step with DDP does.
    stop = distributed.StopTogether("test")
    for step in range(1, 20):
        torch.distributed.all_reduce(torch.zeros(1))
        if asked.get(idist.get_rank()) == step:
            stop.request()
        if stop.should_stop(step):
            return step
    return 0


@pytest.mark.parametrize("asked", [{0: 3}, {1: 5}, {0: 4, 1: 4}, {0: 6, 1: 5, 2: 7}])
def test_all_processes_stop_after_the_same_step(asked: dict[int, int]) -> None:
    stopped = run_processes(_stop_after, 3, asked, 1)
    assert len(set(stopped)) == 1
    first = min(asked.values())
    assert first <= stopped[0] <= first + 2


def _stop_and_go_on() -> tuple[list[tuple[int, int]], bool, bool]:
    stop, found = distributed.StopTogether("rounds"), []
    announced = stop.announced()
    for step in range(1, 20):
        torch.distributed.all_reduce(torch.zeros(1))
        if step == 3 and idist.get_rank() == 1:
            stop.request(10)
        if step == 4 and idist.get_rank() == 0:
            stop.request(15)  # in the middle of the other's round: its own comes after
        if stop.should_stop(step):
            found.append((step, stop.reason))
            stop.reset()
    if idist.get_rank() == 1:
        stop.announce()
    idist.barrier()
    return found, announced, stop.announced()


def test_after_a_stop_the_next_one_is_agreed_on() -> None:
    first, second = run_processes(_stop_and_go_on, 2)
    assert first == second
    (step, reason), (later, other) = first[0]
    assert (reason, other) == (10, 15)
    assert step == 5
    assert 6 <= later <= 8
    assert first[1:] == (False, True)


def test_a_single_process_stops_at_once() -> None:
    stop = distributed.StopTogether()
    assert not stop.should_stop(1)
    stop.request()
    assert stop.should_stop(2)


def _buffers() -> tuple[float, float]:
    model = nn.BatchNorm1d(1)
    model.running_mean.fill_(idist.get_rank())
    with torch.no_grad():
        model.weight.fill_(idist.get_rank())
    distributed.broadcast_buffers(model)
    return model.running_mean.item(), model.weight.item()


def test_buffers_of_the_main_process_reach_all_and_parameters_stay() -> None:
    assert run_processes(_buffers, 2) == [(0.0, 0.0), (0.0, 1.0)]


def _parallel() -> tuple[str, float]:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, idist.get_rank() + 1.0)
    parallel = distributed.create_parallel_model(model, "cpu")
    inner = distributed.unwrap_model(parallel)
    return type(parallel).__name__, inner.weight.item()


def test_models_are_wrapped_and_start_equal() -> None:
    assert run_processes(_parallel, 2) == [("DistributedDataParallel", 1.0)] * 2
    assert run_processes(_parallel, 1) == [("Linear", 1.0)]


def _draw() -> list[float]:
    distributed.seed_step(3, 1)
    return [torch.rand(1).item(), random.random(), float(np.random.rand())]  # noqa: NPY002  # users draw from it


def test_steps_draw_by_seed_iteration_and_rank_alone() -> None:
    first, again = run_processes(_draw, 2), run_processes(_draw, 2)
    assert first == again
    assert all(a != b for a, b in zip(*first, strict=True))


def _draw_before_and_after_joining(address: str) -> list[list[float]]:
    """What iterations 5 to 8 draw where a process group comes into being, or a fork, after each."""

    def draw(iteration: int) -> float:
        distributed.seed_step(3, iteration)
        return torch.rand(1).item()

    rank = int(os.environ["RANK"])
    drawn = [[draw(5)]]
    torch.distributed.init_process_group("gloo", f"file://{address}", rank=rank, world_size=2)
    trainer = engines.create_trainer(lambda engine, batch: draw(6 + engine.state.iteration - 1), nn.Linear(1, 1))
    trainer.run([0], max_epochs=1)
    drawn.append([trainer.state.output])
    torch.distributed.barrier()  # nobody leaves while others still connect
    torch.distributed.destroy_process_group()
    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, struct.pack("d", draw(7)))
        os._exit(0)
    os.waitpid(child, 0)
    drawn.append(list(struct.unpack("d", os.read(read, 8))))
    return drawn


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_rank_of_a_step_is_that_of_now(tmp_path: Path) -> None:
    program = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
from tests.distributed.test_distributed import _draw_before_and_after_joining
print(_draw_before_and_after_joining(sys.argv[2]))
"""
    processes = []
    for rank in range(2):
        command = [sys.executable, "-c", program, str(Path(__file__).parents[2]), str(tmp_path / "group")]
        environment = os.environ | {"RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
    first, second = (ast.literal_eval(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes)
    assert first[0] == second[0]  # each by itself was rank 0
    assert first[1] != second[1]
    assert first[2] == second[2]


def test_steps_in_turns_draw_as_by_themselves() -> None:
    def draw(seed: int, iteration: int) -> float:
        distributed.seed_step(seed, iteration)
        return torch.rand(1).item()

    alone = {(seed, iteration): draw(seed, iteration) for seed in (0, 1) for iteration in (1, 2, 3, 7)}
    assert len(set(alone.values())) == len(alone)
    for order in (sorted(alone, key=lambda key: key[1]), sorted(alone, reverse=True)):
        assert {key: draw(*key) for key in order} == alone


def _draw_with_and_without_a_stop(folder: str, stop: int) -> tuple[list[Any], list[Any]]:
    """What the steps draw in one run of six iterations, and in one that stops and is resumed."""

    def run(name: str, stop: int = 100) -> list[Any]:
        model = nn.Linear(2, 1)
        update = engines.GradientUpdate(torch.optim.SGD(model.parameters(), lr=0.1))

        def step(engine: Engine, batch: Any) -> dict[str, Any]:
            distributed.seed_step(3, engine.state.iteration)
            # An odd number of normal numbers leaves one that is kept for the next call.
            drawn.append([random.random(), random.gauss(0, 1), *np.random.randn(3), np.random.rand()])  # noqa: NPY002
            drawn[-1] += [torch.rand(1).item(), engine.state.iteration]
            return update(engine, model, lambda: model(torch.ones(1, 2)).sum())

        drawn: list[Any] = []
        trainer = engines.create_trainer(step, model, update)
        trainer.add_event_handler(Events.EPOCH_STARTED, lambda: random.random())
        trainer.add_event_handler(Events.GET_BATCH_STARTED, lambda: random.random())  # a data set that draws, say
        handlers.attach_checkpoints(trainer, None, {"model": model}, Path(folder) / name, every=2, resume="auto")
        skip = stop % 2 == 1  # also where COMPLETED does not follow
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=stop), lambda: trainer.terminate(skip))
        trainer.run([0, 0, 0], max_epochs=2)
        return drawn

    whole = run("whole")
    parts = run("parts", stop)
    random.seed(0)  # another process begins with other states
    np.random.seed(0)  # noqa: NPY002
    return whole, parts + run("parts")


@pytest.mark.parametrize("stop", [2, 3, 5])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_resumed_run_draws_what_the_uninterrupted_one_would_have(processes: int, stop: int, tmp_path: Path) -> None:
    drawn = run_processes(_draw_with_and_without_a_stop, processes, str(tmp_path), stop)
    for whole, parts in drawn:
        assert [values[-1] for values in whole] == [1, 2, 3, 4, 5, 6]
        # Some iterations are done again, those since the newest checkpoint.
        assert {values[-1] for values in parts} == {1, 2, 3, 4, 5, 6}
        assert all(values in whole for values in parts)
    assert len({str(whole) for whole, _ in drawn}) == processes


def test_keyed_seeds_do_not_collide() -> None:
    seeds = {distributed.keyed_seed(s, e, i) for s in range(4) for e in range(20) for i in range(200)}
    assert len(seeds) == 4 * 20 * 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_unwrap_reaches_through_compile() -> None:
    model = nn.Linear(2, 2)
    assert distributed.unwrap_model(torch.compile(model)) is model
