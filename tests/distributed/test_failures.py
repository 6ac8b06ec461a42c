"""Each process looks after those of its own machine, at a cost that does not grow with all there are."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ignite_imgtools.distributed import failures


class CountingStore:
    """Hands on what it is asked, and counts."""

    def __init__(self, store: Any):
        self._store, self.requests = store, 0

    def __getattr__(self, name: str) -> Any:
        self.requests += 1
        return getattr(self._store, name)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> failures._Watch:
    """That of rank 0 of 1,024, eight of them on this machine."""
    store = torch.distributed.HashStore()
    monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(failures, "_INTERVAL", 0.01)
    watch = failures._Watch(0)
    monkeypatch.setattr(watch, "_world_size", 1024)
    for rank in range(1024):
        watch._store.set(f"done/{rank}", "0")
        host = watch._host if rank < 8 else f"host/{rank // 8}"
        watch._store.set(f"{host}/{watch._store.add(host, 1)}", f"{rank} {os.getpid()}")
    return watch


def test_requests_do_not_grow_with_the_processes(watch: failures._Watch) -> None:
    watch._look(4)
    assert sorted(watch._here) == list(range(8))
    watch._store = counting = CountingStore(watch._store)  # type: ignore[assignment]
    for turn in range(1, 5):
        watch._look(turn)
    assert counting.requests <= 11


def test_a_neighbour_that_died_without_a_word_is_found(watch: failures._Watch) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    watch._store.set(f"{watch._host}/4", f"3 {dead.pid}")
    watch._look(4)
    watch._look(1)
    assert watch._told is not None
    assert watch._told.rank == 3
    assert "ended without a word" in watch._told.reason


def test_one_that_was_done_before_is_not_taken_for_dead(watch: failures._Watch) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    watch._store.set(f"{watch._host}/4", f"3 {dead.pid}")
    watch._store.set("done/3", "1")
    watch._look(4)
    watch._look(1)
    assert watch._told is None


def test_the_one_that_failed_first_goes_first(watch: failures._Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_HEAD_START", 0.01)
    monkeypatch.setattr(failures, "_SECONDS_TO_END", 60.0)
    leaving = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"])
    watch._here = {3: leaving.pid}
    watch._told, watch._told_at = failures.ProcessFailure(3, "ValueError", "its own"), time.monotonic()
    watch.report(ConnectionError("the others were gone"))
    assert leaving.poll() is not None
    stuck = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        watch._here, watch._reported = {3: stuck.pid}, None
        watch._told = failures.ProcessFailure(3, "", "no progress for 8 s")
        before = time.monotonic()
        watch.report(ConnectionError("the others were gone"))
        assert time.monotonic() - before < 30
    finally:
        stuck.kill()
        stuck.wait()


def test_the_thread_of_the_watch_ends_with_it(watch: failures._Watch) -> None:
    watch._world_size = 1
    watch._thread.start()
    watch.stop()
    assert not watch._thread.is_alive()


class BreakingStore:
    """Hands on what it is asked, but for some of the questions whether something is there."""

    def __init__(self, store: Any, breaks: Callable[[int], bool]):
        self._store, self._breaks, self.checks = store, breaks, 0

    def check(self, keys: list[str]) -> bool:
        self.checks += 1
        if self._breaks(self.checks):
            raise torch.distributed.DistNetworkError("reset by\npeer")
        return self._store.check(keys)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_look_that_fails_once_ends_nothing(
    watch: failures._Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "_end", lambda: pytest.fail(f"ended: {watch._told}"))
    watch._world_size = 1
    watch._look(4)  # finds the others, by a question for each
    # A look has two such questions or three, so that no two looks in a row are broken.
    watch._store = store = BreakingStore(watch._store, lambda check: check % 10 == 0)  # type: ignore[assignment]
    watch._thread.start()
    deadline = time.monotonic() + 30
    while store.checks < 100 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert store.checks >= 100
    assert watch._told is None
    watch.stop()
    told = {record.getMessage() for record in caplog.records}
    assert told == {"rank 0 could not look after the other processes once: DistNetworkError: reset by peer"}


def test_a_store_that_is_gone_ends_the_process_and_says_how(
    watch: failures._Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(failures, "_SECONDS_TO_END", 0.05)
    monkeypatch.setattr(watch, "_end", ended.set)
    watch._store = BreakingStore(watch._store, lambda check: check > 10)  # type: ignore[assignment]
    watch._thread.start()
    assert ended.wait(30)
    watch._ended.set()
    watch._thread.join()
    assert watch._told is not None
    reason = "it has ended without a word, or the launcher has (DistNetworkError: reset by peer)"
    assert (watch._told.rank, watch._told.kind, watch._told.reason) == (0, "", reason)
