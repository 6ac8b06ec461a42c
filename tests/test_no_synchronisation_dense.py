"""With everything attached that a dense recipe attaches, nothing waits for the device between two log lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from ignite_imgtools import engines, handlers, losses, models
from tests.engines.reads import CountReads
from tests.engines.tiny_segmenters import segmentation_batch

_EVERY = 5
_MODELS: dict[str, Any] = {
    "unet": lambda: models.unet(3, base_channels=4),
    "lraspp": lambda: models.lraspp(3),
    "deeplab_v3": lambda: models.deeplab_v3(3, "mobilenet_v3_large"),
    "u2net": models.u2net_lite,
}


def _batches(name: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    batches = [segmentation_batch(2, 2 * index) for index in range(2 * _EVERY + 1)]
    return [(i, (t == 1).float()[:, None]) if name == "u2net" else (i, t) for i, t in batches]


def _trainer(name: str, device: str, folder: Path, amp_dtype: str | None) -> Engine:
    model = _MODELS[name]().to(device)
    groups = engines.parameter_groups(model, 0.01, 1e-4, decay_one_dimensional=False)
    optimizer = torch.optim.SGD(groups, 0.01, momentum=0.9, fused=amp_dtype == "float16")
    update = engines.GradientUpdate(
        optimizer,
        amp_dtype=amp_dtype,
        accumulate=2,
        clip_norm=1.0,
        ema=engines.ExponentialMovingAverage(model),
        scheduler=handlers.warmup_poly(optimizer, 100, warmup_steps=5),
    )
    if name == "u2net":
        trainer = engines.create_saliency_trainer(model, update, losses.DeepSupervisionLoss())
    else:
        loss_fn = losses.SegmentationLoss((1.0, 2.0, 1.0), dice=True).to(device)
        trainer = engines.create_segmentation_trainer(model, update, loss_fn)
    handlers.MetricLogger(folder, console=False).attach(trainer, every=_EVERY)
    to_save = {"model": model, "optimizer": optimizer}
    checkpoints = handlers.attach_checkpoints(trainer, None, to_save, folder, background=True)
    handlers.attach_signals(trainer, checkpoints)
    handlers.attach_tensorboard(folder, trainer, optimizer)
    handlers.attach_curves(folder, trainer)
    return trainer


@pytest.mark.parametrize("name", _MODELS)
def test_no_value_is_read_between_two_log_lines(name: str, tmp_path: Path) -> None:
    trainer = _trainer(name, "cpu", tmp_path, None)
    reads: dict[int, int] = {}
    with CountReads() as counter:

        def note(engine: Engine) -> None:
            reads[engine.state.iteration] = sum(counter.reads.values())

        trainer.add_event_handler(Events.ITERATION_STARTED, note)
        trainer.run(_batches(name), max_epochs=1)
    # Iteration i made reads[i + 1] - reads[i] of them.
    made = {iteration: reads[iteration + 1] - reads[iteration] for iteration in range(2, 2 * _EVERY + 1)}
    assert not {iteration: count for iteration, count in made.items() if count and iteration % _EVERY}
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", _MODELS)
@pytest.mark.parametrize("amp_dtype", [None, "bfloat16", "float16"])
def test_no_synchronisation_between_two_log_lines(amp_dtype: str | None, name: str, tmp_path: Path) -> None:
    trainer = _trainer(name, "cuda", tmp_path, amp_dtype)
    batches = [tuple(part.pin_memory() for part in batch) for batch in _batches(name)]

    def watch(engine: Engine) -> None:
        free = engine.state.iteration > 3 and engine.state.iteration % _EVERY
        torch.cuda.set_sync_debug_mode("error" if free else "default")

    trainer.add_event_handler(Events.ITERATION_STARTED, watch)
    try:
        trainer.run(batches, max_epochs=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
