"""Fixtures shared by all tests: the real photographs, and processes that are really started."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_ROOT = Path(__file__).resolve().parents[1]
_NOTEBOOKS_WITH_FIXED_PORT = ("processes_and_resume.ipynb",)


def pytest_configure(config: pytest.Config) -> None:
    # Workers of pytest-xdist share the cores; a thread for each core in every worker makes all of them slow.
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    # Workers of pytest-xdist, and another run of the tests on this machine, would meet at the port.
    fixed_port = item.get_closest_marker("fixed_port") or item.path.name in _NOTEBOOKS_WITH_FIXED_PORT
    with _port() if fixed_port else contextlib.nullcontext():
        return (yield)


@contextlib.contextmanager
def _port() -> Iterator[None]:
    if fcntl is None:
        yield
        return
    name = f"ignite_imgtools-tests-port-{os.getuid()}.lock"
    with (Path(tempfile.gettempdir()) / name).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:  # not by closing it: a process that a test has left behind has it open too
            fcntl.flock(file, fcntl.LOCK_UN)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs: ``$IGNITE_IMGTOOLS_DATA``, else ``../shared/data`` beside the project."""
    folder = Path(os.environ.get("IGNITE_IMGTOOLS_DATA") or _ROOT.parent / "shared" / "data")
    if not folder.is_dir() and os.environ.get("IGNITE_IMGTOOLS_REQUIRE_DATA"):
        pytest.fail(f"no real photographs: {folder} is not a folder, and IGNITE_IMGTOOLS_REQUIRE_DATA is set")
    if not folder.is_dir():
        pytest.skip(f"no real photographs: {folder} is not a folder; set IGNITE_IMGTOOLS_DATA to where they are")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _folders_of_a_module(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Removes the folders that a module's fixtures shared, unless a test of it failed: runs of all fill 11 GB."""
    base = tmp_path_factory.getbasetemp()
    before, failed = set(base.iterdir()), request.session.testsfailed
    yield
    if request.session.testsfailed == failed:
        for folder in set(base.iterdir()) - before:
            if not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)
