"""A small training with all that a resume must bring back: BatchNorm, dropout, momentum, an average,
shuffled and augmented data."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from ignite_imgtools.data import create_loader
from ignite_imgtools.distributed import create_parallel_model, seed_step, unwrap_model
from ignite_imgtools.formats import register_resumable
from ignite_imgtools.handlers import Checkpoints, attach_checkpoints

EPOCH_LENGTH = 5


class _Numbers(Dataset[tuple[int, Tensor]]):
    def __len__(self) -> int:
        return 4 * EPOCH_LENGTH

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        augmentation = torch.rand(6) + random.random() + float(np.random.rand())  # noqa: NPY002 (seeded like the others)
        return index, torch.sin(torch.arange(6) * (index + 1.0)) + 0.1 * augmentation


class Average:
    """A moving average of the weights, as resumable."""

    def __init__(self, model: nn.Module):
        self._model = model
        self.weights = {key: value.clone() for key, value in model.state_dict().items()}

    def update(self) -> None:
        for key, value in self._model.state_dict().items():
            if value.is_floating_point():
                self.weights[key].lerp_(value, 0.1)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, value in state["weights"].items():
            self.weights[key].copy_(value)


@dataclasses.dataclass
class Toy:
    """A training that is ready to run."""

    trainer: Engine
    evaluator: Engine
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    average: Average
    loader: DataLoader[Any]
    seen: list[list[int]]
    scores: dict[int, float]
    checkpoints: Checkpoints | None = None

    def to_save(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}

    def attach(self, folder: Path, **options: Any) -> Checkpoints:
        self.checkpoints = attach_checkpoints(self.trainer, self.evaluator, self.to_save(), folder, **options)
        return self.checkpoints

    def run(self, max_epochs: int = 3) -> Toy:
        self.trainer.run(self.loader, max_epochs=max_epochs)
        return self

    def digest(self) -> str:
        """Of the bits of everything that is trained."""
        state = [self.optimizer.state_dict(), self.scheduler.state_dict(), self.average.weights]
        return digest([unwrap_model(self.model).state_dict(), *state])


def digest(value: Any) -> str:
    """SHA-256 of the bits of all tensors and numbers in ``value``."""
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        flat = value.detach().contiguous().reshape(-1)
        yield str((value.dtype, value.shape)).encode() + flat.view(torch.uint8).numpy().tobytes()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield repr(key).encode()
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)
    else:
        yield repr(value).encode()


def create_toy(*, classes: int = 3, accumulate: int = 1, num_workers: int = 0, evaluate: bool = True) -> Toy:
    """The same toy each time; ``scores[epoch]`` is what its evaluator gives after that epoch, by default the epoch."""
    torch.set_num_threads(1)  # more of them are slower for so little work
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, classes))
    average = Average(module)
    model = create_parallel_model(module, "cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)
    seen: list[list[int]] = []

    def step(engine: Engine, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
        indices, images = batch
        seed_step(0, engine.state.iteration)
        seen.append(indices.tolist())
        model.train()
        loss = model(images).pow(2).mean()
        (loss / accumulate).backward()
        position = (engine.state.iteration - 1) % EPOCH_LENGTH + 1
        engine.state.at_step_boundary = position % accumulate == 0 or position == EPOCH_LENGTH
        if engine.state.at_step_boundary:
            norm = nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad()
            average.update()
            engine.state.norm = norm
        return {"loss": loss.detach(), "grad_norm": getattr(engine.state, "norm", torch.zeros(())), "batch_size": 4}

    trainer = Engine(step)
    scores: dict[int, float] = {}
    evaluator = Engine(lambda engine, batch: None)
    evaluator.add_event_handler(
        Events.COMPLETED,
        lambda engine: engine.state.metrics.update(score=scores.get(trainer.state.epoch, trainer.state.epoch)),
    )
    register_resumable(trainer, "average", average)
    loader = create_loader(
        _Numbers(), 4, shuffle=True, seed=1, num_workers=num_workers, collate_fn=default_collate, pin_memory=False
    )
    loader.batch_sampler.attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: scheduler.step())
    if evaluate:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0, 1]) and None)
    return Toy(trainer, evaluator, model, optimizer, scheduler, average, loader, seen, scores)


def wait_for_writers() -> None:
    """What the end of the interpreter does: wait for a checkpoint that is being written in the background."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()


class Crash(Exception):
    """What a test breaks a run off with."""


def crash_at(trainer: Engine, iteration: int, event: Any = Events.ITERATION_STARTED) -> None:
    """Let ``trainer`` fail at ``event`` of ``iteration``."""

    def crash() -> None:
        if trainer.state.iteration == iteration:
            raise Crash

    trainer.add_event_handler(event, crash)
