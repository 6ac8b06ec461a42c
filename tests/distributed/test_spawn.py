from __future__ import annotations

import os
import time

import ignite.distributed as idist
import pytest
import torch

from tests.distributed.spawn import run_processes


def _sum_of_ranks(start: int) -> tuple[int, int, float]:
    return idist.get_rank(), idist.get_world_size(), float(idist.all_reduce(torch.tensor(start + idist.get_rank())))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_form_a_group(world_size):
    total = float(sum(10 + rank for rank in range(world_size)))
    assert run_processes(_sum_of_ranks, world_size, 10) == [(rank, world_size, total) for rank in range(world_size)]


def _fail_on_rank_1() -> None:
    if idist.get_rank() == 1:
        raise KeyError("what went wrong")
    idist.barrier()


def test_the_first_error_reaches_the_parent():
    with pytest.raises(RuntimeError, match=r"(?s)rank 1 of 2 failed.*_fail_on_rank_1.*what went wrong"):
        run_processes(_fail_on_rank_1, 2)


def _die_on_rank_0() -> None:
    if idist.get_rank() == 0:
        os._exit(7)
    time.sleep(60)


def test_a_dead_process_is_reported():
    with pytest.raises(RuntimeError, match="rank 0 died with exit code 7"):
        run_processes(_die_on_rank_0, 2)


def _hang_on_rank_1() -> None:
    if idist.get_rank() == 1:
        time.sleep(60)


def test_processes_are_killed_on_time_out():
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=r"ranks \[0, 1\] of 2"):
        run_processes(_hang_on_rank_1, 2, timeout=2)
    assert time.monotonic() - begin < 30
