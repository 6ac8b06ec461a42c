"""Losses and gradients that are not finite: seen without a stall, and never saved."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ignite_imgtools.engines import GradientUpdate, create_trainer
from ignite_imgtools.formats import NonFiniteError, StepTerms
from ignite_imgtools.handlers import MetricLogger, NonFiniteWatch, attach_checkpoints, load_checkpoint
from tests.handlers.toy_training import wait_for_writers


def _batches(count: int) -> list[tuple[list[Tensor], list[dict[str, Any]]]]:
    return [([torch.ones(1)], [{"image_id": 10 * i}, {"image_id": 10 * i + 1}]) for i in range(1, count + 1)]


def _trainer(outputs: Callable[[int], Any]) -> Engine:
    return Engine(lambda engine, batch: outputs(engine.state.iteration))


def _norms(bad: dict[int, float], **more: Any) -> Callable[[int], dict[str, Any]]:
    def output(iteration: int) -> dict[str, Any]:
        norm = torch.tensor(bad.get(iteration, 1.0))
        return {"loss": torch.tensor(float(iteration)), "grad_norm": norm, "batch_size": 2} | more

    return output


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bad_norm_stops_the_run_one_iteration_later(value: float) -> None:
    trainer = _trainer(_norms({3: value}))
    NonFiniteWatch().attach(trainer)
    with pytest.raises(NonFiniteError) as caught:
        trainer.run(_batches(10))
    assert trainer.state.iteration == 4
    assert str(caught.value) == (
        f"iteration 3: the gradient norm is {value}; rank 0: loss 3, image ids [30, 31]; no checkpoint holds this "
        "step: lower the learning rate, or look at these images"
    )


def test_a_bad_norm_of_the_last_step_stops_the_end_of_the_epoch_before_all_other_handlers() -> None:
    trainer = _trainer(_norms({5: math.nan}))
    done: list[str] = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: done.append("evaluation"))
    NonFiniteWatch().attach(trainer)
    with pytest.raises(NonFiniteError, match="iteration 5"):
        trainer.run(_batches(5))
    assert done == []


def test_a_bad_norm_at_the_end_by_max_iters_is_seen() -> None:
    trainer = _trainer(_norms({3: math.nan}))
    NonFiniteWatch().attach(trainer)
    with pytest.raises(NonFiniteError, match="iteration 3"):
        trainer.run(_batches(5), max_iters=3)


def test_finite_runs_go_on(tmp_path: Path) -> None:
    trainer = _trainer(_norms({}))
    NonFiniteWatch().attach(trainer)
    assert trainer.run(_batches(5), max_epochs=2).iteration == 10


def test_all_iterations_of_an_accumulation_window_are_named() -> None:
    def output(iteration: int) -> dict[str, Any]:
        trainer.state.at_step_boundary = iteration % 2 == 0
        terms = {"loss": torch.tensor(math.nan if iteration == 3 else 0.5), "loss_box": torch.tensor(0.25)}
        return terms | {"grad_norm": torch.tensor(math.nan if iteration >= 4 else 1.0), "batch_size": 2}

    trainer = _trainer(output)
    NonFiniteWatch().attach(trainer)
    with pytest.raises(NonFiniteError) as caught:
        trainer.run(_batches(10))
    assert trainer.state.iteration == 6
    assert str(caught.value).startswith(
        "iterations 3 to 4: the gradient norm is nan; rank 0: iteration 3: loss nan, loss_box 0.25, image ids "
        "[30, 31]; iteration 4: loss 0.5, loss_box 0.25, image ids [40, 41]; "
    )


@pytest.mark.parametrize(
    "output",
    [
        lambda i: {"loss": torch.tensor(math.nan if i == 2 else 1.0)},
        lambda i: {"loss": math.inf if i == 2 else 1.0},
        lambda i: torch.tensor([math.nan if i == 2 else 1.0]),
        lambda i: math.nan if i == 2 else 1.0,
    ],
    ids=["dict", "dict of numbers", "tensor", "number"],
)
def test_without_a_norm_the_loss_is_looked_at(output: Callable[[int], Any]) -> None:
    trainer = _trainer(output)
    NonFiniteWatch().attach(trainer)
    with pytest.raises(NonFiniteError, match="iteration 2: the loss is"):
        trainer.run([0, 1, 2, 3])


@pytest.mark.parametrize("output", [None, "text", (torch.ones(2), torch.ones(2)), {"grad_norm": torch.ones(3)}])
def test_outputs_without_numbers_are_left_alone(output: Any) -> None:
    trainer = _trainer(lambda iteration: output)
    NonFiniteWatch().attach(trainer)
    trainer.run([0, 1, 2, 3])


def test_overflows_of_a_loss_scaler_are_tolerated_for_a_while() -> None:
    trainer = _trainer(_norms({2: math.inf, 3: math.nan, 5: math.inf}, loss_scale=torch.tensor(1024.0)))
    NonFiniteWatch(max_overflows=2).attach(trainer)
    trainer.run(_batches(8))
    trainer = _trainer(_norms(dict.fromkeys(range(3, 100), math.inf), loss_scale=torch.tensor(1024.0)))
    NonFiniteWatch(max_overflows=2).attach(trainer)
    with pytest.raises(NonFiniteError, match="iteration 5"):
        trainer.run(_batches(8))


def test_with_a_loss_scaler_a_bad_loss_is_no_overflow() -> None:
    bad = {"loss": torch.tensor(math.nan), "loss_scale": torch.tensor(1024.0)}
    trainer = _trainer(_norms({2: math.nan}, **bad))
    NonFiniteWatch().attach(trainer)
    with pytest.raises(NonFiniteError, match="iteration 2: the gradient norm is nan; rank 0: loss nan"):
        trainer.run(_batches(8))


def test_a_second_watch_takes_the_place_of_the_first_and_detached_ones_look_away() -> None:
    trainer = _trainer(_norms({2: math.nan}))
    first, second = NonFiniteWatch(), NonFiniteWatch()
    first.attach(trainer)
    second.attach(trainer)
    assert trainer.state.non_finite_watch is second
    second.detach()
    second.detach()
    trainer.run(_batches(5))


class _Reads(TorchDispatchMode):
    """Counts what would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_local_scalar_dense" in str(func) or "nonzero" in str(func) or "_to_copy" in str(func):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a tensor was read")

    for name in ("item", "cpu", "tolist", "numpy", "__float__", "__int__", "__bool__"):
        monkeypatch.setattr(Tensor, name, refuse)


def test_nothing_is_read_from_a_tensor_while_all_is_well(no_reads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # The CPU stands for a device, where a norm is not on the host already.
    monkeypatch.setattr("ignite_imgtools.handlers.non_finite._is_on_host", lambda value: False)
    batches = [([], [{"image_id": torch.tensor(7)}])] * 3
    trainer = _trainer(_norms({}))
    NonFiniteWatch().attach(trainer)
    with pytest.MonkeyPatch.context() as patch:
        # Once, for the memory that is shared with NumPy.
        patch.setattr(Tensor, "numpy", torch._C.TensorBase.numpy)
        trainer.run(batches, max_epochs=1)
    with _Reads() as reads:
        trainer.run(batches, max_epochs=2)
    assert reads.found == []


def test_a_norm_that_its_owner_changes_later_was_read_before() -> None:
    norm = torch.zeros(1)

    def output(iteration: int) -> dict[str, Any]:
        return {"loss": torch.tensor(1.0), "grad_norm": norm.fill_(math.nan if iteration == 3 else 1.0)}

    trainer = _trainer(output)
    NonFiniteWatch().attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: engine.state.output["grad_norm"].zero_())
    with pytest.raises(NonFiniteError, match="iteration 3: the gradient norm is nan"):
        trainer.run(_batches(5))


def test_a_loss_that_numpy_cannot_read_is_looked_at() -> None:
    loss = torch.tensor(complex(1, math.nan)).conj().imag
    assert loss.is_neg()
    trainer = _trainer(lambda iteration: {"loss": loss})
    NonFiniteWatch().attach(trainer)
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        trainer.run(_batches(2))


@pytest.mark.parametrize("image_id", [math.nan, math.inf, 1.5, "a b", None])
def test_image_ids_that_are_no_integers_are_told_as_they_are(image_id: Any) -> None:
    trainer = _trainer(lambda iteration: {"loss": math.nan})
    NonFiniteWatch().attach(trainer)
    with pytest.raises(NonFiniteError, match="image ids") as caught:
        trainer.run([([], [{"image_id": image_id}])])
    assert str(image_id) in str(caught.value)


# Checkpoints


def _diverging(lr_at: dict[int, float], nan_at: int = 0) -> tuple[Engine, nn.Module]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(engine: Engine, batch: Any) -> dict[str, Any]:
        iteration = engine.state.iteration
        optimizer.param_groups[0]["lr"] = lr_at.get(iteration, 0.001)
        images = torch.full((2, 3), math.nan if iteration == nan_at else 1.0)
        loss = (model(images) - 100).pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
        optimizer.step()
        return {"loss": loss.detach(), "grad_norm": norm}

    return Engine(step), model


def _assert_finite(folder: Path, iteration: int) -> None:
    for path in (folder / "checkpoints").iterdir():
        state = load_checkpoint(path)
        assert all(torch.isfinite(weight).all() for weight in state["model"].values())
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["trainer"]["iteration"] == iteration


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("nan_at", [1, 4, 5, 6])
def test_no_checkpoint_holds_weights_that_are_not_finite(tmp_path: Path, nan_at: int, background: bool) -> None:
    trainer, model = _diverging({}, nan_at)
    attach_checkpoints(trainer, None, {"model": model}, tmp_path, every=1, background=background)
    with pytest.raises(NonFiniteError, match=f"iteration {nan_at}: the gradient norm is nan"):
        trainer.run(range(5), max_epochs=2)
    wait_for_writers()
    if nan_at == 1:
        assert not (tmp_path / "checkpoints").exists()
    else:
        _assert_finite(tmp_path, nan_at - 1)


@pytest.mark.parametrize("background", [False, True])
def test_a_step_too_long_for_the_numbers_is_seen_before_it_is_written(tmp_path: Path, background: bool) -> None:
    # The gradient is finite, the weights after the step are not.
    trainer, model = _diverging({4: 3e38})
    attach_checkpoints(trainer, None, {"model": model}, tmp_path, every=2, background=background)
    with pytest.raises(NonFiniteError) as caught:
        trainer.run(range(10), max_epochs=1)
    wait_for_writers()
    # In the background the watch may find the step that follows first.
    assert background or str(caught.value).startswith("iteration 4: not finite after the step: model.weight")
    _assert_finite(tmp_path, 2)


def test_buffers_may_be_infinite(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    trainer = Engine(lambda engine, batch: None)
    attach_checkpoints(trainer, None, {"model": model}, tmp_path)
    trainer.run([0])
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["model"]["mask"].tolist() == [0.0, -math.inf]


@pytest.mark.parametrize("loss", [math.nan, np.float32("nan"), np.float64("nan"), torch.tensor(math.nan)])
def test_a_loss_of_any_type_is_looked_at_and_image_ids_may_be_text(loss: Any) -> None:
    trainer = _trainer(lambda iteration: {"loss": loss})
    NonFiniteWatch().attach(trainer)
    with pytest.raises(
        NonFiniteError, match=r"iteration 1: the loss is nan; rank 0: loss nan, image ids \['a b.jpg', 7\];"
    ):
        trainer.run([([], [{"image_id": "a\nb.jpg"}, {"image_id": torch.tensor(7)}])])


def test_what_is_finite_in_float64_is_finite() -> None:
    trainer = _trainer(
        lambda iteration: {"loss": torch.tensor(1e39, dtype=[torch.float64, torch.float32][iteration == 3])}
    )
    NonFiniteWatch().attach(trainer)
    with pytest.raises(NonFiniteError, match="iteration 3: the loss is inf"):
        trainer.run(range(5))


def test_a_term_that_becomes_a_number_is_looked_at_and_told() -> None:
    bad = torch.tensor(math.nan)
    trainer = _trainer(
        lambda iteration: {"loss": bad if iteration == 3 else 1.0, "aux": bad if iteration == 3 else None}
    )
    NonFiniteWatch().attach(trainer)
    with pytest.raises(NonFiniteError, match="iteration 3: the loss is nan; rank 0: loss nan, aux nan;"):
        trainer.run(range(4))


@pytest.mark.parametrize("with_terms", [False, True])
def test_predictions_are_not_kept(with_terms: bool) -> None:
    alive: list[int] = []
    made: list[weakref.ref[Tensor]] = []
    vectors: list[Any] = []

    def output(iteration: int) -> dict[str, Any]:
        alive.append(sum(one() is not None for one in made))
        predictions = torch.zeros(100)
        made.append(weakref.ref(predictions))
        terms = StepTerms.of(["a"], torch.ones(1)) if with_terms else {"loss": torch.tensor(1.0)}
        terms |= {"grad_norm": torch.tensor(math.nan if iteration == 4 else 1.0), "y_pred": predictions}
        return terms

    trainer = _trainer(output)
    NonFiniteWatch().attach(trainer)
    # Terms that nobody has read are not read by the watch either.
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: vectors.append(getattr(trainer.state.output, "vector", None))
    )
    with pytest.raises(NonFiniteError, match="iteration 4: the gradient norm is nan; rank 0: loss 1"):
        trainer.run(range(5))
    assert alive == [0] * 5
    assert [vector is not None for vector in vectors] == [with_terms] * 4


@pytest.mark.parametrize("scaled", [False, True])
def test_a_loss_that_is_not_finite_ends_the_run_where_its_gradient_is(tmp_path: Path, scaled: bool) -> None:
    model = nn.Linear(1, 1)
    update = GradientUpdate(torch.optim.SGD(model.parameters(), lr=1e-3), amp_dtype="float16" if scaled else None)

    def step(engine: Engine, batch: Any) -> Any:
        # The mean over nothing has no gradient.
        value = model(torch.ones(1, 1)).float().mean()
        nothing = torch.zeros(0 if engine.state.iteration == 4 else 1).mean()
        return update(engine, model, lambda: {"a": value, "b": nothing})

    trainer = create_trainer(step, model, update)
    MetricLogger(tmp_path, bar=False, console=False).attach(trainer, every=5)
    NonFiniteWatch().attach(trainer)
    if scaled:
        trainer.run(range(10), max_epochs=1)
        return
    with pytest.raises(
        NonFiniteError, match=r"^iteration 5: the mean of the loss .* is nan, its gradient is finite: .*, b nan,"
    ):
        trainer.run(range(10), max_epochs=1)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_loss_that_was_told_once_does_not_end_the_next_run() -> None:
    trainer = create_trainer(
        lambda engine, _: {"loss": math.nan if engine.state.iteration == 4 else 1.0, "grad_norm": 1.0}, nn.Linear(1, 1)
    )
    MetricLogger(None, bar=False, console=False).attach(trainer, every=5)
    NonFiniteWatch().attach(trainer)
    with pytest.raises(NonFiniteError, match=r"^iteration 5: the mean of the loss"):
        trainer.run(range(20), max_epochs=1)
    trainer.run(range(20), max_epochs=1)
    assert trainer.state.iteration == 20


@pytest.mark.parametrize("weight", [0, 1])
def test_a_loss_that_was_not_computed_is_not_one_that_is_not_finite(tmp_path: Path, weight: int) -> None:
    """As where two networks are trained in turn; or where a batch is empty."""

    def step(engine: Engine, batch: Any) -> Any:
        if engine.state.iteration != 3:
            return {"loss": 1.0, "batch_size": 2}
        return {"other": 1.0} if weight else {"loss": 1.0, "batch_size": 0}

    trainer = create_trainer(step, nn.Linear(1, 1))
    MetricLogger(tmp_path, bar=False, console=False).attach(trainer, every=1)
    NonFiniteWatch().attach(trainer)
    trainer.run(range(4), max_epochs=1)
    records = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert ["train/loss" in record for record in records] == [True, True, False, True]
