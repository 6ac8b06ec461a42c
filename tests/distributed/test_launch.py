"""The same script, however its processes are started, does the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ignite_imgtools.data.make_data import make_data

pytestmark = pytest.mark.fixed_port

_SCRIPT = Path(__file__).with_name("train_script.py")
_TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data("coco", tmp_path_factory.mktemp("data") / "coco", num_train=10, num_val=5, seed=3, image_size=96)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _run(commands: list[list[str]]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=900)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()


def _result(run: Path) -> tuple[dict[str, Any], str]:
    checkpoint = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    return checkpoint["model"], (run / "metrics.jsonl").read_text()


def _assert_same(run: Path, reference: Path) -> None:
    (weights, lines), (expected_weights, expected_lines) = _result(run), _result(reference)
    assert lines == expected_lines
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[key], expected_weights[key]) for key in weights)


@pytest.fixture(scope="module")
def spawned(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("spawned") / "run"
    _run([[sys.executable, str(_SCRIPT), str(dataset), str(run), "2"]])
    assert "val/bbox/AP" in (run / "metrics.jsonl").read_text()
    return run


def test_torchrun_on_one_node(dataset: Path, spawned: Path, tmp_path: Path) -> None:
    _run([[*_TORCHRUN, "--standalone", "--nproc-per-node", "2", str(_SCRIPT), str(dataset), str(tmp_path / "run")]])
    _assert_same(tmp_path / "run", spawned)


def test_torchrun_on_two_nodes(dataset: Path, spawned: Path, tmp_path: Path) -> None:
    address = ["--master-addr", "127.0.0.1", "--master-port", str(_free_port())]
    script = [str(_SCRIPT), str(dataset), str(tmp_path / "run")]
    _run(
        [
            [*_TORCHRUN, "--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1", *address, *script]
            for node in range(2)
        ]
    )
    _assert_same(tmp_path / "run", spawned)


def test_three_processes(dataset: Path, tmp_path: Path) -> None:
    _run([[sys.executable, str(_SCRIPT), str(dataset), str(tmp_path / "run"), "3"]])
    assert "val/bbox/AP" in (tmp_path / "run" / "metrics.jsonl").read_text()


_BUSY_AT_THE_END = """
import threading, torch
from ignite_imgtools.distributed import launch

def use_torch():
    while True:
        torch.ones(1 << 16).sum()

def main(local_rank):
    for _ in range(4):
        threading.Thread(target=use_torch, daemon=True).start()

if __name__ == "__main__":
    launch(main, nproc_per_node=2, backend="gloo")
"""


def test_a_thread_that_uses_torch_does_not_fail_the_end_of_a_process(tmp_path: Path) -> None:
    # Torn out of a call that has let go of the interpreter, such a thread aborts its process.
    (tmp_path / "script.py").write_text(_BUSY_AT_THE_END)
    _run([[sys.executable, str(tmp_path / "script.py")]])
