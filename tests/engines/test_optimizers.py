"""``create_optimizer`` against torch's own optimizers in their default form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ignite_imgtools import engines

PLAIN = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def _parameters_after(optimizer: torch.optim.Optimizer, model: nn.Module, steps: int = 20) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 5, generator=generator)).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"momentum": 0.9, "weight_decay": 1e-2}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("sgd", {}),
        ("adam", {"weight_decay": 1e-2}),
        ("adamw", {"weight_decay": 1e-2}),
    ],
)
def test_steps_as_torchs_default_form_does(name: str, options: dict[str, float]) -> None:
    ours, theirs = _model(), _model()
    optimizer = engines.create_optimizer(name, ours.parameters(), 0.05, **options)
    assert all(group["fused"] for group in optimizer.param_groups)
    found = _parameters_after(optimizer, ours)
    expected = _parameters_after(
        PLAIN[name](theirs.parameters(), lr=0.05, fused=False, foreach=False, **options), theirs
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_takes_groups_generators_and_single_parameters() -> None:
    model = _model()
    first, rest = model[0], model[2]
    groups = [{"params": first.weight, "lr": 1.0}, {"params": (p for p in rest.parameters()), "weight_decay": 0.5}]
    optimizer = engines.create_optimizer("sgd", groups, 0.1)
    assert [(len(g["params"]), g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (1, 1.0, 0),
        (2, 0.1, 0.5),
    ]


def test_parameters_without_a_fused_kernel_get_the_default_form() -> None:
    optimizer = engines.create_optimizer("sgd", [nn.Parameter(torch.ones(2, dtype=torch.complex64))], 0.1)
    assert not optimizer.param_groups[0]["fused"]
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2, dtype=torch.complex64)
    optimizer.step()


def test_goes_on_from_the_state_of_the_default_form() -> None:
    model = _model()
    before = torch.optim.AdamW(model.parameters(), lr=0.05)
    _parameters_after(before, model, 3)
    optimizer = engines.create_optimizer("adamw", model.parameters(), 0.05)
    optimizer.load_state_dict(before.state_dict())
    assert optimizer.param_groups[0]["fused"]
    found = _parameters_after(optimizer, model, 3)
    assert all(int(state["step"]) == 6 for state in optimizer.state.values())
    model = _model()
    before = torch.optim.AdamW(model.parameters(), lr=0.05)
    _parameters_after(before, model, 3)
    for one, other in zip(found, _parameters_after(before, model, 3), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_goes_on_where_a_state_has_another_memory_format(name: str) -> None:
    options = {"momentum": 0.9} if name == "sgd" else {}

    def run(split: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        optimizer = engines.create_optimizer(name, model.parameters(), 0.05, **options)
        _train(optimizer, model, 0, 3)
        if split:
            state = optimizer.state_dict()
            for values in state["state"].values():
                values.update({key: value.contiguous() for key, value in values.items() if value.ndim})
            optimizer = engines.create_optimizer(name, model.parameters(), 0.05, **options)
            optimizer.load_state_dict(state)
        _train(optimizer, model, 3, 6)
        return [parameter.detach() for parameter in model.parameters()]

    for one, other in zip(run(split=True), run(split=False), strict=True):
        assert torch.equal(one, other)


def _train(optimizer: torch.optim.Optimizer, model: nn.Module, first: int, end: int) -> None:
    for seed in range(first, end):
        generator = torch.Generator().manual_seed(seed)
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()


def test_parameters_may_get_their_first_gradient_later_than_others() -> None:
    results = []
    for create in (lambda p: engines.create_optimizer("sgd", p, 0.1, momentum=0.9), lambda p: _plain_sgd(p)):
        torch.manual_seed(0)
        first, second = nn.Linear(2, 2), nn.Linear(2, 2)
        optimizer = create([*first.parameters(), *second.parameters()])
        for step in range(4):
            optimizer.zero_grad()
            hidden = first(torch.ones(1, 2) * step)
            (second(hidden) if step > 1 else hidden).square().sum().backward()
            optimizer.step()
        results.append([p.detach() for p in (*first.parameters(), *second.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def _plain_sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("options", [{"fused": False}, {"foreach": True}, {"momentum": 0.9, "dampening": 0.5}])
def test_another_form_can_be_asked_for(options: dict[str, Any]) -> None:
    model = _model()
    optimizer = engines.create_optimizer("sgd", model.parameters(), 0.1, **options)
    assert not optimizer.param_groups[0]["fused"]
    _parameters_after(optimizer, model, 2)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_float16_goes_on_from_the_state_of_the_default_form(kind: str) -> None:
    options = {"momentum": 0.9} if kind == "sgd" else {}
    model = _model()
    before = PLAIN[kind](model.parameters(), lr=0.05, **options)
    _parameters_after(before, model, 3)
    optimizer = engines.create_optimizer(kind, model.parameters(), 0.05, **options)
    optimizer.load_state_dict(before.state_dict())
    update = engines.GradientUpdate(optimizer, amp_dtype="float16")
    trainer = engines.create_trainer(
        lambda engine, batch: update(engine, model, lambda: model(torch.ones(2, 5)).float().square().mean()),
        model,
        update,
    )
    assert trainer.run([0, 0], max_epochs=1).iteration == 2


def test_refuses_an_unknown_name_and_no_parameters() -> None:
    with pytest.raises(ValueError, match="optimizer must be one of adam, adamw, sgd, got 'lion'"):
        engines.create_optimizer("lion", _model().parameters(), 0.1)
    with pytest.raises(ValueError, match="no parameters to train"):
        engines.create_optimizer("sgd", [], 0.1)
