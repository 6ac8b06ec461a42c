"""Memory that goes back: garbage that refers to itself, and pages that the allocator keeps."""

import gc
import os
import platform
import subprocess
import sys
import weakref
from collections.abc import Callable

import pytest
from ignite.engine import Engine, Events

from ignite_imgtools import free_memory
from ignite_imgtools.free_memory import collect_cycles, give_back_free_memory
from ignite_imgtools.handlers import evaluate_on_epoch

_GLIBC = platform.libc_ver()[0] == "glibc"


class _Cycle:
    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def _collections_by_hand_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(free_memory, "_next_collection", 0.0)
    enabled = gc.isenabled()
    gc.disable()
    yield
    if enabled:
        gc.enable()


def _garbage() -> Callable[[], object]:
    return weakref.ref(_Cycle())


def test_collections_take_at_most_a_fiftieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every reading of the clock is a second later: a collection takes one.
    times = iter(range(1, 1000))
    monkeypatch.setattr(free_memory, "perf_counter", lambda: next(times))
    collected = []
    monkeypatch.setattr(free_memory.gc, "collect", lambda: collected.append(None))
    for _ in range(200):
        collect_cycles()
    # Of 200 calls a second apart each 50th collects, and reads the clock once more.
    assert len(collected) == 4


def test_garbage_that_refers_to_itself_goes() -> None:
    alive = _garbage()
    assert alive() is not None
    collect_cycles()
    assert alive() is None
    alive = _garbage()
    collect_cycles()
    assert alive() is not None  # so soon it would cost too much


def test_an_evaluation_leaves_no_garbage_and_no_free_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed, alive = [], []
    monkeypatch.setattr(free_memory, "_malloc_trim", lambda: trimmed.append)
    trainer, evaluator = Engine(lambda *_: None), Engine(lambda *_: None)

    def after_evaluation() -> None:
        alive.append(_garbage())
        assert alive[-1]() is not None
        assert len(trimmed) == len(alive) - 1

    evaluate_on_epoch(trainer, evaluator, [0])
    evaluator.add_event_handler(Events.COMPLETED, after_evaluation)
    seen = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append([ref() for ref in alive]))
    trainer.run([0], max_epochs=2)
    assert seen[0] == [None]
    assert trimmed == [0, 0]


def test_pages_between_those_in_use_go_back() -> None:
    assert (free_memory._malloc_trim() is not None) == _GLIBC
    give_back_free_memory()  # nowhere an error
    if not _GLIBC:
        pytest.skip("the C library has no malloc_trim")
    program = """
import ctypes, os
from ignite_imgtools.free_memory import give_back_free_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def pages():
    return int(open("/proc/self/statm").read().split()[1])
pieces = [libc.malloc(100_000) for _ in range(1000)]  # small enough to come from the heap
for piece in pieces:
    ctypes.memset(piece, 1, 100_000)
for place, piece in enumerate(pieces):
    if place % 10:  # one in ten stays, the last one too
        libc.free(piece)
before = pages()
give_back_free_memory()
print((before - pages()) * os.sysconf("SC_PAGE_SIZE"))
"""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert int(run.stdout) > 80_000_000
