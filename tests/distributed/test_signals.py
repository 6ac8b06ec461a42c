"""Signals to any of several processes: all stop after the same step, one checkpoint, the same run after a resume."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
from ignite.engine import Events

from ignite_imgtools.distributed import launcher
from ignite_imgtools.handlers import attach_signals, load_checkpoint
from tests.distributed.spawn import run_processes
from tests.handlers.toy_training import create_toy, digest

_ROOT = Path(__file__).resolve().parents[2]
_EVENTS = {"step": Events.ITERATION_STARTED, "end": Events.EPOCH_COMPLETED}


def _train(folder: Path, ranks: tuple[int, ...], place: str, iteration: int, number: int) -> tuple[int, int, str]:
    toy = create_toy()
    attach_signals(toy.trainer, toy.attach(folder))

    def send() -> None:
        if idist.get_rank() in ranks and toy.trainer.state.iteration == iteration:
            os.kill(os.getpid(), number)

    engine = toy.evaluator if place == "evaluation" else toy.trainer
    engine.add_event_handler(_EVENTS.get(place, Events.ITERATION_STARTED), send)
    code = 0
    try:
        toy.run()
    except SystemExit as stop:
        code = int(stop.code or 0)
    # The statistics of BatchNorm of other processes are their own and nobody's: DDP replaces them at each step.
    weights = digest(list(toy.model.parameters())) if idist.get_rank() else toy.digest()
    return code, toy.trainer.state.iteration, weights


def _last_iteration(folder: Path) -> int:
    return int(load_checkpoint(folder / "checkpoints" / "last.pt")["trainer"]["iteration"])


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return run_processes(_train, 2, tmp_path_factory.mktemp("straight"), (), "step", 0, 0)


@pytest.mark.parametrize(
    ("ranks", "place", "iteration", "saved"),
    [
        ((0,), "step", 2, {2, 3, 4}),
        ((1,), "step", 7, {7, 8, 9}),
        ((0, 1), "step", 6, {6, 7, 8}),
        # Before the evaluation could begin, or in it: what is left is from before the last step.
        ((1,), "step", 10, {9}),
        ((0,), "evaluation", 10, {9}),
        ((1,), "evaluation", 5, {4}),
        ((1,), "end", 10, {10}),
    ],
)
def test_all_stop_after_the_same_step_and_resume_to_the_same_run(
    tmp_path: Path, straight: list[Any], ranks: tuple[int, ...], place: str, iteration: int, saved: set[int]
) -> None:
    stopped = run_processes(_train, 2, tmp_path, ranks, place, iteration, signal.SIGTERM)
    assert stopped[0][:2] == stopped[1][:2]
    assert stopped[0][0] == 143
    assert _last_iteration(tmp_path) in saved
    assert run_processes(_train, 2, tmp_path, (), "step", 0, 0) == straight


def test_sigusr1_to_one_saves_once_and_all_go_on(tmp_path: Path, straight: list[Any]) -> None:
    assert run_processes(_train, 2, tmp_path, (1,), "step", 6, signal.SIGUSR1) == straight


_SCRIPT = """
import sys, time
import ignite.distributed as idist
from ignite.engine import Events
from ignite_imgtools.distributed import launch
from ignite_imgtools.distributed import launcher
from ignite_imgtools.handlers import attach_signals
from tests.handlers.toy_training import create_toy

def main(local_rank, folder, seconds):
    toy = create_toy()
    attach_signals(toy.trainer, toy.attach(folder))
    def linger():
        print("rank", idist.get_rank(), "step", toy.trainer.state.iteration, flush=True)
        time.sleep(seconds)
    toy.trainer.add_event_handler(Events.ITERATION_STARTED, linger)
    toy.run(40)

if __name__ == "__main__":
    folder, seconds, nproc = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    launch(main, folder, seconds, nproc_per_node=nproc or None, backend="gloo")
"""


@contextlib.contextmanager
def _start(
    folder: Path,
    command: list[str],
    seconds: float = 0.05,
    nproc: int = 0,
    until: str = "step 2",
    script: str = _SCRIPT,
) -> Iterator[Any]:
    path = folder / "script.py"
    path.write_text(script)
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [*command, str(path), str(folder), str(seconds), str(nproc)],
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if until in line:
                break
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_signal_to_save_is_handed_to_those_alone_that_it_would_not_end() -> None:
    script = "import signal, sys; {}; print(flush=True); sys.stdin.read()"
    for body, expected in (("signal.signal(signal.SIGUSR1, lambda *_: None)", True), ("pass", False)):
        command = [sys.executable, "-c", script.format(body)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert launcher._catches(process.pid, signal.SIGUSR1) is expected
            assert not launcher._catches(process.pid, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _session_is_empty(leader: int, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if subprocess.run(["pgrep", "-s", str(leader)], capture_output=True).returncode == 1:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_started_processes_get_the_signal_of_their_parent(tmp_path: Path) -> None:
    with _start(tmp_path, [sys.executable], seconds=0.3, nproc=2, until="step 6") as process:
        process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 30
        while (saved := _last_iteration(tmp_path)) <= 5:
            assert process.poll() is None, (tmp_path / "stderr").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert saved <= 8  # of itself the run takes the next one after the ninth step
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGINT, (tmp_path / "stderr").read_text()
        assert _session_is_empty(process.pid, 5)
    assert "stopped after iteration" in (tmp_path / "stderr").read_text()
    assert "Traceback" not in (tmp_path / "stderr").read_text()
    assert _last_iteration(tmp_path) >= saved


_NOT_YET_TRAINING = """
import sys, time
from ignite_imgtools.distributed import launch

def main(local_rank):
    print("step 2: of the preparations", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    launch(main, nproc_per_node=2, backend="gloo")
"""


@pytest.mark.slow
def test_an_interrupt_before_the_training_is_no_success(tmp_path: Path) -> None:
    with _start(tmp_path, [sys.executable], script=_NOT_YET_TRAINING) as process:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGINT, (tmp_path / "stderr").read_text()
        assert _session_is_empty(process.pid, 5)
    assert "failed first" not in (tmp_path / "stderr").read_text()


@pytest.mark.slow
def test_started_processes_do_not_outlive_their_parent(tmp_path: Path) -> None:
    with _start(tmp_path, [sys.executable], nproc=2) as process:
        process.kill()
        process.wait()
        assert _session_is_empty(process.pid, 10), (tmp_path / "stderr").read_text()
    assert _last_iteration(tmp_path) >= 2


@pytest.mark.slow
def test_processes_of_torchrun(tmp_path: Path) -> None:
    port = str(_free_port())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    with _start(tmp_path, torchrun) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode != 0
    assert "stopped after iteration" in (tmp_path / "stderr").read_text()
    assert _last_iteration(tmp_path) >= 2
