from __future__ import annotations

import copy
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Accuracy, ConfusionMatrix
from torch import nn
from torch.nn import functional

from ignite_imgtools import engines
from ignite_imgtools.distributed import seed_step
from ignite_imgtools.formats import DataError, TrainerEvents, image_ids, resumables
from tests.distributed.spawn import run_processes
from tests.engines.reads import CountReads
from tests.engines.tiny_segmenters import (
    TinySegmenter,
    dense_loss,
    saliency_lists,
    segmentation_batch,
    segmentation_lists,
)

_MEAN, _STD = torch.tensor(engines.IMAGENET_MEAN), torch.tensor(engines.IMAGENET_STD)


def _update(model, **arguments):
    return engines.GradientUpdate(torch.optim.SGD(model.parameters(), lr=0.01), **arguments)


def _normalised(images):
    return (images.float() / 255 - _MEAN[:, None, None]) / _STD[:, None, None]


def test_training_step_returns_the_losses_terms():
    model = TinySegmenter(aux=True, dropout=0.2)
    expected, (images, targets) = copy.deepcopy(model).train(), segmentation_batch(2)
    seed_step(3, 1)
    terms = dense_loss(expected(_normalised(images)), targets)
    sum(terms.values()).backward()
    trainer = engines.create_segmentation_trainer(model, _update(model), dense_loss, seed=3)
    output = trainer.run([(images, targets)]).output
    assert output.keys() == {"loss", "loss_ce", "loss_aux", "grad_norm", "batch_size"}
    torch.testing.assert_close({key: output[key] for key in terms}, {k: v.detach() for k, v in terms.items()})
    torch.testing.assert_close(output["loss"], sum(terms.values()).detach())
    assert not output["loss"].requires_grad
    assert output["batch_size"] == 2
    weight = expected.head.weight
    torch.testing.assert_close(model.head.weight, weight - 0.01 * weight.grad)
    assert images.dtype == torch.uint8  # the batch is as it was


def test_images_in_0_to_1_are_taken_as_they_are():
    losses = []
    for scale in (1, 255):
        model = TinySegmenter()
        images, targets = segmentation_batch(2)
        batch = (images if scale == 1 else images / 255, targets)
        losses.append(engines.create_segmentation_trainer(model, _update(model), dense_loss).run([batch]).output)
    torch.testing.assert_close(losses[0]["loss"], losses[1]["loss"])


def test_what_a_step_draws_depends_on_its_iteration_alone():
    losses = []
    for draws in (0, 7):
        model = TinySegmenter(dropout=0.5)
        trainer = engines.create_segmentation_trainer(model, _update(model), dense_loss)
        torch.rand(draws)
        values = []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda t, v=values: v.append(t.state.output["loss"]))
        trainer.run([segmentation_batch(2), segmentation_batch(2, 2)], max_epochs=2)
        losses.append(values)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)


def test_a_model_that_returns_logits_alone_will_do():
    class Bare(nn.Conv2d):
        pass

    model = Bare(3, 3, 1)
    trainer = engines.create_segmentation_trainer(model, _update(model), dense_loss)
    assert trainer.run([segmentation_batch(2)]).output["loss"] > 0
    step = engines.segmentation_evaluation_step(model)
    assert step(None, segmentation_lists(1))["y_pred"][0].shape[0] == 3


def _labelled(value):
    images, targets = segmentation_batch(2)
    targets[1, 0, 0] = value
    return images, targets


def _bad_batches():
    images, targets = segmentation_batch(2)
    return {
        "class": (_labelled(3), r"class indices must be 0\.\.2, or 255 where ignored, got 3; check the masks"),
        "negative": (_labelled(-1), r"got -1;"),
        "dtype": ((images, targets.int()), r"must be int64 \[H, W\] each, got torch.int32 \[16, 16\]"),
        "channel": ((images, targets[:, None]), r"must be int64 \[H, W\] each, got torch.int64 \[1, 16, 16\]"),
        "sizes": ((images, targets[:, 1:]), r"as large as the images, \[16, 16\], got \[15, 16\]"),
        "numbers": ((images, targets[:1]), r"stacked like its 2 images, got \[1, 16, 16\]"),
        "lists": (segmentation_lists(2), r"must be stacked, \[B, 3, H, W\], got a list: crop them"),
        "one image": ((images[0], targets), r"must be stacked, \[B, 3, H, W\], got \[3, 16, 16\]"),
    }


@pytest.mark.parametrize("name", _bad_batches())
def test_a_bad_batch_is_named_in_one_line(name):
    batch, message = _bad_batches()[name]
    model = TinySegmenter()
    before = copy.deepcopy(list(model.parameters()))
    with pytest.raises(DataError, match=message) as error:
        engines.create_segmentation_trainer(model, _update(model), dense_loss).run([batch])
    assert "\n" not in str(error.value)
    torch.testing.assert_close(list(model.parameters()), before, rtol=0, atol=0)


def test_a_batch_without_image_ids_is_no_error_for_handlers():
    assert image_ids(segmentation_batch(2)) is None
    assert image_ids(segmentation_lists(2)) is None


def test_nothing_in_the_step_waits_for_the_device():
    model = TinySegmenter(aux=True, dropout=0.1)
    update = _update(model, accumulate=2, clip_norm=1.0, ema=engines.ExponentialMovingAverage(model))
    trainer = engines.create_segmentation_trainer(model, update, dense_loss)
    batches = [segmentation_batch(2, 2 * i) for i in range(3)]
    with CountReads() as ours:
        trainer.run(batches)
    assert not ours.reads
    images, targets = segmentation_lists(3)
    step = engines.segmentation_evaluation_step(model, resize=20, window=16, flip=True, loss_fn=dense_loss)
    with CountReads() as ours:
        step(None, (images, targets))
    assert not ours.reads


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp_dtype", [None, "bfloat16", "float16"])
def test_no_synchronisation_on_cuda(amp_dtype):
    model = TinySegmenter(aux=True, dropout=0.1).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
    trainer = engines.create_segmentation_trainer(
        model, engines.GradientUpdate(optimizer, amp_dtype=amp_dtype, clip_norm=1.0), dense_loss
    )
    batches = [tuple(part.pin_memory() for part in segmentation_batch(2, 2 * i)) for i in range(6)]

    def watch(engine):
        torch.cuda.set_sync_debug_mode("error" if engine.state.iteration > 3 else "default")

    trainer.add_event_handler(Events.ITERATION_STARTED, watch)
    try:
        trainer.run(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_trainer_wires_its_state():
    model = TinySegmenter().eval()
    update = _update(model)
    trainer = engines.create_segmentation_trainer(model, update, dense_loss)
    seen = []
    trainer.add_event_handler(TrainerEvents.EVALUATION_COMPLETED, lambda: seen.append(True))
    trainer.run([segmentation_batch(1)])
    trainer.fire_event(TrainerEvents.EVALUATION_COMPLETED)
    assert model.training
    assert seen == [True]
    assert resumables(trainer) == {"host_generators": ANY, "update": update}


def test_autocast_computes_the_loss_in_float32():
    model, seen = TinySegmenter(aux=True), []

    def loss_fn(output, targets):
        seen.extend(value.dtype for value in output.values())
        return dense_loss(output, targets)

    trainer = engines.create_segmentation_trainer(model, _update(model, amp_dtype="bfloat16"), loss_fn)
    trainer.run([segmentation_batch(2)])
    assert seen == [torch.float32, torch.float32]
    step = engines.segmentation_evaluation_step(model, amp_dtype="bfloat16")
    assert step(None, segmentation_lists(1))["y_pred"][0].dtype == torch.float32


def _evaluate(evaluator, batch_sizes):
    predictions, first, batches = [], 0, []
    handler = evaluator.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: predictions.extend(evaluator.state.output["y_pred"])
    )
    for size in batch_sizes:
        batches.append(segmentation_lists(size, first))
        first += size
    evaluator.run(batches)
    handler.remove()
    return predictions


def test_evaluation_at_native_size_is_the_same_for_any_batch_size():
    model = TinySegmenter()
    evaluator = engines.create_segmentation_evaluator(model, loss_fn=dense_loss)
    images, targets = segmentation_lists(7)
    assert len({image.shape for image in images}) > 1
    model.eval()
    with torch.inference_mode():
        expected = [model(_normalised(image)[None])["out"][0] for image in images]
        losses = [dense_loss({"out": e[None]}, t[None])["loss_ce"] for e, t in zip(expected, targets, strict=True)]
    results = []
    for sizes in ([1] * 7, [3, 3, 1], [7]):
        torch.testing.assert_close(_evaluate(evaluator, sizes), expected, rtol=0, atol=0)
        results.append(evaluator.state.metrics)
    assert results[0] == results[1] == results[2]
    assert results[0] == {"loss": pytest.approx(float(sum(losses)) / 7), "loss_ce": results[0]["loss"]}


def test_ignites_own_metrics_attach_as_they_are():
    model = TinySegmenter()
    attached = {"matrix": ConfusionMatrix(3, skip_unrolling=False), "accuracy": Accuracy()}
    evaluator = engines.create_segmentation_evaluator(model, attached)
    predictions = _evaluate(evaluator, [3, 2])
    expected = np.zeros((3, 3), dtype=np.int64)
    for logits, target in zip(predictions, segmentation_lists(5)[1], strict=True):
        valid = target != 255
        np.add.at(expected, (target[valid].numpy(), logits.argmax(0)[valid].numpy()), 1)
    assert (evaluator.state.metrics["matrix"].numpy() == expected).all()
    pixels = sum(target.numel() for target in segmentation_lists(5)[1])  # Accuracy takes 255 for a class
    assert evaluator.state.metrics["accuracy"] == pytest.approx(np.trace(expected) / pixels)


def test_an_evaluation_step_without_images():
    step = engines.segmentation_evaluation_step(TinySegmenter(), loss_fn=dense_loss)
    assert step(None, ([], [])) == {"y_pred": [], "y": [], "batch_size": 0, "losses": {}}


def test_measured_at_the_models_size_or_at_the_images_own():
    model = TinySegmenter().eval()
    image, target = (part[0] for part in segmentation_lists(1))
    size = (image.shape[1] * 12 // min(image.shape[1:]), image.shape[2] * 12 // min(image.shape[1:]))
    small = functional.interpolate(_normalised(image)[None], size, mode="bilinear", antialias=True)
    with torch.inference_mode():
        logits = model(small)["out"]
    native = engines.segmentation_evaluation_step(model, resize=12)(None, ([image], [target]))
    torch.testing.assert_close(
        native["y_pred"][0], functional.interpolate(logits, image.shape[1:], mode="bilinear")[0], rtol=0, atol=1e-6
    )
    assert torch.equal(native["y"][0], target)
    resized = engines.segmentation_evaluation_step(model, resize=12, measure_resized=True)(None, ([image], [target]))
    torch.testing.assert_close(resized["y_pred"][0], logits[0], rtol=0, atol=0)
    # The pixel of the target whose centre is nearest.
    rows = ((torch.arange(size[0]) + 0.5) * image.shape[1] / size[0]).long()
    columns = ((torch.arange(size[1]) + 0.5) * image.shape[2] / size[1]).long()
    assert torch.equal(resized["y"][0], target[rows][:, columns])
    with pytest.raises(ValueError, match="measure_resized compares at the size of resize"):
        engines.segmentation_evaluation_step(model, measure_resized=True)


@pytest.mark.parametrize(
    "bad",
    [
        (lambda i, t: (i, t[:1]), "one target for each image, got 2 and 1"),
        (lambda i, t: ([i[0][:, 1:], i[1]], t), r"its target as large, got \[3, "),
        (lambda i, t: (i, [t[0] + 3, t[1]]), r"class indices must be 0\.\.2"),
    ],
)
def test_a_bad_evaluation_batch_is_named_in_one_line(bad):
    change, message = bad
    with pytest.raises(DataError, match=message):
        engines.segmentation_evaluation_step(TinySegmenter())(None, change(*segmentation_lists(2)))


def test_evaluation_leaves_the_model_as_it_was():
    model = TinySegmenter(dropout=0.3).train()
    model.features[1].eval()  # frozen by its user
    flags, before = [module.training for module in model.modules()], copy.deepcopy(model.state_dict())
    _evaluate(engines.create_segmentation_evaluator(model, flip=True), [2])
    assert [module.training for module in model.modules()] == flags
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_evaluation_takes_the_averaged_weights():
    model = TinySegmenter()
    ema = engines.ExponentialMovingAverage(model)
    expected = _evaluate(engines.create_segmentation_evaluator(TinySegmenter()), [3])
    nn.init.normal_(model.head.weight)
    averaged = _evaluate(engines.create_segmentation_evaluator(model, ema=ema), [3])
    torch.testing.assert_close(averaged, expected, rtol=0, atol=0)
    assert not torch.equal(_evaluate(engines.create_segmentation_evaluator(model), [3])[0], expected[0])


def _losses_of_shard(total):
    import ignite.distributed as idist

    images, targets = segmentation_lists(total)
    own = slice(idist.get_rank(), total, idist.get_world_size())
    evaluator = engines.create_segmentation_evaluator(TinySegmenter(), loss_fn=dense_loss)
    evaluator.run([(images[own], targets[own])])
    return evaluator.state.metrics


def test_mean_losses_are_the_same_on_any_number_of_processes():
    for total in (7, 1):
        (expected,) = run_processes(_losses_of_shard, 1, total)
        for world_size in (2, 3):
            assert run_processes(_losses_of_shard, world_size, total) == [expected] * world_size


def test_losses_of_another_kind_are_refused():
    metric = engines.MeanDenseLosses()
    assert np.isnan(metric.compute()["loss"])
    metric.update(({"a": torch.ones(2)},))
    with pytest.raises(ValueError, match="must be the same in all batches"):
        metric.update(({"b": torch.ones(2)},))


def test_an_image_without_pixels_to_learn_from_is_left_out_of_the_mean():
    metric = engines.MeanDenseLosses()
    metric.update(({"a": torch.tensor([1.0, float("nan"), 3.0])},))
    assert metric.compute() == {"loss": 2.0, "a": 2.0}


def test_saliency_is_trained_and_evaluated_by_the_same_steps():
    model = TinySegmenter(1)
    images, targets = saliency_lists(4)
    stacked = torch.stack([i[:, :16, :16] for i in images]), torch.stack([t[:, :16, :16] for t in targets])
    trainer = engines.create_saliency_trainer(model, _update(model), dense_loss)
    losses = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: losses.append(float(trainer.state.output["loss"])))
    trainer.run([stacked] * 30)
    assert trainer.state.output.keys() == {"loss", "loss_bce", "grad_norm", "batch_size"}
    assert losses[-1] < losses[0]
    evaluator = engines.create_saliency_evaluator(model, loss_fn=dense_loss, resize=(16, 24), flip=True)
    evaluator.run([(images, targets)])
    output = evaluator.state.output
    assert [p.shape for p in output["y_pred"]] == [t.shape for t in output["y"]] == [t.shape for t in targets]
    assert evaluator.state.metrics["loss"] == evaluator.state.metrics["loss_bce"] > 0


@pytest.mark.parametrize(
    ("change", "channels", "message"),
    [
        (lambda t: t * 255, 1, r"maps must be in 0\.\.1, got 0\.\.255; scale them"),
        (lambda t: t.long(), 1, r"must be floating point \[1, H, W\] each, got torch.int64 \[1, 16, 16\]"),
        (lambda t: t[:, 0], 1, r"must be floating point \[1, H, W\] each, got torch.float32 \[16, 16\]"),
        (lambda t: t, 2, "a saliency model has 1 channel of logits, got 2"),
    ],
)
def test_a_bad_saliency_batch_is_named_in_one_line(change, channels, message):
    model = TinySegmenter(channels)
    images, targets = segmentation_batch(2)
    trainer = engines.create_saliency_trainer(model, _update(model), dense_loss)
    with pytest.raises(DataError, match=message):
        trainer.run([(images, change((targets == 1).float()[:, None]))])


def test_the_predictor_is_what_the_evaluation_does():
    model = TinySegmenter()
    options = {"resize": 30, "window": 16, "overlap": 0.5, "flip": True}
    images, targets = segmentation_lists(2)
    step = engines.segmentation_evaluation_step(model, **options)
    predict = engines.create_dense_predictor(model, **options)
    torch.testing.assert_close([predict(i)[0] for i in images], step(Engine(step), (images, targets))["y_pred"])
    with pytest.raises(ValueError, match="std above 0"):
        engines.create_dense_predictor(model, std=(1, 0, 1))
