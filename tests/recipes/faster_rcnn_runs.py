"""Runs of the recipe on a model and data so small that the start of the process takes longer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

__all__ = ["SMALL", "assert_same_run", "command", "metrics_lines", "run"]

SMALL = (
    "--backbone resnet18 --heads small --min-size 48 --max-size 64 --anchor-sizes 8 12 16 32 64 --optimizer adamw "
    "--lr 1e-3 --weight-decay 0.01 --warmup 5 --batch-size 4 --group-by none --device cpu"
).split()


def command(*args: str) -> list[str]:
    """The command line of ``ignite-imgtools`` in this interpreter."""
    return [sys.executable, "-m", "ignite_imgtools", *args]


def run(*args: str, timeout: float = 900) -> str:
    """What a command that must succeed printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(*args), env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metrics_lines(folder: Path) -> list[dict[str, Any]]:
    """The records of ``metrics.jsonl``."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(one: Path, other: Path) -> None:
    """Checkpoints and logs of two run folders are equal, bit for bit."""
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    states = [torch.load(folder / "checkpoints" / "last.pt", weights_only=True) for folder in (one, other)]
    for state in states:
        for name in ("output_dir", "num_workers"):
            state["resumables"]["recipe"]["config"].pop(name)
    _assert_equal(*states, "checkpoint")


def _assert_equal(a: Any, b: Any, where: str) -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            _assert_equal(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            _assert_equal(x, y, f"{where}[{index}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b) or (a.isnan() & b.isnan()).any(), where
    else:
        assert a == b or (a != a and b != b), where
