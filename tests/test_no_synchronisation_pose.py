"""With everything attached that the recipe of HRNet attaches, nothing waits for the device between two log lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from ignite_imgtools import engines, handlers, losses, models
from tests.engines.reads import CountReads

_EVERY = 5


def _batches() -> list[tuple[torch.Tensor, dict[str, Any]]]:
    torch.manual_seed(0)
    batches = []
    for number in range(2 * _EVERY + 1):
        places = torch.rand(2, 17, 2) * torch.tensor([48.0, 64.0])
        keypoints = torch.cat((places, torch.randint(0, 3, (2, 17, 1))), dim=2)
        images = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
        batches.append((images, {"keypoints": keypoints, "image_id": [2 * number, 2 * number + 1]}))
    return batches


def _trainer(device: str, folder: Path, amp_dtype: str | None) -> Engine:
    model = models.HRNet(17, 4, modules=(1, 1, 1), blocks=1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=amp_dtype == "float16")
    update = engines.GradientUpdate(
        optimizer,
        amp_dtype=amp_dtype,
        accumulate=2,
        clip_norm=1.0,
        ema=engines.ExponentialMovingAverage(model),
        scheduler=handlers.warmup_multistep(optimizer, [50], warmup_steps=5),
    )
    loss_fn = losses.HeatmapLoss(losses.COCO_JOINT_WEIGHTS).to(device)
    trainer = engines.create_pose_trainer(model, update, loss_fn, sigma=1.0)
    handlers.MetricLogger(folder, console=False).attach(trainer, every=_EVERY)
    to_save = {"model": model, "optimizer": optimizer}
    checkpoints = handlers.attach_checkpoints(trainer, None, to_save, folder, background=True)
    handlers.attach_signals(trainer, checkpoints)
    handlers.attach_tensorboard(folder, trainer, optimizer)
    handlers.attach_curves(folder, trainer)
    return trainer


def test_no_value_is_read_between_two_log_lines(tmp_path: Path) -> None:
    trainer = _trainer("cpu", tmp_path, None)
    reads: dict[int, int] = {}
    with CountReads() as counter:

        def note(engine: Engine) -> None:
            reads[engine.state.iteration] = sum(counter.reads.values())

        trainer.add_event_handler(Events.ITERATION_STARTED, note)
        trainer.run(_batches(), max_epochs=1)
    # Iteration i made reads[i + 1] - reads[i] of them.
    made = {iteration: reads[iteration + 1] - reads[iteration] for iteration in range(2, 2 * _EVERY + 1)}
    assert not {iteration: count for iteration, count in made.items() if count and iteration % _EVERY}
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp_dtype", [None, "bfloat16", "float16"])
def test_no_synchronisation_between_two_log_lines(amp_dtype: str | None, tmp_path: Path) -> None:
    trainer = _trainer("cuda", tmp_path, amp_dtype)
    batches = [
        (images.pin_memory(), targets | {"keypoints": targets["keypoints"].pin_memory()})
        for images, targets in _batches()
    ]

    def watch(engine: Engine) -> None:
        free = engine.state.iteration > 3 and engine.state.iteration % _EVERY
        torch.cuda.set_sync_debug_mode("error" if free else "default")

    trainer.add_event_handler(Events.ITERATION_STARTED, watch)
    try:
        trainer.run(batches, max_epochs=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
