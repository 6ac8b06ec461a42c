"""A training of two processes in which rank 1 meets a fault: ``failing_script.py LAUNCHER FAULT FOLDER``.

Written as users write theirs; ``LAUNCHER`` is ``parallel`` (idist.Parallel), ``launch`` (what ``--nproc-per-node``
calls) or ``torchrun``, which starts it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from ignite_imgtools.data import create_loader
from ignite_imgtools.distributed import create_parallel_model, launch
from ignite_imgtools.engines import GradientUpdate, create_trainer
from ignite_imgtools.handlers import attach_checkpoints, attach_process_watch, attach_signals

STUCK_AFTER = 8.0
_AT = 4  # iteration


def _say() -> None:
    os.write(1, f"FAULT {time.time()}\n".encode())


class _Numbers(Dataset[Tensor]):
    """On rank 1 the worker that loads the ninth sample is killed, or stuck."""

    def __init__(self, fault: str):
        self._fault = fault if idist.get_rank() == 1 else ""
        self._loaded = 0

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Tensor:
        self._loaded += 1
        if self._loaded == 9 and self._fault == "worker killed":
            _say()
            os.kill(os.getpid(), signal.SIGKILL)
        if self._loaded == 9 and self._fault == "worker stuck":
            _say()
            time.sleep(1000)
        return torch.full((4,), float(index))


def _loader(fault: str) -> Any:
    workers = fault.startswith("worker")
    if fault == "unequal":
        batches = 9 if idist.get_rank() == 1 else 10
        return DataLoader(range(4 * batches), 4, collate_fn=lambda rows: torch.ones(len(rows), 4))  # type: ignore[arg-type]
    return create_loader(
        _Numbers(fault),
        8,
        shuffle=True,
        num_workers=int(workers),
        collate_fn=default_collate,
        timeout=STUCK_AFTER if fault == "worker stuck" else 600,
    )


def _meet(fault: str, trainer: Engine) -> None:
    if idist.get_rank() != 1 or trainer.state.iteration != _AT:
        return
    if fault not in ("nan", "none", "launcher killed", "unequal") and not fault.startswith("worker"):
        _say()
    if fault == "raise":
        raise ValueError("a fault of rank 1")
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "exit 0":
        sys.exit(0)
    if fault == "stuck":
        time.sleep(1000)
    if fault == "swallowed":
        raise ValueError("a fault of rank 1 that a handler swallows")


def main(local_rank: int, fault: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = create_parallel_model(nn.Linear(4, 1), "cpu")
    update = GradientUpdate(torch.optim.SGD(model.parameters(), lr=1e-6), clip_norm=1.0)

    def loss_of(batch: Tensor, iteration: int) -> Tensor:
        loss = model(batch).square().mean()
        if fault == "nan" and idist.get_rank() == 1 and iteration == _AT:
            _say()
            return loss * float("nan")
        return loss

    def step(engine: Engine, batch: Tensor) -> dict[str, Any]:
        output: dict[str, Any] = update(engine, model, lambda: loss_of(batch, engine.state.iteration))
        return output | {"batch_size": len(batch)}

    trainer = create_trainer(step, model, update)
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: _meet(fault, trainer))
    if fault == "launcher killed":
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: time.sleep(0.2))
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda: os.write(1, b"STEP\n"))
    if fault == "swallowed":
        trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda error: None)
    checkpoints = attach_checkpoints(trainer, None, {"model": model}, folder, every=1)
    attach_signals(trainer, checkpoints)
    attach_process_watch(trainer, stuck_after=STUCK_AFTER if fault == "stuck" else None)
    trainer.run(_loader(fault), max_epochs=2000 if fault == "launcher killed" else 2)


if __name__ == "__main__":
    launcher, fault, folder = sys.argv[1:]
    if launcher == "launch":
        launch(main, fault, folder, nproc_per_node=2, backend="gloo")
    else:
        with idist.Parallel(backend="gloo", nproc_per_node=2 if launcher == "parallel" else None) as parallel:
            parallel.run(main, fault, folder)
