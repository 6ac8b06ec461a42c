"""The training that is signalled: ``signalled_script.py LAUNCHER FOLDER OPTIONS``, with the options as JSON.

``LAUNCHER`` is ``launch``, which starts two processes, or ``torchrun``, which has started them. What it does is told
on standard output, a line each: processes, steps begun and ended, evaluations, checkpoints that a signal asked for.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Events

from ignite_imgtools.distributed import all_gather_strings, launch
from ignite_imgtools.handlers import (
    MetricLogger,
    attach_signals,
    evaluate_on_epoch,
    load_checkpoint,
    open_run_folder,
)
from tests.handlers.toy_training import EPOCH_LENGTH, create_toy, digest

__all__ = ["EPOCHS", "STEPS", "train"]

EPOCHS = 6
STEPS = EPOCHS * EPOCH_LENGTH


def _tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def train(
    local_rank: int,
    folder: str,
    *,
    num_workers: int = 0,
    background: bool = False,
    pause: float = 0.0,
    stop_at: int = 0,
    stop_rank: int = 0,
) -> None:
    """One part of a run, from where the part before was stopped; the last one leaves ``digest`` in the folder.

    Args:
        pause: seconds that each step, and each step of an evaluation, takes longer.
        stop_at: the iteration in which the process ``stop_rank`` stands still.
    """
    rank = idist.get_rank()
    _tell(f"process {rank} {os.getpid()}")
    open_run_folder(folder, {"lr": 0.1})
    toy = create_toy(num_workers=num_workers, evaluate=False)
    logger = MetricLogger(folder, console=False).attach(toy.trainer, every=2)
    evaluate_on_epoch(toy.trainer, toy.evaluator, [0, 1, 2])
    # A checkpoint of every step would hide whether the signals have theirs.
    checkpoints = toy.attach(Path(folder), best="score", background=background)
    attach_signals(toy.trainer, checkpoints)
    save_now = checkpoints.save_now

    def save_and_tell() -> None:
        save_now()
        if rank == 0:
            _tell(f"saved {toy.trainer.state.iteration}")

    checkpoints.save_now = save_and_tell  # type: ignore[method-assign]

    def begin() -> None:
        iteration = toy.trainer.state.iteration
        if rank == 0:
            _tell(f"begin {iteration}")
        time.sleep(pause)
        if stop_at == iteration and rank == stop_rank:
            _tell(f"stop {iteration}")
            time.sleep(60)

    def end() -> None:
        with (Path(folder) / f"order-{rank}.txt").open("a") as order:
            order.write(f"{toy.trainer.state.iteration} {toy.seen[-1]}\n")
        if rank == 0:
            _tell(f"end {toy.trainer.state.iteration}")

    def evaluate() -> None:
        if rank == 0:
            _tell(f"evaluate {toy.trainer.state.iteration}")
        time.sleep(pause)

    toy.trainer.add_event_handler(Events.ITERATION_STARTED, begin)
    toy.trainer.add_event_handler(Events.ITERATION_COMPLETED, end)
    toy.evaluator.add_event_handler(Events.ITERATION_STARTED, evaluate)
    toy.run(EPOCHS)
    _tell(f"over {rank}")
    _leave_digest(Path(folder), toy, digest(logger._meters.state_dict()))


def _leave_digest(folder: Path, toy: Any, meters: str) -> None:
    # The statistics of BatchNorm of other processes are their own: DDP replaces them at each step.
    everywhere = all_gather_strings(digest([list(toy.model.parameters()), toy.optimizer.state_dict()]))
    if idist.get_rank() == 0:
        best = load_checkpoint(folder / "checkpoints" / "best.pt")["trainer"]["iteration"]
        temporary = folder / "digest.new"
        temporary.write_text(json.dumps([toy.digest(), everywhere, meters, best]))
        temporary.rename(folder / "digest")


def main(local_rank: int, folder: str, options: dict[str, Any]) -> None:
    train(local_rank, folder, **options)


if __name__ == "__main__":
    launcher, folder, options = sys.argv[1:]
    launch(main, folder, json.loads(options), nproc_per_node=2 if launcher == "launch" else None, backend="gloo")
