"""The benchmark that lets models learn images by heart, on so few and small ones that it takes seconds."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

_BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "overfit.py"


@pytest.mark.parametrize(("name", "size", "aim"), [("unet", 48, 0.9), ("u2net_lite", 64, 0.95)])
def test_two_images_are_learned_by_heart(name: str, size: int, aim: float) -> None:
    outcome = runpy.run_path(str(_BENCHMARK))["overfit"](name, None, size=size, steps=200, lr=3e-3, count=2)
    assert outcome.score > aim
    assert outcome.last_loss < outcome.first_loss


def test_two_persons_are_learned_by_heart() -> None:
    benchmark = runpy.run_path(str(_BENCHMARK.with_name("overfit_points.py")))
    outcome = benchmark["overfit"]("hrnet_small", benchmark["Options"](size=(96, 72), count=2))
    assert outcome.learned
    assert outcome.value > 0.9
