"""Processes that end quickly still end as they should: their status, what atexit does, what they print."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_BEGIN = """
import atexit, sys
from ignite_imgtools import process_end
atexit.register(lambda: print("an early one"))
"""
# What is only taken apart when the interpreter is, so that it tells whether that happens.
_LAST = """
class Part:
    def __del__(self):
        print("taken apart")
part = Part()
part.itself = part
"""


def _run(code: str) -> tuple[int, list[str], str]:
    done = subprocess.run([sys.executable, "-c", _BEGIN + _LAST + code], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_without_any_of_it_the_interpreter_is_taken_apart() -> None:
    assert _run("") == (0, ["an early one", "taken apart"], "")


@pytest.mark.parametrize("status", [0, 3, 143])
def test_leaves_with_its_status_once_atexit_is_done(status: int) -> None:
    code = f"atexit.register(lambda: print('a late one')); process_end.leave_at_exit({status}); sys.exit(7)"
    assert _run(code) == (status, ["a late one", "an early one"], "")


def test_ends_as_it_would_have_where_it_is_not_to_leave() -> None:
    code = "process_end.leave_at_exit(0, unless=lambda: True); sys.exit(7)"
    assert _run(code) == (7, ["an early one", "taken apart"], "")


def test_a_process_that_ends_soon_keeps_its_status_and_its_words() -> None:
    late = "atexit.register(lambda: print('a late one', file=sys.stderr)); process_end.end_soon(); "
    assert _run(late + "sys.exit(5)") == (5, ["an early one"], "a late one\n")
    status, printed, error = _run(late + "raise ValueError('the reason')")
    assert (status, printed) == (1, ["an early one"])
    assert error.splitlines()[-2:] == ["ValueError: the reason", "a late one"]


@pytest.mark.parametrize(("arguments", "status"), [(["--version"], 0), (["nonsense"], 2)])
def test_the_command_line_ends_with_its_status(arguments: list[str], status: int) -> None:
    done = subprocess.run([sys.executable, "-m", "ignite_imgtools", *arguments], capture_output=True, check=False)
    assert done.returncode == status
    assert done.stdout if status == 0 else done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_is_lost_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
        command = [sys.executable, "-m", "ignite_imgtools", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.returncode == 120
    assert "No space left on device" in done.stderr


_KEPT_GROUP = """
import sys, time
import torch
import torch.distributed as dist
import ignite_imgtools.distributed

dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=int(sys.argv[1]), world_size=2)
group = dist.group.WORLD  # as a parallel model does, which refers to its group
dist.destroy_process_group()
sys.setswitchinterval(60)  # this thread keeps the interpreter, so that those of the group wait for it
for _ in range(4):
    group.allreduce([torch.ones(4)])
until = time.monotonic() + 0.4
while time.monotonic() < until:
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are found by their names in /proc")
def test_a_process_whose_group_has_outlived_its_end_does_not_abort(tmp_path: Path) -> None:
    # Without care two of three of these processes abort.
    for attempt in range(4):
        store = str(tmp_path / f"store{attempt}")
        commands = ([sys.executable, "-c", _KEPT_GROUP, str(rank), store] for rank in range(2))
        processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
        told = [process.communicate()[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], told
