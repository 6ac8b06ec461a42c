"""Fixtures shared by all tests: the real photographs, and processes that are really started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

_ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    # Workers of pytest-xdist share the cores; a thread for each core in every worker makes all of them slow.
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs: ``$IGNITE_IMGTOOLS_DATA``, else ``../shared/data`` beside the project."""
    folder = Path(os.environ.get("IGNITE_IMGTOOLS_DATA") or _ROOT.parent / "shared" / "data")
    if not folder.is_dir() and os.environ.get("IGNITE_IMGTOOLS_REQUIRE_DATA"):
        pytest.fail(f"no real photographs: {folder} is not a folder, and IGNITE_IMGTOOLS_REQUIRE_DATA is set")
    if not folder.is_dir():
        pytest.skip(f"no real photographs: {folder} is not a folder; set IGNITE_IMGTOOLS_DATA to where they are")
    return folder
