"""A training step of ours communicates what DistributedDataParallel does, and nothing else between two log lines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ignite_imgtools import data, distributed, engines, handlers
from tests.distributed.spawn import run_processes

EVERY = 4


class Counted:
    """Counts the collectives of some iterations as the profiler sees them, those of DDP's own thread too."""

    def __init__(self, trainer: Engine, first: int, last: int):
        self.counts: Counter[str] = Counter()
        self._profile = profile(activities=[ProfilerActivity.CPU])
        # After everything else of the iteration before, and of the last one.
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=first - 1), self._profile.start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=last), self._stop)

    def _stop(self) -> None:
        self._profile.stop()
        self.counts.update(e.name.split("::")[1] for e in self._profile.events() if e.name.startswith("c10d::"))


def count(folder: Path, attach: bool, first: int, last: int) -> dict[str, int]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    model = distributed.create_parallel_model(module, "cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    update = engines.GradientUpdate(optimizer, clip_norm=1.0, ema=engines.ExponentialMovingAverage(model))

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        images, _ = batch
        output: dict[str, Any] = update(engine, model, lambda: {"square": model(images).square().mean()})
        return {**output, "batch_size": len(images)}

    trainer = engines.create_trainer(step, model, update)
    if attach:
        handlers.MetricLogger(folder, console=False, bar=False).attach(trainer, every=EVERY)
        checkpoints = handlers.attach_checkpoints(trainer, None, {"model": model, "optimizer": optimizer}, folder)
        handlers.attach_signals(trainer, checkpoints)
        handlers.attach_tensorboard(folder, trainer, optimizer)
    counted = Counted(trainer, first, last)
    images = [(torch.randn(4), 0) for _ in range(128)]
    trainer.run(data.create_loader(images, batch_size=8, shuffle=True, collate_fn=_stack), max_epochs=1)
    return dict(counted.counts)


def _stack(samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([image for image, _ in samples]), torch.tensor([label for _, label in samples])


def run(folder: str) -> dict[str, dict[str, int]]:
    own = Path(folder) / str(idist.get_rank())
    return {
        "bare": count(own / "bare", False, EVERY + 2, 2 * EVERY - 1),
        "between": count(Path(folder) / "between", True, EVERY + 2, 2 * EVERY - 1),
        "bare with a line": count(own / "line", False, EVERY + 1, 2 * EVERY),
        "with a line": count(Path(folder) / "line", True, EVERY + 1, 2 * EVERY),
    }


def test_nothing_is_sent_between_log_lines(tmp_path: Path) -> None:
    for counts in run_processes(run, 2, str(tmp_path)):
        steps = EVERY - 2
        assert counts["bare"]["allreduce_"] == steps  # one bucket of gradients
        assert counts["between"] == counts["bare"]
        added = Counter(counts["with a line"]) - Counter(counts["bare with a line"])
        assert sum(added.values()) == 1
        assert added["allreduce_"] == 1
