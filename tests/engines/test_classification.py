from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Accuracy
from torch import Tensor, nn

from ignite_imgtools import engines, losses, metrics
from ignite_imgtools.distributed import seed_step
from ignite_imgtools.formats import DataError
from tests.engines.reads import CountReads


def _model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(8, 4))


def _batch(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    images = torch.randint(0, 60, (count, 3, 13, 11), generator=generator) + 60 * labels[:, None, None, None]
    return images.clamp(max=255).to(torch.uint8), labels


def _trainer(model: nn.Module, seed: int = 0, **options: Any) -> Engine:
    update = engines.GradientUpdate(torch.optim.SGD(model.parameters(), 0.1))
    return engines.create_classification_trainer(model, update, losses.ClassificationLoss(0.1), seed=seed, **options)


def test_a_step_is_what_torch_does_by_hand() -> None:
    model, other, (images, labels) = _model(), _model(), _batch()
    state = _trainer(model).run([(images, labels)], max_epochs=1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (engines.IMAGENET_MEAN, engines.IMAGENET_STD))
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)(other((images / 255 - mean) / std), labels)
    loss.backward()
    assert float(state.output["loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert state.output["batch_size"] == 6
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two - 0.1 * two.grad, atol=1e-5)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixing_is_drawn_by_the_step_alone(mixup: float, cutmix: float) -> None:
    mixing = engines.create_mixing(4, mixup=mixup, cutmix=cutmix)
    assert mixing is not None
    images, labels = torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0])
    results = []
    for iteration, noise in ((7, 1), (7, 5), (8, 1)):
        torch.rand(noise)  # whatever was drawn before
        seed_step(3, iteration)
        results.append(mixing(images, labels))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])
    for mixed, shares in results:
        assert mixed.shape == images.shape
        assert torch.allclose(shares.sum(dim=1), torch.ones(5))
        share = shares[1, 1]  # the others of this row belong to the image before
        assert torch.allclose(shares, share * torch.eye(4)[labels] + (1 - share) * torch.eye(4)[labels.roll(1)])
        blended = share * images + (1 - share) * images.roll(1, 0)
        pasted = ((mixed == images) | (mixed == images.roll(1, 0))).all()
        assert pasted or torch.allclose(mixed, blended, atol=1e-6)
    assert torch.equal(labels, torch.tensor([0, 1, 2, 3, 0]))


def test_no_mixing_is_none() -> None:
    assert engines.create_mixing(4) is None
    with pytest.raises(ValueError, match="cutmix must be 0 or more, got -1"):
        engines.create_mixing(4, cutmix=-1)


def test_a_run_with_mixing_goes_on_as_it_was() -> None:
    batches = [_batch(seed=seed) for seed in range(4)]
    weights = []
    for stop in (None, 2):
        model = _model(dropout=0.5)
        trainer = _trainer(model, seed=5, mixing=engines.create_mixing(4, mixup=0.3, cutmix=1.0))
        if stop is not None:

            def disturb(engine: Engine) -> None:
                torch.rand(100)

            trainer.add_event_handler(Events.ITERATION_COMPLETED(once=stop), disturb)
        trainer.run(batches, max_epochs=1)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_nothing_is_read_in_a_step() -> None:
    trainer = _trainer(_model())
    trainer.run([_batch()], max_epochs=1)
    step = trainer._process_function
    with CountReads() as counter:
        step(trainer, _batch())
    assert not counter.reads


@pytest.mark.parametrize("batched", [False, True])
def test_evaluation_attaches_ignites_metrics(batched: bool) -> None:
    model = _model()
    _trainer(model).run([_batch(16, seed) for seed in range(20)], max_epochs=1)
    attached = {"accuracy": Accuracy(), "classification": metrics.ClassificationMetric(4)}
    evaluator = engines.create_classification_evaluator(
        model, attached, loss_fn=losses.ClassificationLoss(), batched=batched, flip=True
    )
    model.train()
    batches = [_batch(5, seed) for seed in range(30, 33)]
    found = evaluator.run(batches).metrics
    assert model.training
    assert found["accuracy"] == found["top1"] > 0.3
    predict = engines.create_classification_predictor(model, flip=True)
    logits, labels = torch.cat([predict(images) for images, _ in batches]), torch.cat([label for _, label in batches])
    assert found["top1"] == float((logits.argmax(1) == labels).double().mean())
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)


def test_evaluation_does_not_depend_on_batches() -> None:
    model, (images, labels) = _model().eval(), _batch(9)
    step = engines.classification_evaluation_step(model)
    whole = step(Engine(step), (images, labels))
    parts = [step(Engine(step), (images[i : i + 4], labels[i : i + 4])) for i in range(0, 9, 4)]
    assert torch.equal(whole["y_pred"], torch.cat([part["y_pred"] for part in parts]))
    assert step(Engine(step), ([], []))["batch_size"] == 0


def test_the_average_is_evaluated() -> None:
    model = _model()
    ema = engines.ExponentialMovingAverage(model)
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    step = engines.classification_evaluation_step(model, ema=ema)
    assert step(Engine(step), _batch())["y_pred"].abs().max() > 0


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (([torch.zeros(3, 4, 4)], torch.zeros(1, dtype=torch.int64)), "must be stacked, .* got a list: crop them"),
        ((torch.zeros(2, 3, 9, 9), torch.zeros(3, dtype=torch.int64)), "one label for each of its 2 images, got .3."),
        ((torch.zeros(2, 3, 9, 9), torch.tensor([1, 4])), r"labels must be 0\.\.3, got 4; check the number of classes"),
        ((torch.zeros(2, 3, 9, 9), torch.zeros(2)), "labels must be int64, got torch.float32"),
    ],
)
def test_bad_batches_are_told(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _trainer(_model()).run([batch], max_epochs=1)
