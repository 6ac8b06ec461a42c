"""With everything attached that the recipe of DeepPose attaches, nothing waits for the device between two log lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from ignite_imgtools import engines, handlers, losses, models
from tests.engines.reads import CountReads
from tests.engines.tiny_landmarks import landmark_batch

_EVERY = 5


def _trainer(device: str, folder: Path, amp_dtype: str | None, kind: Any) -> Engine:
    model = models.deep_pose(5, "shufflenet_v2_x0_5").to(device)
    # The plain one reads its number of steps, which it keeps on the host.
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    update = engines.GradientUpdate(
        optimizer,
        amp_dtype=amp_dtype,
        accumulate=2,
        clip_norm=1.0,
        ema=engines.ExponentialMovingAverage(model),
        scheduler=handlers.warmup_multistep(optimizer, [50], warmup_steps=5, start_factor=0.01),
    )
    trainer = engines.create_landmark_trainer(model, update, losses.LandmarkLoss(kind))
    handlers.MetricLogger(folder, console=False).attach(trainer, every=_EVERY)
    to_save = {"model": model, "optimizer": optimizer}
    checkpoints = handlers.attach_checkpoints(trainer, None, to_save, folder, background=True)
    handlers.attach_signals(trainer, checkpoints)
    handlers.attach_tensorboard(folder, trainer, optimizer)
    handlers.attach_curves(folder, trainer)
    return trainer


@pytest.mark.parametrize("kind", ["wing", "soft_wing", "smooth_l1"])
def test_no_value_is_read_between_two_log_lines(kind: str, tmp_path: Path) -> None:
    trainer = _trainer("cpu", tmp_path, None, kind)
    reads: dict[int, int] = {}
    with CountReads() as counter:

        def note(engine: Engine) -> None:
            reads[engine.state.iteration] = sum(counter.reads.values())

        trainer.add_event_handler(Events.ITERATION_STARTED, note)
        trainer.run([landmark_batch(2, seed) for seed in range(2 * _EVERY + 1)], max_epochs=1)
    # Iteration i made reads[i + 1] - reads[i] of them.
    made = {iteration: reads[iteration + 1] - reads[iteration] for iteration in range(2, 2 * _EVERY + 1)}
    assert not {iteration: count for iteration, count in made.items() if count and iteration % _EVERY}
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp_dtype", [None, "bfloat16", "float16"])
def test_no_synchronisation_between_two_log_lines(amp_dtype: str | None, tmp_path: Path) -> None:
    trainer = _trainer("cuda", tmp_path, amp_dtype, "wing")
    batches = []
    for seed in range(2 * _EVERY + 1):
        images, targets = landmark_batch(2, seed)
        pinned = {
            key: value.pin_memory() if isinstance(value, torch.Tensor) else value for key, value in targets.items()
        }
        batches.append((images.pin_memory(), pinned))

    def watch(engine: Engine) -> None:
        free = engine.state.iteration > 3 and engine.state.iteration % _EVERY
        torch.cuda.set_sync_debug_mode("error" if free else "default")

    trainer.add_event_handler(Events.ITERATION_STARTED, watch)
    try:
        trainer.run(batches, max_epochs=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
