from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, PolynomialLR, SequentialLR

from ignite_imgtools.handlers import steps_per_epoch, warmup_cosine, warmup_multistep, warmup_poly


def _optimizer(lrs=(0.4, 0.1)):
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    return torch.optim.SGD(groups)


def _rates(scheduler, steps):
    """The rate of each group at each step, as an optimizer that steps before the schedule sees it."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def test_multistep_equals_torch():
    optimizer = _optimizer()
    expected = MultiStepLR(optimizer, [5, 9], gamma=0.1)
    assert _rates(warmup_multistep(_optimizer(), [5, 9]), 12) == [pytest.approx(r) for r in _rates(expected, 12)]


def test_warm_up_equals_torch():
    expected = LinearLR(_optimizer(), start_factor=0.25, total_iters=6)
    ours = warmup_multistep(_optimizer(), [], warmup_steps=6, start_factor=0.25)
    assert _rates(ours, 10) == [pytest.approx(r) for r in _rates(expected, 10)]


@pytest.mark.filterwarnings("ignore:the schedule has ended")
def test_poly_equals_torch():
    optimizer = _optimizer()
    warm = LinearLR(optimizer, start_factor=0.1, total_iters=4)
    poly = PolynomialLR(optimizer, total_iters=8, power=0.9)
    expected = SequentialLR(optimizer, [warm, poly], milestones=[4])
    ours = warmup_poly(_optimizer(), 12, warmup_steps=4, start_factor=0.1)
    assert _rates(ours, 15) == [pytest.approx(r, abs=1e-12) for r in _rates(expected, 15)]


def test_cosine_equals_torch():
    optimizer = _optimizer([0.4])
    warm = LinearLR(optimizer, start_factor=0.25, total_iters=4)
    cosine = CosineAnnealingLR(optimizer, T_max=8, eta_min=0.04)
    expected = SequentialLR(optimizer, [warm, cosine], milestones=[4])
    ours = warmup_cosine(_optimizer([0.4]), 12, end_factor=0.1, warmup_steps=4, start_factor=0.25)
    assert _rates(ours, 12) == [pytest.approx(r) for r in _rates(expected, 12)]


@pytest.mark.filterwarnings("ignore:the schedule has ended")
@pytest.mark.parametrize("create", [warmup_cosine, warmup_poly])
@pytest.mark.parametrize("warmup_steps", [0, 3, 10, 20])
def test_no_schedule_goes_on_past_its_end(create, warmup_steps):
    rates = [rate for [rate] in _rates(create(_optimizer([1.0]), 10, warmup_steps=warmup_steps), 60)]
    assert all(isinstance(rate, float) and 0 <= rate <= 1 for rate in rates)
    assert rates[max(11, warmup_steps + 1) :] == [0.0] * len(rates[max(11, warmup_steps + 1) :])
    assert max(rates) == pytest.approx(1.0)


@pytest.mark.parametrize("create", [warmup_cosine, warmup_poly])
def test_end_factor(create):
    assert _rates(create(_optimizer([1.0]), 10, end_factor=0.2), 30)[-1] == pytest.approx([0.2])


def test_a_resumed_schedule_goes_on_and_takes_a_new_length(tmp_path):
    optimizer = _optimizer()
    scheduler = warmup_cosine(optimizer, 20, warmup_steps=5)
    _rates(scheduler, 8)
    torch.save({"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    expected = _rates(scheduler, 6)

    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for total_steps in (20, 40):
        other = _optimizer()
        resumed = warmup_cosine(other, total_steps, warmup_steps=5)
        other.load_state_dict(state["optimizer"])
        resumed.load_state_dict(state["scheduler"])
        rates = _rates(resumed, 6)
        if total_steps == 20:
            assert rates == expected
        else:
            cosine = [0.4 * (1 + math.cos(math.pi * (step - 5) / 35)) / 2 for step in range(9, 14)]
            assert [rate for rate, _ in rates[1:]] == pytest.approx(cosine)


@pytest.mark.parametrize(("iterations", "accumulate", "steps"), [(10, 1, 10), (10, 4, 3), (8, 4, 2), (1, 4, 1)])
def test_steps_per_epoch(iterations, accumulate, steps):
    assert steps_per_epoch(iterations, accumulate) == steps


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda o: warmup_multistep(o, [4, 2]), r"milestones must rise, got \[4, 2\]"),
        (lambda o: warmup_cosine(o, 0), "total_steps must be at least 1, got 0"),
        (lambda o: warmup_cosine(o, 5, end_factor=2), r"end_factor must be in 0\.\.1, got 2"),
        (lambda o: warmup_poly(o, 5, power=0), "power must be above 0, got 0"),
        (lambda o: warmup_poly(o, 5, warmup_steps=-1), "warmup_steps must be at least 0, got -1"),
        (lambda o: warmup_poly(o, 5, warmup_steps=1, start_factor=3), r"start_factor must be in 0\.\.1, got 3"),
    ],
)
def test_arguments_out_of_range(create, message):
    with pytest.raises(ValueError, match=message):
        create(_optimizer())


@pytest.mark.parametrize("create", [warmup_cosine, warmup_poly])
def test_steps_at_a_rate_of_0_are_warned_of_once(create):
    def run(steps, **options):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = create(optimizer, 4, **options)
        for _ in range(steps):
            optimizer.step()
            schedule.step()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(4)
        run(9, end_factor=0.1)
    with pytest.warns(RuntimeWarning, match="ended after total_steps=4 optimizer steps") as warned:
        run(9)
    assert len(warned) == 1
