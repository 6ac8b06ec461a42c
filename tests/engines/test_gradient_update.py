from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from ignite_imgtools import engines
from ignite_imgtools.formats import NonFiniteError
from ignite_imgtools.handlers import warmup_cosine
from tests.engines.reads import CountReads


def _model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def _data(iterations: int, batch_size: int = 4, seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(batch_size, 6, generator=generator), torch.randint(3, (batch_size,), generator=generator))
        for _ in range(iterations)
    ]


def _terms(model, x, y):
    logits = model(x)
    return {"ce": nn.functional.cross_entropy(logits, y), "l2": 0.1 * logits.square().mean()}


def _trainer(model, update, outputs=None):
    def step(engine, batch):
        x, y = batch
        output = update(engine, model, lambda: _terms(model, x, y))
        if outputs is not None:
            outputs.append({**output, "lr": engine.state.lr, "boundary": engine.state.at_step_boundary})
        return output

    return Engine(step)


def _sgd(model, lr=0.1, **kw):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, **kw)


def _reference(model, data, windows, clip_norm=None):
    """The plain loop: one step on the mean loss of each window of batches."""
    optimizer, norms = _sgd(model), []
    for window in windows:
        optimizer.zero_grad()
        sum(sum(_terms(model, *data[i]).values()) for i in window).div(len(window)).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), clip_norm or math.inf))
        optimizer.step()
    return norms


def _assert_same(model, other, **tolerance):
    torch.testing.assert_close(model.state_dict(), other.state_dict(), **tolerance)


def test_one_step_per_iteration_equals_the_plain_loop():
    model, data, outputs = _model(), _data(5), []
    expected = copy.deepcopy(model)
    norms = _reference(expected, data, [[i] for i in range(5)])
    _trainer(model, engines.GradientUpdate(_sgd(model)), outputs).run(data)
    _assert_same(model, expected, rtol=0, atol=0)
    torch.testing.assert_close([o["grad_norm"] for o in outputs], norms)
    assert outputs[0].keys() == {"loss", "ce", "l2", "grad_norm", "lr", "boundary"}
    assert not any(value.requires_grad for value in outputs[0].values() if isinstance(value, torch.Tensor))
    torch.testing.assert_close(outputs[0]["loss"], outputs[0]["ce"] + outputs[0]["l2"])


def test_accumulating_4_equals_one_batch_4_times_as_large():
    model, data = _model(), _data(8)
    expected = copy.deepcopy(model)
    large = [tuple(torch.cat(parts) for parts in zip(*data[i : i + 4], strict=True)) for i in (0, 4)]
    _reference(expected, large, [[0], [1]])
    _trainer(model, engines.GradientUpdate(_sgd(model), accumulate=4)).run(data)
    _assert_same(model, expected)


@pytest.mark.parametrize(
    ("run", "windows"),
    [
        # Two epochs of 6: the last window of each has the 2 iterations that are left.
        ({"max_epochs": 2}, [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9], [10, 11]]),
        ({"max_iters": 9}, [[0, 1, 2, 3], [4, 5], [6, 7, 8]]),
        ({"max_iters": 3}, [[0, 1, 2]]),
    ],
)
def test_windows_end_with_the_epoch_and_with_the_run(run, windows):
    model, data, outputs = _model(), _data(12), []
    expected = copy.deepcopy(model)
    norms = _reference(expected, data, windows)
    trainer = _trainer(model, engines.GradientUpdate(_sgd(model), accumulate=4), outputs)
    trainer.run(iter(data), epoch_length=6, **run)
    _assert_same(model, expected)
    last = {window[-1] for window in windows}
    assert [o["boundary"] for o in outputs] == [i in last for i in range(len(outputs))]
    # The norm of the newest step, 0 before there is one.
    newest = [[n for n, w in zip(norms, windows, strict=True) if w[-1] <= i][-1:] for i in range(len(outputs))]
    for output, norm in zip(outputs, newest, strict=True):
        torch.testing.assert_close(output["grad_norm"], norm[0] if norm else torch.tensor(0.0))


def test_a_window_that_was_left_does_not_leak_into_the_next_run():
    model, data = _model(), _data(8)
    expected = copy.deepcopy(model)
    update = engines.GradientUpdate(_sgd(model), accumulate=4)
    trainer = _trainer(model, update)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), trainer.terminate)
    trainer.run(data[:4])
    _assert_same(model, expected, rtol=0, atol=0)
    _trainer(model, update).run(data[4:])
    _reference(expected, data, [[4, 5, 6, 7]])
    _assert_same(model, expected)


def test_accumulating_over_an_epoch_of_unknown_length_is_refused():
    model = _model()
    trainer = _trainer(model, engines.GradientUpdate(_sgd(model), accumulate=2))
    with pytest.raises(ValueError, match="accumulate=2 needs epoch_length"):
        trainer.run(iter(_data(4)))


def test_clipping():
    model, data, outputs = _model(), _data(6), []
    expected = copy.deepcopy(model)
    norms = _reference(expected, data, [[i] for i in range(6)], clip_norm=0.2)
    assert max(norms) > 0.2
    _trainer(model, engines.GradientUpdate(_sgd(model), clip_norm=0.2), outputs).run(data)
    _assert_same(model, expected)
    torch.testing.assert_close([o["grad_norm"] for o in outputs], norms)  # before clipping


def test_schedule_is_stepped_with_the_optimizer():
    model, outputs = _model(), []
    optimizer = _sgd(model)
    update = engines.GradientUpdate(
        optimizer, accumulate=2, scheduler=warmup_cosine(optimizer, 4, warmup_steps=2, start_factor=0.5)
    )
    _trainer(model, update, outputs).run(_data(8))
    # Of each iteration the rate it was computed with: half, 3/4, all, half way down the cosine.
    expected = [0.05, 0.05, 0.075, 0.075, 0.1, 0.1, 0.05, 0.05]
    assert [o["lr"][0] for o in outputs] == pytest.approx(expected)


@pytest.mark.parametrize("amp_dtype", ["bfloat16", "float16", torch.bfloat16])
def test_autocast_runs_the_forward_in_the_dtype(amp_dtype):
    model, seen = _model(), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    outputs = []
    _trainer(model, engines.GradientUpdate(_sgd(model), amp_dtype=amp_dtype), outputs).run(_data(2))
    expected = torch.float16 if amp_dtype == "float16" else torch.bfloat16
    assert seen == [expected] * 2
    assert ("loss_scale" in outputs[0]) == (amp_dtype == "float16")
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_scaled_steps_equal_unscaled_ones():
    # A power of two scales and unscales float32 exactly.
    model, data = _model(), _data(6)
    expected = copy.deepcopy(model)
    _reference(expected, data, [[0, 1], [2, 3], [4, 5]], clip_norm=0.3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    _trainer(model, engines.GradientUpdate(_sgd(model), scaler=scaler, accumulate=2, clip_norm=0.3)).run(data)
    _assert_same(model, expected)


@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_skips_the_step_and_lowers_the_scale(fused):
    model, data, outputs = _model(), _data(3), []
    data[0] = (data[0][0] * math.inf, data[0][1])
    expected = copy.deepcopy(model)
    _reference(expected, data, [[1], [2]])
    optimizer = _sgd(model, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    update = engines.GradientUpdate(
        optimizer, scaler=scaler, clip_norm=100.0, scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _trainer(model, update, outputs).run(data)
    assert [float(o["loss_scale"]) for o in outputs] == [1024, 512, 512]
    assert [math.isfinite(o["grad_norm"]) for o in outputs] == [False, True, True]
    _assert_same(model, expected)


@pytest.mark.parametrize("check_every", [1, 2])
def test_check_raises_before_the_step(check_every):
    model, data = _model(), _data(4)
    data[1] = (data[1][0] * math.nan, data[1][1])
    expected = copy.deepcopy(model)
    _reference(expected, data, [[0]])
    trainer = _trainer(model, engines.GradientUpdate(_sgd(model), check_every=check_every))
    with pytest.raises(NonFiniteError, match=r"iteration 2: the gradient norm is nan; loss nan, ce nan, l2 nan; image"):
        trainer.run(data)
    _assert_same(model, expected, rtol=0, atol=0)


def test_check_with_a_scaler_forgives_until_the_scale_is_gone():
    model = _model()
    data = [(x * math.nan, y) for x, y in _data(8)]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trainer = _trainer(model, engines.GradientUpdate(_sgd(model), scaler=scaler, check_every=1))
    with pytest.raises(NonFiniteError, match=r"iteration 4: the gradient norm is nan at loss scale 0\.5"):
        trainer.run(data)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda out: (out.mean(), out.mean()), "forward must return a dict of loss terms or one loss, got a tuple"),
        (lambda out: {"error": out.square()}, r"the loss term 'error' must be one number, got \[4, 1\]: take its mean"),
        (lambda out: out.square(), r"the loss must be one number, got \[4, 1\]: take its mean or sum"),
        (lambda out: {"error": out.mean().detach()}, r"nothing to train: no loss term of \['error'\] depends on"),
        (lambda out: {}, "forward must return loss terms, got {}"),
    ],
)
def test_what_is_no_loss_is_told(forward, message):
    model, batch = torch.nn.Linear(2, 1), torch.ones(4, 2)
    update = engines.GradientUpdate(_sgd(model))
    with pytest.raises(ValueError, match=message):
        Engine(lambda engine, batch: update(engine, model, lambda: forward(model(batch)))).run([batch])
    with pytest.raises(TypeError, match="forward must be a function that returns loss terms, got a dict"):
        Engine(lambda engine, batch: update(engine, model, {"error": model(batch).mean()})).run([batch])


def test_a_schedule_of_another_optimizer_is_refused():
    model = _model()
    with pytest.raises(ValueError, match="scheduler is of another optimizer"):
        engines.GradientUpdate(_sgd(model), scheduler=torch.optim.lr_scheduler.StepLR(_sgd(model), 1))


def test_one_loss_and_reserved_names():
    model = _model()
    update = engines.GradientUpdate(_sgd(model))
    engine = Engine(lambda engine, batch: update(engine, model, lambda: model(batch[0]).square().mean()))
    assert engine.run(_data(1)).output.keys() == {"loss", "grad_norm"}
    bad = Engine(lambda engine, batch: update(engine, model, lambda: {"loss": model(batch[0]).mean()}))
    with pytest.raises(ValueError, match=r"must not be called \['loss'\]"):
        bad.run(_data(1))


def test_the_norm_is_that_of_all_gradients_whatever_their_sizes():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(100, 200), nn.Linear(200, 3), nn.Conv2d(1, 2, 3).to(memory_format=torch.channels_last)
    )
    update = engines.GradientUpdate(_sgd(model), clip_norm=1e-9)
    seen = []

    def step(engine, batch):
        terms = {name: parameter.square().sum() for name, parameter in model.named_parameters()}
        output = update(engine, model, lambda: {name.replace(".", "_"): term for name, term in terms.items()})
        seen.append(output["grad_norm"])

    squares = [(2 * parameter.detach()).double().square().sum() for parameter in model.parameters()]
    Engine(step).run([0])
    torch.testing.assert_close(seen[0].double(), sum(squares).sqrt(), rtol=1e-6, atol=0)


def test_terms_without_a_gradient_and_terms_that_are_one_tensor():
    parameter = nn.Parameter(torch.tensor(2.0))
    update = engines.GradientUpdate(torch.optim.SGD([parameter], lr=1.0))

    def step(engine, batch):
        square = parameter.square()
        return update(engine, nn.Module(), lambda: {"a": square, "b": square} | batch)

    trainer = Engine(step)
    assert trainer.run([{}]).output["loss"] == 8  # 2 - 1.0 * 2 * 2 * 2
    assert parameter == -6
    assert trainer.run([{"constant": torch.tensor(1.0)}], max_epochs=2).output["loss"] == 73
    assert parameter == 18
    assert parameter.grad is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"clip_norm": 0.0}, r"clip_norm must be above 0 or None, got 0\.0"),
        ({"amp_dtype": "float64"}, "amp_dtype must be 'bfloat16', 'float16' or None, got 'float64'"),
        ({"scaler": "none"}, "scaler must be 'auto', None or a GradScaler, got 'none'"),
        ({"check_every": 0}, "check_every must be at least 1 or None, got 0"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        engines.GradientUpdate(_sgd(_model()), **arguments)


def test_a_schedule_that_needs_a_metric_is_refused():
    optimizer = _sgd(_model())
    with pytest.raises(TypeError, match="ReduceLROnPlateau needs a metric"):
        engines.GradientUpdate(optimizer, scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer))


def _everything(seed=0):
    model = _model(seed)
    optimizer = _sgd(model)
    update = engines.GradientUpdate(
        optimizer,
        accumulate=2,
        clip_norm=0.5,
        scaler=torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2),
        ema=engines.ExponentialMovingAverage(model, decay=0.9),
        scheduler=warmup_cosine(optimizer, 9, warmup_steps=3),
    )
    return model, optimizer, update


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_told_is_exact_within_anothers_autocast(dtype):
    weight = torch.nn.Parameter(torch.tensor([1.2345678, 0.1234567]))
    update = engines.GradientUpdate(torch.optim.SGD([weight], lr=0.1))
    outputs = []

    def step(engine, batch):
        with torch.autocast("cpu", dtype):
            outputs.append(update(engine, torch.nn.Identity(), lambda: {"a": weight[0] * 1, "b": weight[1] * 1}))

    Engine(step).run([0])
    assert outputs[0]["loss"].dtype == torch.float32
    assert outputs[0]["loss"].item() == pytest.approx(1.3580245, abs=1e-6)


def test_a_resumed_run_is_bit_identical(tmp_path):
    data = _data(15)
    model, optimizer, update = _everything()
    outputs = []
    trainer = _trainer(model, update, outputs)

    def save():
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "update": update.state_dict()}
        torch.save(state, tmp_path / "state.pt")

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=7), save)  # 5 and 2: the boundary inside epoch 2
    trainer.run(iter(data), max_epochs=3, epoch_length=5)
    assert outputs[6]["boundary"]

    resumed, resumed_optimizer, resumed_update = _everything(seed=5)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(state["model"])
    resumed_optimizer.load_state_dict(state["optimizer"])
    resumed_update.load_state_dict(state["update"])
    resumed_outputs = []
    resumed_trainer = _trainer(resumed, resumed_update, resumed_outputs)
    resumed_trainer.load_state_dict({"iteration": 7, "epoch_length": 5, "max_epochs": 3})
    resumed_trainer.run(iter(data[7:]))
    torch.testing.assert_close(resumed_outputs, outputs[7:], rtol=0, atol=0)
    _assert_same(resumed, model, rtol=0, atol=0)
    torch.testing.assert_close(resumed_update.state_dict(), update.state_dict(), rtol=0, atol=0)


def test_state_of_other_parts_is_refused():
    _, _, update = _everything()
    plain = engines.GradientUpdate(_sgd(_model()))
    with pytest.raises(ValueError, match=r"has no parts, this one \['ema', 'scaler', 'scheduler'\]"):
        update.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match=r"has \['ema', 'scaler', 'scheduler'\], this one \[\]"):
        plain.load_state_dict(update.state_dict())


@pytest.mark.parametrize("amp_dtype", [None, "bfloat16", "float16"])
def test_no_step_reads_a_tensor(amp_dtype, monkeypatch):
    model = _model()
    optimizer = _sgd(model, fused=True)  # without it a GradScaler reads one flag for each step
    update = engines.GradientUpdate(
        optimizer,
        amp_dtype=amp_dtype,
        accumulate=2,
        clip_norm=1.0,
        ema=engines.ExponentialMovingAverage(model),
        scheduler=warmup_cosine(optimizer, 8, warmup_steps=2),
    )
    trainer, data = _trainer(model, update), _data(7)

    def forbid(*args, **kwargs):
        raise AssertionError("the step moved a tensor to the host")

    for name in ("cpu", "numpy", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, forbid)
    with CountReads() as counter:
        trainer.run(data)
    assert not counter.reads


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("amp_dtype", [None, "bfloat16", "float16"])
def test_no_step_waits_for_the_gpu(amp_dtype):
    model = _model().cuda()
    optimizer = _sgd(model, fused=True)
    update = engines.GradientUpdate(
        optimizer,
        amp_dtype=amp_dtype,
        accumulate=2,
        clip_norm=1.0,
        ema=engines.ExponentialMovingAverage(model),
        scheduler=warmup_cosine(optimizer, 8, warmup_steps=2),
    )
    trainer, data = _trainer(model, update), [(x.cuda(), y.cuda()) for x, y in _data(9)]
    trainer.run(data[:2])  # what is allocated once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.run(data[2:])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_term_that_is_a_parameter_spoils_no_later_step():
    # Autograd then keeps what it was given as the parameter's gradient, and clipping writes into it.
    torch.manual_seed(0)
    model, bias = nn.Linear(3, 1), nn.Parameter(torch.zeros(()))
    plain, plain_bias = copy.deepcopy((model, bias))
    data = torch.ones(2, 3)

    def run(optimizer, step):
        update = engines.GradientUpdate(optimizer, clip_norm=0.1)
        Engine(lambda engine, batch: update(engine, model, step)).run(range(6))

    run(
        torch.optim.SGD([*model.parameters(), bias], lr=0.1),
        lambda: {"fit": model(data).square().mean(), "regulariser": bias},
    )
    optimizer = torch.optim.SGD([*plain.parameters(), plain_bias], lr=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        (plain(data).square().mean() + plain_bias).backward()
        nn.utils.clip_grad_norm_([*plain.parameters(), plain_bias], 0.1)
        optimizer.step()
    _assert_same(model, plain)
    torch.testing.assert_close(bias, plain_bias)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_sparse_gradients(clip_norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 3, sparse=True), nn.Linear(3, 1))
    plain, indices = copy.deepcopy(model), torch.tensor([1, 1, 4])
    update = engines.GradientUpdate(torch.optim.SGD(model.parameters(), lr=0.1), clip_norm=clip_norm)
    trainer = Engine(lambda engine, batch: update(engine, model, lambda: model(indices).square().sum()))
    trainer.run(range(1))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    plain(indices).square().sum().backward()
    # Entries of an index that comes twice belong together.
    norm = torch.stack([p.grad.to_dense().norm() for p in plain.parameters()]).norm()
    if clip_norm is not None:
        for parameter in plain.parameters():
            parameter.grad = parameter.grad.to_dense() * (clip_norm / norm).clamp(max=1)
    optimizer.step()
    torch.testing.assert_close(trainer.state.output["grad_norm"], norm)
    _assert_same(model, plain)


def test_a_chain_of_schedules_with_a_scaler():
    model = _model()
    optimizer = _sgd(model, lr=1.0)
    schedules = torch.optim.lr_scheduler
    chain = schedules.ChainedScheduler(
        [schedules.ExponentialLR(optimizer, 0.5), schedules.ExponentialLR(optimizer, 0.5)]
    )
    update = engines.GradientUpdate(optimizer, "float16", scheduler=chain)
    rates = []
    trainer = _trainer(model, update)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: rates.extend(trainer.state.lr))
    trainer.run(_data(3))
    assert rates == [1.0, 0.25, 0.0625]


def test_windows_follow_an_epoch_that_was_cut_short():
    model, outputs = _model(), []
    update = engines.GradientUpdate(_sgd(model), accumulate=4)

    def step(engine, batch):
        output = update(engine, model, lambda: _terms(model, *batch))
        outputs.append((engine.state.epoch, engine.state.at_step_boundary))
        return output

    trainer = engines.create_trainer(step, model, update)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: trainer.terminate_epoch())
    trainer.run(_data(10), max_epochs=3)
    cut, whole = [False] * 3, [False] * 3 + [True] + [False] * 3 + [True] + [False, True]
    assert outputs == [(epoch, b) for epoch, bs in ((1, cut), (2, whole), (3, whole)) for b in bs]
