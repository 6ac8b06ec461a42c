"""Processes that a launcher starts again do not read what those before have left in its store."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
import torch

from ignite_imgtools.distributed import attempts
from tests.distributed.spawn import run_processes


def _start(store: Any, world_size: int, late: int = -1) -> list[Any]:
    """The parts of the store that the processes of one start get; ``late`` comes after the others."""
    parts: dict[int, Any] = {}

    def join(rank: int) -> None:
        time.sleep(0.1 * (rank == late))
        parts[rank] = attempts.own_part(store, rank, world_size, timedelta(seconds=20))

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [parts[rank] for rank in range(world_size)]


@pytest.mark.parametrize("late", [0, 1, 2])
def test_each_start_has_a_part_of_the_store_of_its_own(late: int) -> None:
    store = torch.distributed.HashStore()
    starts = [_start(store, size, late) for size in (3, 3, 2, 3)]
    for number, parts in enumerate(starts):
        assert not parts[0].check(["who"])
        parts[0].set("who", str(number))
        assert all(part.get("who") == str(number).encode() for part in parts)


def test_a_process_that_does_not_come_is_named() -> None:
    store = torch.distributed.HashStore()
    _start(store, 2)  # leaves a question, its answer, and that it was taken
    with pytest.raises(RuntimeError, match="waited in vain for ranks 1 to start"):
        attempts.own_part(store, 0, 2, timedelta(seconds=0.1))
    with pytest.raises(RuntimeError, match="waited in vain for rank 0 to start"):
        attempts.own_part(store, 1, 2, timedelta(seconds=0.1))


def test_only_a_launcher_that_keeps_its_store_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert attempts.init_method() is None
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert attempts.init_method() == attempts.init_method() == "ignite-imgtools://"


def test_a_token_is_the_same_on_all_processes_and_never_again() -> None:
    found = run_processes(lambda: [attempts.new_token() for _ in range(3)], 2)
    assert found[0] == found[1]
    assert len(set(found[0])) == 3
