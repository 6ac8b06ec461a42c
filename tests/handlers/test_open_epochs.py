"""Checkpoints taken before an epoch's first step, where an epoch is cut short, and of runs one after another."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from ignite_imgtools.engines import GradientUpdate, create_trainer
from ignite_imgtools.formats import NonFiniteError
from ignite_imgtools.handlers import NonFiniteWatch, attach_checkpoints, attach_signals
from ignite_imgtools.handlers.checkpoint_file import load_checkpoint
from ignite_imgtools.handlers.checkpoint_folder import CheckpointFolder

_WHOLE = [(1 + i // 5, 1 + i) for i in range(10)]
_CUT = [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6), (2, 7), (2, 8)]


class _Run:
    """Two epochs of five iterations, or what handlers make of them; a weight counts the steps."""

    def __init__(self, folder: Path, **options: Any):
        self.last = folder / "checkpoints" / "last.pt"
        self.steps: list[tuple[int, int]] = []
        self.model = nn.Linear(1, 1)
        with torch.no_grad():
            self.model.weight.zero_()
        self.trainer = create_trainer(self._step, self.model)
        self.checkpoints = attach_checkpoints(self.trainer, None, {"model": self.model}, folder, **options)

    def _step(self, engine: Engine, batch: Any) -> None:
        with torch.no_grad():
            self.model.weight.add_(1)
        self.steps.append((engine.state.epoch, engine.state.iteration))

    def cut_first_epoch(self, **how: Any) -> None:
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: self.trainer.terminate_epoch(**how))

    def run(self, max_epochs: int = 2) -> list[tuple[int, int]]:
        self.trainer.run(range(5), max_epochs=max_epochs)
        return self.steps

    def saved_steps(self) -> float:
        return float(load_checkpoint(self.last)["model"]["weight"])


def test_an_epoch_that_had_made_no_step_is_not_left_out(tmp_path: Path) -> None:
    first = _Run(tmp_path / "first", background=False)

    @first.trainer.on(Events.EPOCH_STARTED)
    def save() -> None:
        first.checkpoints.save_now()
        shutil.copy(first.last, tmp_path / f"before_{first.trainer.state.epoch}.pt")

    assert first.run() == _WHOLE
    for epoch in (1, 2):
        file = str(tmp_path / f"before_{epoch}.pt")
        assert _Run(tmp_path / f"again_{epoch}", resume=file).run() == _WHOLE[5 * (epoch - 1) :]


def test_a_run_that_was_terminated_before_its_first_step_trains(tmp_path: Path) -> None:
    first = _Run(tmp_path)
    first.trainer.add_event_handler(Events.EPOCH_STARTED(once=1), lambda: first.trainer.terminate())
    assert first.run() == []
    assert _Run(tmp_path).run() == _WHOLE


def test_a_signal_in_the_iteration_that_cuts_an_epoch_short_waits_for_its_end(tmp_path: Path) -> None:
    straight = _Run(tmp_path / "straight")
    straight.cut_first_epoch()
    assert straight.run() == _CUT

    killed = _Run(tmp_path / "killed")
    killed.cut_first_epoch()
    killed.trainer.add_event_handler(Events.ITERATION_STARTED(once=3), lambda: os.kill(os.getpid(), signal.SIGTERM))
    attach_signals(killed.trainer, killed.checkpoints)
    with pytest.raises(SystemExit) as left:
        killed.run()
    assert left.value.code == 143
    assert killed.steps == _CUT[:3]
    assert _Run(tmp_path / "killed").run() == _CUT[3:]


def test_no_checkpoint_forgets_that_its_epoch_was_cut_short(tmp_path: Path) -> None:
    run = _Run(tmp_path, every=3, background=False)
    run.cut_first_epoch()
    saved: list[bool] = []
    run.trainer.add_event_handler(Events.TERMINATE_SINGLE_EPOCH, lambda iter_counter: saved.append(run.last.exists()))
    run.run(1)
    assert saved == [False]
    assert _Run(tmp_path).run() == _CUT[3:]


def test_a_run_whose_last_epoch_was_cut_without_its_work_has_ended(tmp_path: Path) -> None:
    run = _Run(tmp_path)
    run.cut_first_epoch(skip_epoch_completed=True)
    assert run.run(1) == _CUT[:3]
    assert _Run(tmp_path).run(1) == []
    assert _Run(tmp_path).run(2) == _CUT[3:]


def test_a_trainer_that_runs_on_after_a_cut_epoch_has_whole_ones(tmp_path: Path) -> None:
    run = _Run(tmp_path)
    run.cut_first_epoch()
    run.run(2)
    assert run.run(3) == [*_CUT, *((3, i) for i in range(9, 14))]
    assert run.trainer.state.epoch_began_after == 13


@pytest.mark.parametrize(
    ("event", "made"),
    [
        (Events.EPOCH_STARTED(once=2), 5),
        (Events.GET_BATCH_STARTED(once=7), 7),  # the iteration is counted later
        (Events.GET_BATCH_COMPLETED(once=5), 5),
        (Events.ITERATION_STARTED(once=1), 0),
        (Events.ITERATION_STARTED(once=8), 7),
        (Events.ITERATION_COMPLETED(once=8), 8),
        (Events.ITERATION_COMPLETED(once=5), 5),
        (Events.EPOCH_COMPLETED(once=1), 5),
    ],
)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_trainer_that_failed_goes_on_with_the_step_it_had_not_made(
    tmp_path: Path, event: Any, made: int, error: type[BaseException]
) -> None:
    run = _Run(tmp_path)

    def fail() -> None:
        if run.trainer.has_event_handler(fail):
            run.trainer.remove_event_handler(fail, event)
            raise error

    run.trainer.add_event_handler(event, fail)
    with pytest.raises(error):
        run.run()
    assert run.steps == _WHOLE[:made]
    assert run.run() == _WHOLE
    run.checkpoints.wait()
    assert run.saved_steps() == 10


def test_what_a_finished_run_was_resumed_for_does_not_forget_where_its_epoch_ended(tmp_path: Path) -> None:
    first = _Run(tmp_path / "first")
    first.cut_first_epoch()
    first.run(1)
    _Run(tmp_path / "again", resume=str(first.last)).run(1)
    assert _Run(tmp_path / "again").run(2) == _CUT[3:]


def test_each_of_several_runs_of_one_epoch_is_saved(tmp_path: Path) -> None:
    run = _Run(tmp_path)
    for count in range(1, 4):
        run.run(1)
        run.checkpoints.wait()
        assert run.saved_steps() == 5 * count


def test_a_whole_epoch_is_saved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    save = CheckpointFolder.save_last

    def count(self: CheckpointFolder, content: Any) -> Path:
        written.append(content["trainer"]["iteration"])
        return save(self, content)

    monkeypatch.setattr(CheckpointFolder, "save_last", count)
    run = _Run(tmp_path, background=False)
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED(every=5), lambda: run.checkpoints.save_now())
    run.run()
    assert written == [5, 10]


def test_iterations_of_a_window_that_was_never_finished_are_not_blamed() -> None:
    model = nn.Linear(1, 1)
    update = GradientUpdate(torch.optim.SGD(model.parameters(), lr=0.1), accumulate=4)

    def step(engine: Engine, batch: Any) -> Any:
        value = float("nan") if engine.state.iteration == 6 else 1.0
        return update(engine, model, lambda: {"a": model(torch.tensor([[value]])).mean()})

    trainer = create_trainer(step, model, update)
    NonFiniteWatch().attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda: trainer.terminate_epoch())
    with pytest.raises(NonFiniteError, match=r"^iterations 3 to 6: .*; rank 0: iteration 3: ") as caught:
        trainer.run(range(8), max_epochs=2)
    assert "iteration 2:" not in str(caught.value)
