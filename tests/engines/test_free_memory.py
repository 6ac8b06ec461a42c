"""What is released is seen from outside."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest
import torch

from ignite_imgtools.engines import create_trainer
from ignite_imgtools.engines.free_memory import FreeMemory, release_free_memory

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def _leave_free_pieces(count: int = 1500) -> list[torch.Tensor]:
    """Of 100 kB, below what glibc asks the system for piece by piece; one in ten stays, and holds the others."""
    return [torch.ones(25_000) for _ in range(count)][::10]


def test_free_pieces_between_others_are_released() -> None:
    release_free_memory()
    before = _resident_mb()
    kept = _leave_free_pieces()
    grown = _resident_mb() - before
    assert release_free_memory()
    released = before + grown - _resident_mb()
    assert released > 80, (grown, released)  # of 143 MB less those kept
    assert all(bool((piece == 1).all()) for piece in kept)


def test_a_trainer_does_it_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    now = [0.0]
    monkeypatch.setattr("ignite_imgtools.engines.free_memory.time.monotonic", lambda: now[0])
    monkeypatch.setattr("ignite_imgtools.engines.free_memory.release_free_memory", lambda: calls.append(now[0]))

    def step(engine: object, batch: float) -> None:
        now[0] += batch

    create_trainer(step, torch.nn.Identity()).run([25.0], max_epochs=7)
    assert calls == [75.0, 150.0]
    every = FreeMemory(seconds=0.0)
    every()
    every()
    assert calls == [75.0, 150.0, 175.0, 175.0]
