from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from ignite_imgtools.engines import (
    ExponentialMovingAverage,
    GradientUpdate,
    create_landmark_evaluator,
    create_landmark_predictor,
    create_landmark_trainer,
    crop_to_image,
    landmark_evaluation_step,
    landmark_training_step,
)
from ignite_imgtools.formats import DataError
from ignite_imgtools.losses import LandmarkLoss
from ignite_imgtools.metrics import LandmarkMetric
from tests.engines.reads import CountReads
from tests.engines.tiny_landmarks import TinyPoints, landmark_batch

_SWAP = (1, 0, 2, 4, 3)


def test_a_training_step_by_hand() -> None:
    model, expected = TinyPoints(), TinyPoints()
    update = GradientUpdate(torch.optim.SGD(model.parameters(), 1e-3))
    trainer = create_landmark_trainer(model, update, LandmarkLoss("l1"), mean=(0.5,) * 3)
    images, targets = landmark_batch(4)
    with CountReads() as counter:
        trainer.run([(images, targets)] * 2, max_epochs=1)
    assert not counter.reads
    output: Any = trainer.state.output
    assert set(output) >= {"loss", "loss_l1", "batch_size", "grad_norm"}
    assert output["batch_size"] == 4

    optimizer = torch.optim.SGD(expected.parameters(), 1e-3)
    std = torch.tensor((0.229, 0.224, 0.225))[:, None, None]
    for _ in range(2):
        # The middle of the first pixel is half a pixel from the edge.
        points = expected((images / 255 - 0.5) / std) * torch.tensor([16.0, 24.0]) - 0.5
        loss = (points - targets["points"]).abs().sum() / 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(output["loss"], loss.detach())
    torch.testing.assert_close(model.state_dict(), expected.state_dict())


def test_dropout_is_drawn_by_the_step_alone() -> None:
    weights = []
    for noise in (0, 5):
        model = TinyPoints(dropout=0.5)
        trainer = create_landmark_trainer(
            model, GradientUpdate(torch.optim.SGD(model.parameters(), 1e-3)), LandmarkLoss(), seed=5
        )
        torch.rand(noise)
        trainer.run([landmark_batch(4), landmark_batch(3, 1)], max_epochs=1)
        weights.append(model.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp_dtype", [None, "bfloat16", "float16"])
def test_no_step_waits_for_the_device(amp_dtype: str | None) -> None:
    model = TinyPoints().cuda()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=amp_dtype == "float16")
    step = landmark_training_step(model, GradientUpdate(optimizer, amp_dtype=amp_dtype), LandmarkLoss())
    images, targets = landmark_batch(4)
    points: Any = targets["points"]
    batch = images.pin_memory(), targets | {"points": points.pin_memory()}
    trainer = Engine(step)
    trainer.run([batch] * 3, max_epochs=1)  # buffers are moved, gradients made
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.state.output = step(trainer, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(trainer.state.output["loss"])  # type: ignore[index]


class _Oracle(nn.Module):
    """Answers with the truth of crops that it knows, and of their mirror images a little wrong."""

    def __init__(self, images: Tensor, points: Tensor, error: float = 0.0):
        super().__init__()
        size = torch.tensor([images.shape[3], images.shape[2]])
        shares = (points + 0.5) / size
        mirrored = shares[:, list(_SWAP)]
        mirrored = torch.stack((1 - mirrored[..., 0] + error, mirrored[..., 1]), dim=-1)
        scaled = images.float() / 255
        self.known = [*zip(scaled, shares, strict=True), *zip(scaled.flip(-1), mirrored, strict=True)]

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([next(p for crop, p in self.known if torch.equal(crop, image)) for image in images])


_AS_THEY_ARE: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize("flip", [False, True])
def test_the_truth_is_found_again_in_the_image(flip: bool) -> None:
    images, targets = landmark_batch(6)
    points: Any = targets["points"]
    metric = LandmarkMetric("box")
    evaluator = create_landmark_evaluator(
        _Oracle(images, points),
        {"landmarks": metric},
        loss_fn=LandmarkLoss(),
        flip_permutation=_SWAP if flip else None,
        **_AS_THEY_ARE,
    )
    evaluator.run([(images, targets)])
    output: Any = evaluator.state.output
    torch.testing.assert_close(output["y_pred"], targets["image_points"], rtol=0, atol=1e-4)
    torch.testing.assert_close(output["crop_points"], points, rtol=0, atol=1e-5)
    assert evaluator.state.metrics["NME"] < 1e-6
    assert evaluator.state.metrics["loss"] < 1e-3
    assert metric.faces()[0].tolist() == targets["image_id"]


def test_the_flip_test_is_the_mean_of_both() -> None:
    images, targets = landmark_batch(3)
    points: Any = targets["points"]
    predict = create_landmark_predictor(_Oracle(images, points, error=0.25), flip_permutation=_SWAP, **_AS_THEY_ARE)
    with CountReads() as counter:
        counter.reads.clear()
        found = predict(images[:1])
    # The oracle compares, which is all that reads.
    assert set(counter.reads) == {"equal"}
    expected = points[:1] - torch.tensor([0.25 * 16 / 2, 0.0])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="the model has 5 points, flip_permutation has 2"):
        create_landmark_predictor(TinyPoints(), flip_permutation=(1, 0))(images)
    with pytest.raises(ValueError, match="must exchange keypoints in pairs"):
        create_landmark_predictor(TinyPoints(), flip_permutation=(1, 2, 0, 3, 4))


def test_maps_to_the_image() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(4, 7, 2, generator=generator) * 100
    maps = torch.rand(4, 2, 3, generator=generator, dtype=torch.float64)
    expected = [[maps[i, :, :2] @ p.double() + maps[i, :, 2] for p in points[i]] for i in range(4)]
    found = crop_to_image(points, maps)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), torch.stack([torch.stack(rows) for rows in expected]), rtol=1e-6, atol=0)


def test_evaluation_depends_on_neither_batches_nor_processes_without_faces() -> None:
    model = TinyPoints(dropout=0.5)
    images, targets = landmark_batch(9)
    step = landmark_evaluation_step(model, flip_permutation=_SWAP, loss_fn=LandmarkLoss())
    whole = step(Engine(step), (images, targets))
    assert model.training
    parts = []
    for part in (slice(0, 4), slice(4, 9)):
        cut = {name: value[part] for name, value in targets.items()}  # type: ignore[index]
        parts.append(step(Engine(step), (images[part], cut)))
    assert torch.equal(whole["y_pred"], torch.cat([part["y_pred"] for part in parts]))
    assert torch.equal(whole["losses"]["loss_wing"], torch.cat([part["losses"]["loss_wing"] for part in parts]))
    together = landmark_evaluation_step(model, flip_permutation=_SWAP, batched=True)
    found = together(Engine(together), (images, targets))
    torch.testing.assert_close(found["y_pred"], whole["y_pred"], rtol=1e-4, atol=1e-3)
    nothing = step(Engine(step), ([], []))
    assert (nothing["batch_size"], nothing["losses"]) == (0, {})
    metric = LandmarkMetric("box")
    metric.update((nothing["y_pred"], nothing["y"]))
    assert metric.compute()["NME"] == -1


def test_the_average_is_evaluated() -> None:
    model = TinyPoints()
    ema = ExponentialMovingAverage(model)
    nn.init.zeros_(model.layers[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model.layers[-1].bias)  # type: ignore[arg-type]
    step = landmark_evaluation_step(model, ema=ema)
    assert (step(Engine(step), landmark_batch(2))["crop_points"] + 0.5).abs().max() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, targets: (list(images), targets), "must be stacked, .* got a list: cut faces out"),
        (lambda images, targets: (images, [targets]), "must hold points .2, K, 2., got a list without"),
        (lambda images, targets: (images[:1], targets), r"points \[1, K, 2\], got \[2, 5, 2\]"),
        (lambda images, targets: (images, {"points": torch.zeros(2, 7, 2)}), "has 5 points, the targets have 7"),
    ],
)
def test_other_batches_are_refused(change: Any, message: str) -> None:
    model = TinyPoints()
    update = GradientUpdate(torch.optim.SGD(model.parameters(), 0.1))
    trainer = create_landmark_trainer(model, update, LandmarkLoss())
    with pytest.raises(DataError, match=message):
        trainer.run([change(*landmark_batch(2))], max_epochs=1)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a model of points must return \[B, K, 2\], got \[2, 3\]"):
        create_landmark_predictor(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))(landmark_batch(2)[0])
