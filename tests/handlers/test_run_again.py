"""``trainer.run`` called once more after an error or an interrupt, as in a notebook: nothing is lost or done twice."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, EventEnum, Events
from torch import nn
from torch.utils.data import Dataset

from ignite_imgtools.data import create_loader
from ignite_imgtools.distributed import failures
from ignite_imgtools.engines import GradientUpdate, create_trainer
from ignite_imgtools.formats import NonFiniteError
from ignite_imgtools.handlers import MetricLogger, NonFiniteWatch, attach_checkpoints, attach_process_watch
from ignite_imgtools.handlers import checkpoint_folder as checkpoint_folder_module
from ignite_imgtools.handlers.checkpoint_file import CheckpointError, load_checkpoint
from tests.distributed.spawn import run_processes


class _Fails:
    """Raises once: call it where something is to fail."""

    def __init__(self, error: type[BaseException] = RuntimeError, when: Callable[[], bool] = lambda: True):
        self._error, self._when, self.left = error, when, 1

    def __call__(self) -> None:
        if self.left and self._when():
            self.left = 0
            raise self._error


class _Run:
    """Counts the steps by epoch and iteration."""

    def __init__(self, in_step: Callable[[Engine], Any] = lambda engine: None, outputs: int = 1):
        self.steps: list[tuple[int, int]] = []
        self.model = nn.Linear(1, outputs)

        def step(engine: Engine, batch: Any) -> Any:
            output = in_step(engine)
            self.steps.append((engine.state.epoch, engine.state.iteration))
            return output

        self.trainer = create_trainer(step, self.model)

    def run_twice(
        self, between: Callable[[Engine], Any] = lambda trainer: None, epochs: int = 3
    ) -> list[tuple[int, int]]:
        """The steps of the second run; the first may fail."""
        with contextlib.suppress(RuntimeError, KeyboardInterrupt):
            self.trainer.run(range(5), max_epochs=epochs)
        done = len(self.steps)
        between(self.trainer)
        self.trainer.run(range(5), max_epochs=epochs)
        return self.steps[done:]


def _places(first: int, last: int) -> list[tuple[int, int]]:
    return [(1 + (i - 1) // 5, i) for i in range(first, last + 1)]


def _fails_in(iteration: int) -> Callable[[Engine], Any]:
    left = [iteration]

    def fail(engine: Engine) -> None:
        if engine.state.iteration in left:
            left.clear()
            raise KeyboardInterrupt

    return fail


@pytest.mark.parametrize(
    ("place", "first"),
    [({"iteration": 10}, 11), ({"epoch": 1}, 6), ({"iteration": 14}, 15), ({"iteration": 0}, 1), ({"epoch": 2}, 11)],
)
def test_a_place_that_was_set_after_the_error_is_where_it_goes_on(place: dict[str, int], first: int) -> None:
    run = _Run(_fails_in(13))
    again = run.run_twice(lambda trainer: trainer.load_state_dict({**place, "epoch_length": 5, "max_epochs": 3}))
    assert again == _places(first, 15)


def test_a_place_that_a_handler_of_the_error_has_set_is_where_it_goes_on() -> None:
    def go_back(error: BaseException) -> None:
        run.trainer.load_state_dict({"iteration": 10, "epoch_length": 5, "max_epochs": 3})
        raise error

    fails = _Fails(when=lambda: run.trainer.state.iteration == 13)
    run = _Run(lambda engine: fails())
    run.trainer.add_event_handler(Events.EXCEPTION_RAISED, go_back)
    assert run.run_twice() == _places(11, 15)


def test_an_error_before_the_first_step_of_the_second_run() -> None:
    run, fails = _Run(_fails_in(7)), _Fails(when=lambda: len(run.steps) == 6)
    run.trainer.add_event_handler(Events.GET_BATCH_COMPLETED, fails)
    fails.left = 0
    with pytest.raises(KeyboardInterrupt):
        run.trainer.run(range(5), max_epochs=3)
    fails.left = 1
    with pytest.raises(RuntimeError):
        run.trainer.run(range(5), max_epochs=3)
    run.trainer.run(range(5), max_epochs=3)
    assert run.steps == _places(1, 15)


class _Backprop(EventEnum):
    FORWARD_DONE = "forward_done"


def test_a_step_may_fire_events_of_its_own() -> None:
    fails = _fails_in(7)

    def in_step(engine: Engine) -> None:
        engine.fire_event(_Backprop.FORWARD_DONE)
        fails(engine)

    run = _Run(in_step)
    run.trainer.register_events(*_Backprop)
    assert run.run_twice() == _places(7, 15)


def test_an_interrupt_that_a_handler_has_swallowed() -> None:
    run = _Run(_fails_in(7))
    run.trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda error: None)
    assert run.run_twice() == _places(7, 15)


def test_an_error_after_a_run_was_terminated_changes_nothing() -> None:
    """ignite begins another epoch where a terminated run goes on."""
    wanted = None
    for fails in (lambda: None, _Fails()):
        run = _Run()
        run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: run.trainer.terminate())  # noqa: B023
        run.trainer.add_event_handler(Events.COMPLETED, fails)
        again = run.run_twice()
        wanted = again if wanted is None else wanted
        assert again == wanted
        assert again[0] == (2, 4)


def test_a_resume_that_was_refused_is_refused_again(tmp_path: Path) -> None:
    first = _Run()
    attach_checkpoints(first.trainer, None, {"model": first.model}, tmp_path)
    MetricLogger(tmp_path, bar=False, console=False).attach(first.trainer)
    first.trainer.run(range(5), max_epochs=2)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    other = _Run(outputs=2)
    attach_checkpoints(other.trainer, None, {"model": other.model}, tmp_path)
    MetricLogger(tmp_path, bar=False, console=False).attach(other.trainer)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="does not fit this run, nothing was loaded"):
            other.trainer.run(range(5), max_epochs=3)
    assert other.steps == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_a_resume_that_failed_once_is_done_by_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _Run()
    attach_checkpoints(first.trainer, None, {"model": first.model}, tmp_path)
    first.trainer.run(range(5), max_epochs=2)

    fails = _Fails(KeyboardInterrupt)
    monkeypatch.setattr(
        checkpoint_folder_module,
        "load_checkpoint",
        lambda *args, **kwargs: (fails(), load_checkpoint(*args, **kwargs))[1],
    )
    again = _Run()
    attach_checkpoints(again.trainer, None, {"model": again.model}, tmp_path)
    assert again.run_twice() == _places(11, 15)
    torch.testing.assert_close(dict(again.model.state_dict()), dict(first.model.state_dict()), rtol=0, atol=0)


class _Numbers(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_worker_that_is_killed_during_a_step_is_made_anew() -> None:
    def batches(kill: bool) -> list[list[float]]:
        before, seen = set(multiprocessing.active_children()), []

        def step(engine: Engine, batch: torch.Tensor) -> None:
            nonlocal kill
            if kill and engine.state.iteration == 7:
                kill = False
                for worker in set(multiprocessing.active_children()) - before:
                    os.kill(worker.pid, signal.SIGKILL)
                time.sleep(30)  # the news of it ends this
            seen.append(batch.ravel().tolist())

        trainer = create_trainer(step, nn.Linear(1, 1))
        loader = create_loader(_Numbers(), 4, shuffle=True, num_workers=1, collate_fn=torch.stack)
        killed = kill
        if killed:
            with pytest.raises(RuntimeError, match="killed"):
                trainer.run(loader, max_epochs=2)
        trainer.run(loader, max_epochs=2)
        return seen

    assert batches(kill=True) == batches(kill=False)


def test_an_overflow_check_that_was_broken_off_begins_anew() -> None:
    model, fails = nn.Linear(1, 1), _Fails(torch.OutOfMemoryError)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    optimizer.register_step_pre_hook(lambda *_: fails())
    update = GradientUpdate(optimizer, amp_dtype="float16")
    done: list[int] = []

    def step(engine: Engine, batch: Any) -> Any:
        output = update(engine, model, lambda: {"a": model(torch.ones(1, 1)).float().mean()})
        done.append(engine.state.iteration)
        return output

    trainer = create_trainer(step, model, update)
    with pytest.raises(torch.OutOfMemoryError):
        trainer.run(range(5), max_epochs=1)
    trainer.run(range(5), max_epochs=1)
    assert done == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("iteration", [1, 5, 7, 8])
def test_a_window_goes_on_with_the_iteration_whose_forward_pass_failed(accumulate: int, iteration: int) -> None:
    def weights(fails: Callable[[Engine], Any]) -> list[float]:
        model, found = nn.Linear(1, 1, bias=False), []
        nn.init.zeros_(model.weight)
        update = GradientUpdate(torch.optim.SGD(model.parameters(), lr=1.0), accumulate=accumulate)

        def step(engine: Engine, batch: Any) -> Any:
            def forward() -> dict[str, torch.Tensor]:
                loss = model(torch.tensor([[10.0 ** (engine.state.iteration % 4)]])).sum()
                fails(engine)
                return {"a": loss}

            output = update(engine, model, forward)
            found.append(model.weight.item())
            return output

        trainer = create_trainer(step, model, update)
        try:
            trainer.run(range(8), max_epochs=1)
        except KeyboardInterrupt:
            trainer.run(range(8), max_epochs=1)
        return found

    assert weights(_fails_in(iteration)) == weights(lambda engine: None)


def test_a_window_goes_on_without_a_batch_that_the_step_passes_over() -> None:
    """As many a training does where memory is short for one batch."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    update = GradientUpdate(torch.optim.SGD(model.parameters(), lr=1.0), accumulate=4)

    def step(engine: Engine, batch: Any) -> Any:
        def forward() -> torch.Tensor:
            if engine.state.iteration == 2:
                raise torch.OutOfMemoryError
            return model(torch.tensor([[10.0**engine.state.iteration]])).sum()

        with contextlib.suppress(torch.OutOfMemoryError):
            return update(engine, model, forward)

    create_trainer(step, model, update).run(range(4), max_epochs=1)
    assert model.weight.item() == -(10 + 1000 + 10000) / 4


def test_a_window_begins_anew_where_a_checkpoint_was_loaded_after_a_failed_forward_pass(tmp_path: Path) -> None:
    """As in a notebook, with a trainer made anew that resumes."""
    model, fails = nn.Linear(1, 1, bias=False), _Fails(torch.OutOfMemoryError, lambda: trainer.state.iteration == 5)
    nn.init.zeros_(model.weight)
    update, found = GradientUpdate(torch.optim.SGD(model.parameters(), lr=1.0), accumulate=4), []

    def step(engine: Engine, batch: Any) -> Any:
        def forward() -> torch.Tensor:
            fails()
            return model(torch.ones(1, 1)).sum()

        output = update(engine, model, forward)
        found.append(model.weight.item())
        return output

    for _ in range(2):
        trainer = create_trainer(step, model, update)
        attach_checkpoints(trainer, None, {"model": model}, tmp_path)
        with contextlib.suppress(torch.OutOfMemoryError):
            trainer.run(range(4), max_epochs=2)
    assert found == [0, 0, 0, -1, -1, -1, -1, -2]


@pytest.mark.parametrize("iteration", [1, 6, 9])
def test_meters_go_on_after_an_error(tmp_path: Path, iteration: int) -> None:
    def logged(folder: Path, fails: Callable[[Engine], Any]) -> tuple[list[Any], list[str]]:
        def in_step(engine: Engine) -> dict[str, float]:
            fails(engine)
            return {"loss": float(engine.state.iteration)}

        run = _Run(in_step)
        MetricLogger(folder, bar=False, console=False).attach(run.trainer, every=5)
        for _ in range(2):
            try:
                run.trainer.run(range(10), max_epochs=2)
                break
            except KeyboardInterrupt:
                pass
        lines = (folder / "log.txt").read_text().splitlines()
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return records, [line.split("time")[0] for line in lines if "loss" in line]

    assert logged(tmp_path / "a", _fails_in(iteration)) == logged(tmp_path / "b", lambda engine: None)


def test_the_step_before_an_interrupt_is_looked_at() -> None:
    model = nn.Linear(1, 1)
    update = GradientUpdate(torch.optim.SGD(model.parameters(), lr=1e-3))
    fails = _fails_in(4)

    def step(engine: Engine, batch: Any) -> Any:
        fails(engine)
        value = float("nan") if engine.state.iteration == 3 else 1.0
        return update(engine, model, lambda: {"a": model(torch.full((1, 1), value)).mean()})

    trainer = create_trainer(step, model, update)
    NonFiniteWatch().attach(trainer)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(range(9), max_epochs=1)
    with pytest.raises(NonFiniteError, match=r"^iteration 3: the gradient norm is nan"):
        trainer.run(range(9), max_epochs=1)


def test_a_resumed_run_without_data_draws_as_the_whole_one(tmp_path: Path) -> None:
    def draws(folder: Path, stop: int = 0) -> list[float]:
        drawn: list[float] = []

        def in_step(engine: Engine) -> None:
            if engine.state.iteration == 1:
                random.seed(0)
            drawn.append(random.random())

        run = _Run(in_step)
        checkpoints = attach_checkpoints(run.trainer, None, {"model": run.model}, folder)
        if stop:
            run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=stop), checkpoints.save_now)
            run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=stop), _Fails())
            with pytest.raises(RuntimeError):
                run.trainer.run(None, max_epochs=2, epoch_length=4)
            checkpoints.wait()
        else:
            run.trainer.run(None, max_epochs=2, epoch_length=4)
        return drawn

    whole, begun = draws(tmp_path / "whole"), draws(tmp_path / "parts", stop=2)
    random.seed(99)
    assert begun + draws(tmp_path / "parts") == whole


def _caught_on_all(folder: str) -> list[Any]:
    run = _Run(lambda engine: fails(engine) or (time.sleep(5.0) if engine.state.iteration == 6 else None))
    fails = _fails_in(3)
    attach_checkpoints(run.trainer, None, {"model": run.model}, Path(folder))
    return run.run_twice(epochs=2)


def test_processes_that_all_failed_may_all_run_again(tmp_path: Path) -> None:
    """Five seconds in one line are more than the first error had left them."""
    assert run_processes(_caught_on_all, 2, str(tmp_path)) == [_places(3, 10)] * 2


def _goes_on_with_another_trainer(folder: str, raises_again: bool) -> bool:
    def raise_again(error: BaseException) -> None:
        raise error

    fails, limits = _Fails(ValueError), set()
    runs = [_Run(lambda engine: fails()), _Run(lambda engine: limits.add(failures._watch.stuck_after))]
    attach_process_watch(runs[0].trainer, stuck_after=77)
    for place, run in enumerate(runs):
        if raises_again:  # as handlers of this event usually do
            run.trainer.add_event_handler(Events.EXCEPTION_RAISED, raise_again)
        attach_checkpoints(run.trainer, None, {"model": run.model}, Path(folder) / str(place))
        with contextlib.suppress(ValueError):
            run.trainer.run(range(5), max_epochs=1)
    # Else the one that leaves first is taken to have failed by the other, which is then ended.
    return failures._watch is None and runs[1].steps == _places(1, 5) and limits == {failures.STUCK_AFTER}


@pytest.mark.parametrize("raises_again", [False, True])
def test_processes_may_go_on_with_another_trainer(tmp_path: Path, raises_again: bool) -> None:
    assert run_processes(_goes_on_with_another_trainer, 2, str(tmp_path), raises_again) == [True, True]


def _told_to_launchers(folder: str) -> tuple[bool, bool]:
    files = [Path(folder) / "failure.json", Path(folder) / f"error-{idist.get_rank()}.json"]
    os.environ |= dict(zip((failures.FAILURE_FILE, "TORCHELASTIC_ERROR_FILE"), map(str, files), strict=True))
    fails, told = _Fails(), []
    run = _Run(lambda engine: fails())
    attach_checkpoints(run.trainer, None, {"model": run.model}, Path(folder) / "run")
    for _ in range(2):
        with contextlib.suppress(RuntimeError):
            run.trainer.run(range(5), max_epochs=1)
        idist.barrier()
        told.append(any(file.exists() for file in files))
        idist.barrier()
    return told[0], told[1]


def test_an_error_after_which_processes_go_on_is_not_told_for_a_later_one(tmp_path: Path) -> None:
    assert run_processes(_told_to_launchers, 2, str(tmp_path)) == [(True, False)] * 2


def _caught_where_another_failed(folder: str) -> list[str]:
    rank, file, told = idist.get_rank(), Path(folder) / "told.json", []

    def in_step(engine: Engine) -> None:
        if engine.state.iteration == 3 and rank == 1:
            raise ValueError("of rank 1 alone")
        if engine.state.iteration == 3:
            raise RuntimeError("gloo: connection closed by peer")

    run = _Run(in_step)
    attach_checkpoints(run.trainer, None, {"model": run.model}, Path(folder))
    for _ in range(2 - rank):
        try:
            run.trainer.run(range(5), max_epochs=1)
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
    if rank == 0:
        file.write_text(json.dumps(told))
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        pass  # at work, or its watch would end it
    os._exit(0)


def test_who_was_ended_by_the_failure_of_another_is_told_so_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="died with exit code 0"):
        run_processes(_caught_where_another_failed, 2, str(tmp_path))
    line = "ProcessFailure: rank 1 failed first: ValueError: of rank 1 alone"
    assert json.loads((tmp_path / "told.json").read_text()) == [line, line]


def test_a_run_that_is_over_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for told in (False, True):
        run = _Run()
        attach_checkpoints(run.trainer, None, {"model": run.model}, tmp_path)
        MetricLogger(tmp_path, bar=False).attach(run.trainer)
        run.trainer.run(range(5), max_epochs=2)
        line = "Nothing to do: the run has all its iterations, 10 in 2 epochs"
        assert (line in capsys.readouterr().out) == told
        assert (line in (tmp_path / "log.txt").read_text()) == told
