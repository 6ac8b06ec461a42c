from __future__ import annotations

import copy
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import nn

from ignite_imgtools import engines
from ignite_imgtools.distributed import seed_step
from ignite_imgtools.engines.detection_losses import detections_and_losses
from ignite_imgtools.formats import DataError, TrainerEvents, images_to_device, resumables
from tests.engines.reads import CountReads
from tests.engines.tiny_detectors import tiny_batch, tiny_faster_rcnn, tiny_mask_rcnn, tiny_retinanet

DETECTORS = {"faster_rcnn": tiny_faster_rcnn, "mask_rcnn": tiny_mask_rcnn, "retinanet": tiny_retinanet}


def _update(model, **arguments):
    return engines.GradientUpdate(torch.optim.SGD(model.parameters(), lr=0.01), **arguments)


@pytest.mark.parametrize("name", DETECTORS)
def test_training_step_returns_the_models_losses(name):
    model = DETECTORS[name]()
    expected, (images, targets) = copy.deepcopy(model), tiny_batch(2, masks=True)
    seed_step(3, 1)
    losses = expected([image / 255 for image in images], targets)
    trainer = engines.create_detection_trainer(model, _update(model), seed=3)
    output = trainer.run([(images, targets)]).output
    assert output.keys() == losses.keys() | {"loss", "grad_norm", "batch_size"}
    torch.testing.assert_close({key: output[key] for key in losses}, {k: v.detach() for k, v in losses.items()})
    torch.testing.assert_close(output["loss"], sum(losses.values()).detach())
    assert output["batch_size"] == 2
    assert images[0].dtype == torch.uint8  # the batch is as it was


def test_what_a_step_draws_depends_on_its_iteration_alone():
    losses = []
    for draws in (0, 7):
        model = tiny_faster_rcnn()
        trainer = engines.create_detection_trainer(model, _update(model))
        torch.rand(draws), np.random.rand(draws)  # noqa: NPY002
        values = []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda t, v=values: v.append(t.state.output["loss"]))
        trainer.run([tiny_batch(2), tiny_batch(2, 2)], max_epochs=2)
        losses.append(values)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)


def _with(**changes):
    images, targets = tiny_batch(2, first_id=40)
    targets[1].update(changes)
    return images, targets


BAD_BATCHES = {
    "background": (_with(labels=torch.tensor([1, 0, 1])), r"image_id 41: label 0 is not in 1\.\.2, where 0 is backgro"),
    "class": (_with(labels=torch.tensor([1, 3, 1])), r"image_id 41: label 3 is not in 1\.\.2"),
    "dtype": (_with(labels=torch.tensor([1, 2, 1]).int()), r"image_id 41: labels must be int64 \[3\]"),
    "empty box": (
        _with(boxes=torch.tensor([[0, 0, 5, 5], [1, 1, 1, 5], [0, 0, 5, 5.0]])),
        r"image_id 41: box 1 is \[1\.0, 1\.0, 1\.0, 5\.0\], xyxy needs",
    ),
    "nan box": (_with(boxes=torch.full((3, 4), torch.nan)), r"image_id 41: box 0 is \[nan"),
    "image": ((tiny_batch(1)[0][0][None], tiny_batch(1)[1]), None),
    "numbers": ((tiny_batch(2)[0], tiny_batch(1)[1]), "one target for each image, got 2 and 1"),
}


@pytest.mark.parametrize("name", [name for name, (_, message) in BAD_BATCHES.items() if message])
def test_a_bad_batch_is_named_in_one_line(name):
    batch, message = BAD_BATCHES[name]
    model = tiny_faster_rcnn()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DataError, match=message) as error:
        engines.create_detection_trainer(model, _update(model)).run([batch])
    assert "\n" not in str(error.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_image_without_objects_is_trained_on():
    model = tiny_faster_rcnn()
    images, targets = tiny_batch(2)
    targets[0].update(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    output = engines.create_detection_trainer(model, _update(model)).run([(images, targets)]).output
    assert torch.isfinite(output["loss"])


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet"])
def test_the_step_waits_for_the_device_only_where_the_model_does(name):
    model = DETECTORS[name]()
    images, targets = tiny_batch(2)
    floats = images_to_device(images, "cpu")
    trainer = engines.create_detection_trainer(
        model, _update(model, accumulate=2, clip_norm=1.0, ema=engines.ExponentialMovingAverage(model))
    )
    model.train()(floats, targets)  # the pooler reads the image sizes once
    with CountReads() as own:
        for iteration in (1, 2, 3):
            seed_step(0, iteration)
            sum(model(floats, targets).values()).backward()
    with CountReads() as ours:
        trainer.run([(images, targets)] * 3)
    assert own.reads
    assert ours.reads == own.reads


class _Loader(list):
    class Sampler:
        def __init__(self):
            self.attached = []

        def attach(self, trainer):
            self.attached.append(trainer)
            resumables(trainer)["sampler"] = self

    def __init__(self, batches):
        super().__init__(batches)
        self.batch_sampler = self.Sampler()


def test_the_trainer_wires_its_loader_and_its_state():
    model = tiny_faster_rcnn()
    update = _update(model)
    trainer = engines.create_detection_trainer(model, update)
    loader, seen = _Loader([tiny_batch(1)]), []
    trainer.add_event_handler(Events.STARTED, lambda: seen.append(list(loader.batch_sampler.attached)))
    trainer.add_event_handler(TrainerEvents.EVALUATION_COMPLETED, lambda: seen.append("evaluated"))
    model.eval()
    trainer.run(loader)
    assert seen == [[trainer]]  # attached before any handler of the user
    assert model.training
    expected = {"host_generators": ANY, "update": update, "sampler": loader.batch_sampler}
    assert resumables(trainer) == expected
    trainer.run(loader)
    assert loader.batch_sampler.attached == [trainer]
    trainer.fire_event(TrainerEvents.EVALUATION_COMPLETED)
    assert seen[-1] == "evaluated"


def _evaluate(evaluator, batch_sizes, total=8):
    predictions, first = [], 0
    handler = evaluator.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: predictions.extend(evaluator.state.output["y_pred"])
    )
    batches = []
    for size in batch_sizes:
        batches.append(tiny_batch(size, first, masks=True))
        first += size
    assert first == total
    evaluator.run(batches)
    handler.remove()
    return predictions


@pytest.mark.parametrize("name", DETECTORS)
def test_evaluation_is_the_same_for_any_batch_size(name):
    model = DETECTORS[name]()
    evaluator = engines.create_detection_evaluator(model, losses=True)
    expected = [model.eval()([image])[0] for image in images_to_device(tiny_batch(8)[0], "cpu")]
    metrics = []
    for sizes in ([1] * 8, [3, 3, 2], [8]):
        predictions = _evaluate(evaluator, sizes)
        torch.testing.assert_close(predictions, expected, rtol=0, atol=0)
        metrics.append(evaluator.state.metrics)
    assert metrics[0] == metrics[1] == metrics[2]
    assert len(expected[0]["boxes"]) > 0


def test_more_images_in_a_forward_are_what_the_model_gives_for_them():
    model = tiny_faster_rcnn()
    images, _ = tiny_batch(3)
    floats = images_to_device(images, "cpu")
    predictions = _evaluate(engines.create_detection_evaluator(model, images_per_forward=2), [3], total=3)
    model.eval()
    with torch.inference_mode():
        expected = model(floats[:2]) + model(floats[2:])
    torch.testing.assert_close(predictions, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="images_per_forward must be at least 1, got 0"):
        engines.create_detection_evaluator(model, images_per_forward=0)


def test_the_evaluation_step_output():
    model = tiny_faster_rcnn()
    step = engines.detection_evaluation_step(model, losses=True)
    images, targets = tiny_batch(2)
    output = step(None, (images, targets))
    assert output.keys() == {"y_pred", "y", "batch_size", "losses"}
    assert output["y"] is targets
    assert {name: tuple(value.shape) for name, value in output["losses"].items()} == {
        "loss_classifier": (2,),
        "loss_box_reg": (2,),
        "loss_objectness": (2,),
        "loss_rpn_box_reg": (2,),
    }
    assert step(None, ([], [])) == {"y_pred": [], "y": [], "batch_size": 0, "losses": {}}


def test_evaluation_leaves_the_model_as_it_was():
    model = tiny_faster_rcnn(norm=True).train()
    model.backbone[1].eval()  # frozen by its user
    flags = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    evaluator = engines.create_detection_evaluator(model, losses=True)
    evaluator.run([tiny_batch(2), tiny_batch(1, 2)])
    assert [module.training for module in model.modules()] == flags
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random_state)
    with pytest.raises(AttributeError):
        evaluator.run([([None], [{"image_id": 0}])])
    assert [module.training for module in model.modules()] == flags


def test_evaluation_takes_the_averaged_weights():
    model = tiny_faster_rcnn()
    ema = engines.ExponentialMovingAverage(model)
    expected = _evaluate(engines.create_detection_evaluator(tiny_faster_rcnn()), [3], total=3)
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight)
    averaged = _evaluate(engines.create_detection_evaluator(model, ema=ema), [3], total=3)
    torch.testing.assert_close(averaged, expected, rtol=0, atol=0)
    assert not torch.equal(
        _evaluate(engines.create_detection_evaluator(model), [3], total=3)[0]["scores"], expected[0]["scores"]
    )


def test_autocast_evaluation_returns_float32():
    predictions = _evaluate(engines.create_detection_evaluator(tiny_retinanet(), amp_dtype="bfloat16"), [2], total=2)
    assert {tensor.dtype for tensor in predictions[0].values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_in_evaluation_are_the_training_losses(name):
    # Without dropout and batch statistics training mode gives the same losses, from the same random draws.
    model = DETECTORS[name]().train()
    model.transform.torch_choice = lambda sizes: sizes[0]  # draws one of the sizes in training
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images, targets = tiny_batch(1, masks=True)
    images = images_to_device(images, "cpu")
    torch.manual_seed(11)
    expected = model(images, targets)
    model.eval()
    detections, losses = detections_and_losses(model, images, targets, 11)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(detections, model(images))


class _Flagged(nn.Module):
    """A detector of one's own: the flag of the model itself says what to return."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, images, targets=None):
        if self.training:
            return {"sum": self.dropout(self.weight).sum() + len(targets)}
        empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
        return [empty for _ in images]


def test_losses_of_a_detector_of_ones_own():
    evaluator = engines.create_detection_evaluator(_Flagged(), losses=True)
    evaluator.run([tiny_batch(2)])
    assert evaluator.state.metrics == {"loss": 5.0, "sum": 5.0}  # no dropout
