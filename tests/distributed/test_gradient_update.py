"""The gradient update and the engines on several processes."""

from __future__ import annotations

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from ignite_imgtools import engines
from tests.distributed.spawn import run_processes
from tests.engines.tiny_detectors import tiny_batch, tiny_faster_rcnn


def _toy(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def _toy_batches(iterations, batch_size):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(iterations, batch_size, 6, generator=generator)
    return list(zip(x, torch.randint(3, (iterations, batch_size), generator=generator), strict=True))


def _train(arguments, poison=None):
    """7 iterations in windows of 3 over this process's part of each batch of 12."""
    rank, world_size = idist.get_rank(), idist.get_world_size()
    model = idist.auto_model(_toy())
    reduced = []
    if world_size > 1:

        def count(state, bucket):
            reduced.append(trainer.state.iteration)
            return allreduce_hook(state, bucket)

        model.register_comm_hook(None, count)
    optimizer = idist.auto_optim(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    ema = engines.ExponentialMovingAverage(model, decay=0.5)
    update = engines.GradientUpdate(optimizer, ema=ema, **arguments)
    outputs = []

    def step(engine, batch):
        x, y = (part[rank::world_size] for part in batch)
        if (rank, engine.state.iteration) == poison:
            x = x * torch.nan
        outputs.append(update(engine, model, lambda: {"ce": nn.functional.cross_entropy(model(x), y)}))

    trainer = Engine(step)
    error = ""
    try:
        trainer.run(_toy_batches(7, 12))
    except engines.gradient_update.NonFiniteError as stop:
        error = str(stop).split(";")[0]
    return {
        "weights": {name.removeprefix("module."): value for name, value in model.state_dict().items()},
        "ema": ema.module.state_dict(),
        "grad_norms": [output["grad_norm"] for output in outputs],
        "reduced": reduced,
        "error": error,
    }


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_give_what_one_gives(world_size):
    arguments = {"accumulate": 3, "clip_norm": 0.2}
    [expected] = run_processes(_train, 1, arguments)
    results = run_processes(_train, world_size, arguments)
    for result in results:
        for key in ("weights", "ema", "grad_norms"):
            torch.testing.assert_close(result[key], expected[key])
        # Gradients are reduced once for each window, where it ends: 3, 6, and 7 for the rest of the epoch.
        assert result["reduced"] == [3, 6, 7]
    torch.testing.assert_close(results[0]["weights"], results[1]["weights"], rtol=0, atol=0)


def test_a_non_finite_gradient_on_one_process_stops_all_before_the_step():
    results = run_processes(_train, 2, {"check_every": 1}, (1, 4))
    assert [result["error"] for result in results] == ["iteration 4: the gradient norm is nan"] * 2
    for result in results:
        assert all(torch.isfinite(value).all() for value in result["weights"].values())


def _train_detector():
    """Two steps on 4 images, this process's part of them; nothing sampled, so that processes draw the same."""
    rank, world_size = idist.get_rank(), idist.get_world_size()
    model = tiny_faster_rcnn()
    model.rpn.fg_bg_sampler.batch_size_per_image = model.roi_heads.fg_bg_sampler.batch_size_per_image = 10_000
    wrapped = idist.auto_model(model)
    update = engines.GradientUpdate(torch.optim.SGD(wrapped.parameters(), lr=0.01), accumulate=2 // world_size)
    trainer = engines.create_detection_trainer(wrapped, update)
    batches = []
    for first in (0, 4):
        images, targets = tiny_batch(4, first)
        for start in range(0, 4, 2):
            batches.append((images[start : start + 2], targets[start : start + 2]))
    trainer.run(batches[rank::world_size])
    return model.state_dict()


def test_a_detector_on_two_processes_learns_what_it_learns_on_one():
    # Pairs of images: on one process two are accumulated, on two processes they are averaged.
    [expected] = run_processes(_train_detector, 1)
    for result in run_processes(_train_detector, 2):
        torch.testing.assert_close(result, expected)


def _evaluate(image_count):
    rank, world_size = idist.get_rank(), idist.get_world_size()
    model = tiny_faster_rcnn(norm=True)
    model.backbone[1].running_mean.fill_(0.1 * rank)  # as statistics of each process's own batches would differ
    ema = engines.ExponentialMovingAverage(model)
    ema.module.backbone[1].running_mean.fill_(0.3 * rank)
    results = []
    for average in (None, ema):
        evaluator = engines.create_detection_evaluator(idist.auto_model(model), ema=average, losses=True)
        found = {}

        def collect(engine, found=found):
            output = engine.state.output
            for target, detection in zip(output["y"], output["y_pred"], strict=True):
                found[target["image_id"]] = detection

        evaluator.add_event_handler(Events.ITERATION_COMPLETED, collect)
        evaluator.run([tiny_batch(1, image_id) for image_id in range(rank, image_count, world_size)] or [([], [])])
        results.append((evaluator.state.metrics, found))
    return results


@pytest.mark.parametrize("world_size", [2, 3])
def test_evaluation_does_not_depend_on_the_processes(world_size):
    # 2 images: of 3 processes one has none.
    [expected] = run_processes(_evaluate, 1, 2)
    results = run_processes(_evaluate, world_size, 2)
    for number in range(2):
        metrics, found = expected[number]
        together = {}
        for result in results:
            assert result[number][0] == metrics
            together |= result[number][1]
        torch.testing.assert_close(together, found, rtol=0, atol=0)
