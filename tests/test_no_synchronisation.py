"""With everything attached that a recipe attaches, nothing waits for the device between two log lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from ignite_imgtools import engines, handlers
from tests.engines.reads import CountReads
from tests.engines.tiny_detectors import tiny_batch

_EVERY = 10


class _Detector(nn.Module):
    """Honours torchvision's call, and has nothing in it that waits, as torchvision's detectors have."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(8, 4))

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        predicted = torch.cat([self.head(self.features(torch.stack((image, image)))).mean(0, True) for image in images])
        if targets is None:
            return [{"boxes": box[None], "labels": box.new_ones(1).long(), "scores": box[:1]} for box in predicted]
        wanted = torch.stack([target["boxes"].mean(0) for target in targets])
        return {"loss_box": (predicted - wanted / 50).abs().mean(), "loss_size": predicted.square().mean()}


def _trainer(device: str, folder: Path, amp_dtype: str | None) -> Engine:
    model = _Detector().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=amp_dtype == "float16")
    update = engines.GradientUpdate(
        optimizer,
        amp_dtype=amp_dtype,
        accumulate=2,
        clip_norm=1.0,
        ema=engines.ExponentialMovingAverage(model),
        scheduler=handlers.warmup_cosine(optimizer, 100, warmup_steps=5),
    )
    trainer = engines.create_detection_trainer(model, update)
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
        trainer.run([tiny_batch(2, 2 * index) for index in range(31)], max_epochs=1)
    # Iteration i made reads[i + 1] - reads[i] of them.
    made = {iteration: reads[iteration + 1] - reads[iteration] for iteration in range(2, 31)}
    assert not {iteration: count for iteration, count in made.items() if count and iteration % _EVERY}
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp_dtype", [None, "bfloat16", "float16"])
def test_no_synchronisation_between_two_log_lines(amp_dtype: str | None, tmp_path: Path) -> None:
    trainer = _trainer("cuda", tmp_path, amp_dtype)
    batches = [tiny_batch(2, 2 * index) for index in range(31)]
    for images, targets in batches:
        images[:] = [image.pin_memory() for image in images]
        targets[:] = [
            {key: value.pin_memory() if isinstance(value, Tensor) else value for key, value in target.items()}
            for target in targets
        ]

    def watch(engine: Engine) -> None:
        free = engine.state.iteration > 3 and engine.state.iteration % _EVERY
        torch.cuda.set_sync_debug_mode("error" if free else "default")

    trainer.add_event_handler(Events.ITERATION_STARTED, watch)
    try:
        trainer.run(batches, max_epochs=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
