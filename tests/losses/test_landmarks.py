from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ignite_imgtools.losses import LandmarkLoss


def _slow(kind: str, d: float) -> float:
    if kind == "wing":
        return 10 * math.log(1 + d / 2) if d < 10 else d - (10 - 10 * math.log(1 + 10 / 2))
    if kind == "soft_wing":
        return d if d < 2 else 20 * math.log(1 + d / 0.5) + 2 - 20 * math.log(1 + 2 / 0.5)
    if kind == "smooth_l1":
        return d * d / 2 if d < 1 else d - 0.5
    return d * d if kind == "l2" else d


def _points() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = 200 * torch.rand(4, 7, 2, generator=generator)
    return truth + 8 * torch.randn(4, 7, 2, generator=generator), truth


KINDS: list[Any] = ["wing", "soft_wing", "l1", "smooth_l1", "l2"]


@pytest.mark.parametrize("kind", KINDS)
def test_as_a_loop_over_points(kind: Any) -> None:
    points, truth = _points()
    visible = torch.rand(4, 7, generator=torch.Generator().manual_seed(1)) > 0.3
    loss = LandmarkLoss(kind)
    distances = (points.double() - truth.double()).abs().tolist()
    for mask in (None, visible):
        total = 0.0
        for i, face in enumerate(distances):
            for j, point in enumerate(face):
                if mask is None or mask[i, j]:
                    total += sum(_slow(kind, d) for d in point)
        found = loss(points, truth, mask)
        assert list(found) == [f"loss_{kind}"]
        assert float(found[f"loss_{kind}"]) == pytest.approx(total / 4, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_continuous_with_finite_gradients(kind: Any) -> None:
    joints = torch.tensor([0.0, 1.0, 2.0, 10.0])
    for joint in joints.tolist():
        below, above = (torch.tensor([[[joint + step, 0.0]]]) for step in (-1e-4, 1e-4))
        values = [float(LandmarkLoss(kind)(point, torch.zeros(1, 1, 2))[f"loss_{kind}"]) for point in (below, above)]
        assert values[0] == pytest.approx(values[1], abs=0.01)
    points = torch.tensor([[[0.0, 1e4], [2.0, 10.0]]], requires_grad=True)
    LandmarkLoss(kind)(points, torch.zeros(1, 2, 2))[f"loss_{kind}"].backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()
    assert points.grad[0, 0, 0] == 0


def test_computed_in_float32_under_autocast() -> None:
    points, truth = _points()
    expected = LandmarkLoss()(points.bfloat16(), truth)["loss_wing"]
    with torch.autocast("cpu", torch.bfloat16):
        found = LandmarkLoss()(points.bfloat16(), truth)["loss_wing"]
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_points_that_do_not_count_may_be_anything() -> None:
    points, truth = _points()
    points.requires_grad_()
    truth[0, 0] = math.nan
    visible = torch.ones(4, 7, dtype=torch.bool)
    visible[0, 0] = False
    loss = LandmarkLoss()(points, truth, visible)["loss_wing"]
    loss.backward()
    assert loss.isfinite()
    assert points.grad is not None
    assert points.grad[visible].isfinite().all()
    assert points.grad.isfinite().all()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="kind must be one of wing, soft_wing, l1, smooth_l1, l2, got 'adaptive'"):
        LandmarkLoss("adaptive")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width and curvature must be above 0, got 0 and 2"):
        LandmarkLoss(width=0, curvature=2)
    with pytest.raises(ValueError, match=r"must both be \[B, K, 2\], got \[2, 3, 2\] and \[2, 4, 2\]"):
        LandmarkLoss()(torch.zeros(2, 3, 2), torch.zeros(2, 4, 2))
