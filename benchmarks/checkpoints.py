"""How long a checkpoint holds up the training loop, beside a synchronous ``torch.save`` of the same state, in one run.

The state is a ResNet-34 and its momentum, 174 MB. ``torch.save`` is the plain call; ``durable`` the same to a temporary
file, fsync, rename; ``ours`` and ``ours, background`` are ``save_now`` of ``attach_checkpoints`` without and with
``background``: with it the call returns once the state has been copied into host buffers, and checks, checksum, file
and fsync come on a thread, which is waited for before the next way has its turn.

The ways take turns; shown are the clock's milliseconds that the loop is held up, the least and the median, and the CPU
time of the loop's thread. ``--memory`` tells what a process of its own for each way grew by at its largest.

    python benchmarks/checkpoints.py
    python benchmarks/checkpoints.py --memory
    python benchmarks/checkpoints.py --device cuda
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from ignite.engine import Engine

from ignite_imgtools import handlers

Way = Callable[[int], Callable[[], Any]]
"""Takes a checkpoint of an iteration; returns what waits until it is on disk."""


def create_training(device: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model and an optimizer that has momentum for each parameter."""
    torch.manual_seed(0)
    model = torchvision.models.resnet34().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def torch_save(device: str, folder: Path) -> Way:
    model, optimizer = create_training(device)

    def save(iteration: int) -> Callable[[], Any]:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "plain.pt")
        return lambda: None

    return save


def durable_save(device: str, folder: Path) -> Way:
    model, optimizer = create_training(device)

    def save(iteration: int) -> Callable[[], Any]:
        temporary = folder / "durable.tmp"
        with temporary.open("wb") as file:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / "durable.pt")
        return lambda: None

    return save


def ours(device: str, folder: Path, background: bool) -> Way:
    model, optimizer = create_training(device)
    trainer = Engine(lambda engine, batch: None)
    to_save = {"model": model, "optimizer": optimizer}
    checkpoints = handlers.attach_checkpoints(
        trainer, None, to_save, folder, resume="never", background=background, keep_last=1
    )
    trainer.run([0])

    def save(iteration: int) -> Callable[[], Any]:
        trainer.state.iteration = iteration
        checkpoints.save_now()
        return checkpoints.wait

    return save


WAYS: dict[str, Callable[[str, Path], Way]] = {
    "torch.save": torch_save,
    "durable": durable_save,
    "ours": lambda device, folder: ours(device, folder / "ours", background=False),
    "ours, background": lambda device, folder: ours(device, folder / "background", background=True),
}


def measure(device: str, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds that each checkpoint held the loop up, by the clock and of this thread's CPU; after a warm-up."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        ways = {name: create(device, Path(folder)) for name, create in WAYS.items()}
        for i in range(rounds + 1):
            for name, way in ways.items():
                os.sync()
                if device != "cpu":
                    torch.cuda.synchronize()
                clock, cpu = time.perf_counter(), time.thread_time()
                wait = way(i + 2)
                held_up = (time.perf_counter() - clock, time.thread_time() - cpu)
                wait()
                if i:
                    seconds[name].append(held_up)
    return seconds


def memory(name: str | None, device: str) -> float:
    """The largest size in megabytes of this process while it takes three checkpoints, or none."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        model_and_optimizer = create_training(device) if name is None else None
        way = WAYS[name](device, Path(folder)) if name is not None else None
        Path("/proc/self/clear_refs").write_text("5")  # the largest size so far is forgotten
        for i in range(3):
            if way is not None:
                way(i + 2)()
        del model_and_optimizer
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--one", choices=["none", *WAYS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(memory(None if options.one == "none" else options.one, options.device))
    elif options.memory:
        idle = 0.0
        for name in ("none", *WAYS):
            command = [sys.executable, __file__, "--device", options.device, "--one", name]
            size = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            idle = idle or size
            print(f"{name:18} {size:7.0f} MB, {size - idle:5.0f} beyond a process without checkpoints", flush=True)
    else:
        seconds = measure(options.device, options.rounds)
        print(f"{options.rounds} rounds, {torch.get_num_threads()} threads of torch, {os.cpu_count()} cores")
        base = [[values[part] for values in seconds["torch.save"]] for part in (0, 1)]
        for name, pairs in seconds.items():
            clock, cpu = ([pair[part] for pair in pairs] for part in (0, 1))
            print(
                f"{name:18} least {min(clock) * 1e3:7.1f} ms  ratio {min(clock) / min(base[0]):.3f}"
                f"  median {statistics.median(clock) * 1e3:7.1f} ms"
                f"  ratio {statistics.median(clock) / statistics.median(base[0]):.3f}"
                f"  CPU {statistics.median(cpu) * 1e3:6.1f} ms"
                f"  ratio {statistics.median(cpu) / statistics.median(base[1]):.3f}"
            )


if __name__ == "__main__":
    main()
