"""Checkpoints of a run and its resume: when they are taken, what they hold, what is refused."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.engine.deterministic import DeterministicEngine
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ignite_imgtools.data import GroupedBatchSampler
from ignite_imgtools.engines import create_trainer
from ignite_imgtools.formats import register_resumable
from ignite_imgtools.handlers import (
    CheckpointError,
    MetricLogger,
    attach_checkpoints,
    checkpoint_file,
    checkpoint_folder,
    checkpoints,
    load_checkpoint,
    load_model,
    newest_valid_checkpoint,
    sweep_temporary_files,
)
from tests.handlers.toy_training import EPOCH_LENGTH, Crash, Toy, crash_at, create_toy, wait_for_writers


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def _saved_iterations(toy: Toy, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    saved = []
    original = checkpoint_folder.save_checkpoint

    def note(state: Any, path: Path) -> None:
        saved.append(state["trainer"]["iteration"])
        original(state, path)

    monkeypatch.setattr(checkpoint_folder, "save_checkpoint", note)
    return saved


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    # A new file under the old name: another name of the same file keeps what it has.
    path.unlink()
    path.write_bytes(content)


# The same run


@pytest.fixture(scope="module")
def straight() -> Toy:
    return create_toy().run()


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("crash", [1, 3, 5, 6, 9, 10, 11, 15])
def test_a_run_that_is_broken_off_and_resumed_equals_the_straight_one(
    tmp_path: Path, straight: Toy, crash: int, background: bool
) -> None:
    first = create_toy()
    first.attach(tmp_path, every=2, background=background)
    crash_at(first.trainer, crash)
    with pytest.raises(Crash):
        first.run()
    wait_for_writers()

    second = create_toy()
    handle = second.attach(tmp_path, every=2, background=background)
    second.run()
    assert second.digest() == straight.digest()
    resumed = len(straight.seen) - len(second.seen)
    assert straight.seen[resumed:] == second.seen
    assert (handle.resumed_from is None) == (crash <= 2)
    assert crash - 3 <= resumed <= crash - 1 or resumed == 0


def test_a_crash_in_the_evaluation_costs_one_step(tmp_path: Path, straight: Toy) -> None:
    first = create_toy()
    first.attach(tmp_path)
    crash_at(first.trainer, 2 * EPOCH_LENGTH, Events.EPOCH_COMPLETED)
    with pytest.raises(Crash):
        first.run()
    second = create_toy()
    second.attach(tmp_path)
    second.run()
    assert second.seen == straight.seen[2 * EPOCH_LENGTH - 1 :]
    assert second.digest() == straight.digest()


def test_accumulation_is_resumed_at_step_boundaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = create_toy(accumulate=2).run()
    first = create_toy(accumulate=2)
    first.attach(tmp_path, every=3)
    saved = _saved_iterations(first, tmp_path, monkeypatch)
    crash_at(first.trainer, 8)
    with pytest.raises(Crash):
        first.run()
    # Windows end at 2, 4, 5 and 7, 9, 10: due at 3, taken at 4; due at 6, taken at 7.
    assert saved == [4, 5, 7]
    second = create_toy(accumulate=2)
    second.attach(tmp_path, every=3)
    assert second.run().digest() == straight.digest()


def test_a_finished_run_is_not_run_again_but_goes_on_where_more_is_asked(tmp_path: Path, straight: Toy) -> None:
    first = create_toy()
    first.attach(tmp_path)
    first.run(2)
    before = (tmp_path / "checkpoints" / "last.pt").stat()
    second = create_toy()
    second.attach(tmp_path)
    assert second.run(2).seen == []
    assert (tmp_path / "checkpoints" / "last.pt").stat() == before
    third = create_toy()
    third.attach(tmp_path)
    assert third.run(3).digest() == straight.digest()


def test_a_second_run_of_the_same_trainer_starts_anew(tmp_path: Path) -> None:
    toy = create_toy()
    toy.attach(tmp_path)
    toy.run(1).run(1)
    assert len(toy.seen) == 2 * EPOCH_LENGTH


# When


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [4, 5, 9, 10]),
        ({"before_evaluation": False}, [5, 10]),
        ({"every": 2}, [2, 4, 5, 6, 8, 9, 10]),
        ({"every": 5, "before_evaluation": False}, [5, 10]),
        ({"every": 100, "before_evaluation": False}, [5, 10]),
    ],
)
def test_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: list[int]) -> None:
    toy = create_toy()
    saved = _saved_iterations(toy, tmp_path, monkeypatch)
    toy.attach(tmp_path, **options)
    toy.run(2)
    assert saved == expected


def test_a_run_that_ends_by_max_iters_is_saved_after_the_work_of_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = create_toy(evaluate=False)
    saved = _saved_iterations(toy, tmp_path, monkeypatch)
    toy.attach(tmp_path, every=1, best="score")
    toy.trainer.add_event_handler(Events.COMPLETED, lambda: toy.evaluator.run([0]) and None)
    toy.trainer.run(toy.loader, max_iters=7)
    assert saved == [1, 2, 3, 4, 5, 6, 7]
    assert load_checkpoint(tmp_path / "checkpoints" / "best.pt")["trainer"]["iteration"] == 7


def test_a_checkpoint_holds_what_handlers_attached_later_do_at_the_end_of_the_epoch(tmp_path: Path) -> None:
    toy = create_toy()
    toy.attach(tmp_path)
    toy.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: toy.optimizer.param_groups[0].update(lr=0.125))
    toy.run(1)
    saved = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    assert saved["optimizer"]["param_groups"][0]["lr"] == 0.125


def test_a_terminated_run_is_saved_where_it_stands(tmp_path: Path) -> None:
    toy = create_toy()
    toy.attach(tmp_path)
    toy.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=7), lambda: toy.trainer.terminate())
    toy.run(2)
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["trainer"]["iteration"] == 7


def test_a_step_that_was_counted_but_not_made_is_not_saved(tmp_path: Path) -> None:
    toy = create_toy()
    toy.attach(tmp_path)
    toy.trainer.add_event_handler(Events.ITERATION_STARTED(once=7), lambda: toy.trainer.terminate())
    toy.run(2)
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["trainer"]["iteration"] == 5


def test_data_without_a_length_are_saved_at_the_end_of_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(1, 1)
    trainer = Engine(lambda engine, batch: None)
    saved = _saved_iterations(create_toy(), tmp_path, monkeypatch)
    attach_checkpoints(trainer, None, {"model": model}, tmp_path, every=1)
    trainer.run((i for i in range(3)), max_epochs=1)
    assert saved == [3]


def test_save_now_takes_one_and_not_a_second_of_the_same_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = create_toy()
    saved = _saved_iterations(toy, tmp_path, monkeypatch)
    handle = toy.attach(tmp_path)
    toy.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda: (handle.save_now(), handle.save_now()))
    toy.run(1)
    assert saved == [2, 4, 5]
    toy.trainer.state.at_step_boundary = False
    with pytest.raises(RuntimeError, match="step boundary"):
        handle.save_now()


def test_detached_handlers_do_nothing(tmp_path: Path) -> None:
    toy = create_toy()
    toy.attach(tmp_path).detach()
    toy.run(1)
    assert not (tmp_path / "checkpoints").exists()


# What it holds


def test_content(tmp_path: Path) -> None:
    toy = create_toy()
    toy.trainer.state_dict_user_keys.append("alpha")
    toy.trainer.state.alpha = 0.5
    model = torch.compile(toy.model)
    attach_checkpoints(
        toy.trainer, None, {"model": model, "trainer": toy.trainer, "optimizer": toy.optimizer}, tmp_path
    )
    toy.run(1)
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert state["model"].keys() == toy.model.state_dict().keys()
    assert state["trainer"] == {
        "iteration": 5,
        "epoch": 1,
        "epoch_length": 5,
        "epoch_began_after": 5,
        "epoch_is_open": False,
        "max_epochs": 1,
        "max_iters": None,
        "user": {"alpha": 0.5},
    }
    assert set(state["resumables"]) == {"average", "sampler"}
    assert all(isinstance(version, str) for version in state["versions"].values())
    assert toy.trainer.state.checkpoint == tmp_path / "checkpoints" / "last.pt"

    again = create_toy()
    again.trainer.state_dict_user_keys.append("alpha")
    again.trainer.state.alpha = 0.0
    attach_checkpoints(again.trainer, None, {"model": again.model, "optimizer": again.optimizer}, tmp_path)
    again.run(1)
    assert again.trainer.state.alpha == 0.5


def test_wrapped_submodules_leave_no_trace_in_the_keys(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2))
    wrapped = nn.Sequential(nn.Sequential(nn.Linear(2, 2), torch.compile(nn.Linear(2, 2))), nn.Linear(2, 2))
    wrapped[0] = torch.compile(wrapped[0])
    trainer = Engine(lambda engine, batch: None)
    attach_checkpoints(trainer, None, {"model": wrapped}, tmp_path)
    trainer.run([0])
    state = load_checkpoint(tmp_path / "checkpoints" / "last.pt")["model"]
    assert state.keys() == plain.state_dict().keys()
    load_model(tmp_path / "checkpoints" / "last.pt", plain)
    assert torch.equal(plain[0][1].weight, wrapped[0]._orig_mod[1]._orig_mod.weight)


def test_of_a_view_only_what_is_seen_is_written(tmp_path: Path) -> None:
    class Views:
        def state_dict(self) -> dict[str, Any]:
            return {"few": torch.zeros(1_000_000)[:3], "number": np.float64(0.5)}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    trainer = Engine(lambda engine, batch: None)
    attach_checkpoints(trainer, None, {"views": Views()}, tmp_path)
    trainer.run([0])
    assert (tmp_path / "checkpoints" / "last.pt").stat().st_size < 10_000
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["views"]["number"] == 0.5


def test_a_state_that_could_not_be_read_back_is_named_when_it_is_written(tmp_path: Path) -> None:
    class Odd:
        def state_dict(self) -> dict[str, Any]:
            return {"history": [{"path": Path("a")}]}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    toy = create_toy()
    register_resumable(toy.trainer, "odd", Odd())
    toy.attach(tmp_path)
    with pytest.raises(CheckpointError, match=r"resumables/odd/history/0/path: a pathlib.*Path cannot go into"):
        toy.run()


# Rotation and the best


@pytest.mark.parametrize(
    ("keep_last", "expected"),
    [
        (1, ["last.pt"]),
        (2, ["last.pt", "previous-00000014.pt"]),
        (3, ["last.pt", "previous-00000010.pt", "previous-00000014.pt"]),
    ],
)
def test_as_many_as_asked_are_kept(tmp_path: Path, keep_last: int, expected: list[str]) -> None:
    toy = create_toy()
    toy.attach(tmp_path, keep_last=keep_last)
    toy.run(3)
    assert _names(tmp_path) == expected
    for name in expected[1:]:
        assert load_checkpoint(tmp_path / "checkpoints" / name)["trainer"]["iteration"] == int(name[9:-3])


def test_there_never_are_fewer_good_files_than_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # After every change of a name: what a kill there would leave.
    counts: list[int] = []
    toy = create_toy()
    toy.attach(tmp_path, keep_last=3, every=1)

    def watched(name: str, holder: Any) -> None:
        original = getattr(holder, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            folder = tmp_path / "checkpoints"
            files = [folder / "last.pt", *folder.glob("previous-*.pt")]
            counts.append(len({path.stat().st_ino for path in files if path.exists() and load_checkpoint(path)}))
            return result

        monkeypatch.setattr(holder, name, call)

    for name in ("replace", "unlink"):
        watched(name, Path)
    watched("link", os)
    toy.run(2)
    assert counts[0] == 0 or counts[0] == 1
    reached = counts.index(3)
    assert min(counts[reached:]) == 3
    assert max(counts) == 4


def test_where_there_are_no_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", refuse)
    toy = create_toy()
    toy.attach(tmp_path, best="score")
    toy.run(2)
    folder = tmp_path / "checkpoints"
    assert _names(tmp_path) == ["best.pt", "last.pt", "previous-00000009.pt"]
    assert (folder / "best.pt").read_bytes() == (folder / "last.pt").read_bytes()
    assert not (folder / "best.pt").samefile(folder / "last.pt")


def _best_epoch(folder: Path) -> int:
    return int(load_checkpoint(folder / "checkpoints" / "best.pt")["trainer"]["epoch"])


@pytest.mark.parametrize(
    ("mode", "scores", "expected"),
    [
        ("max", {1: 0.2, 2: 0.5, 3: 0.4, 4: 0.5}, 2),
        ("min", {1: 0.2, 2: 0.1, 3: 0.4, 4: 0.1}, 2),
        ("max", {1: math.nan, 2: -1.0, 3: math.nan, 4: math.inf}, 2),
        ("min", {1: -math.inf, 2: math.nan, 3: 7.0, 4: 8.0}, 3),
    ],
)
def test_best(tmp_path: Path, mode: Any, scores: dict[int, float], expected: int) -> None:
    toy = create_toy()
    toy.scores.update(scores)
    toy.attach(tmp_path, best="score", best_mode=mode)
    toy.run(4)
    assert _best_epoch(tmp_path) == expected


def test_best_is_the_same_file_as_the_last_where_it_is_that(tmp_path: Path) -> None:
    toy = create_toy()
    toy.attach(tmp_path, best="score")
    toy.run(2)
    assert (tmp_path / "checkpoints" / "best.pt").samefile(tmp_path / "checkpoints" / "last.pt")


def test_a_resumed_run_lets_no_worse_model_overwrite_the_best(tmp_path: Path) -> None:
    toy = create_toy()
    toy.scores.update({1: 0.9, 2: 0.3})
    toy.attach(tmp_path, best="score")
    toy.run(2)
    again = create_toy()
    again.scores.update({3: 0.5, 4: 0.8})
    again.attach(tmp_path, best="score")
    again.run(4)
    assert _best_epoch(tmp_path) == 1
    # Not even one that goes on from before the best was reached.
    early = create_toy()
    early.scores.update({1: 0.1, 2: 0.2})
    early.attach(tmp_path / "other", before_evaluation=True)
    crash_at(early.trainer, 5)
    with pytest.raises(Crash):
        early.run(1)
    back = create_toy()
    back.scores.update({1: 0.1, 2: 0.2})
    back.attach(tmp_path, best="score", resume=tmp_path / "other" / "checkpoints" / "last.pt")
    back.run(2)
    assert _best_epoch(tmp_path) == 1


def test_a_kill_between_the_two_files_of_a_new_best_is_made_good(tmp_path: Path) -> None:
    toy = create_toy()
    toy.scores.update({1: 0.5, 2: 0.9})
    toy.attach(tmp_path, best="score")
    toy.run(2)
    best = tmp_path / "checkpoints" / "best.pt"
    best.unlink()
    again = create_toy()
    again.scores.update({3: 0.7})
    again.attach(tmp_path, best="score")
    again.run(3)
    assert _best_epoch(tmp_path) == 2


def test_an_evaluation_counts_for_the_weights_it_has_seen_only(tmp_path: Path) -> None:
    toy = create_toy(evaluate=False)
    toy.trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda: toy.evaluator.run([0]) and None)
    toy.scores.update({2: 0.5, 3: 0.9})
    toy.attach(tmp_path, best="score")
    toy.run(3)
    assert _best_epoch(tmp_path) == 2


def test_a_metric_that_is_not_there_is_named(tmp_path: Path) -> None:
    toy = create_toy()
    toy.attach(tmp_path, best="bbox/AP")
    with pytest.raises(ValueError, match=r"best='bbox/AP' is no metric of the evaluation; it has score"):
        toy.run(1)


def test_the_metric_is_found_by_the_name_of_its_evaluation_too(tmp_path: Path) -> None:
    toy = create_toy()
    toy.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: setattr(toy.trainer.state, "evaluations", {"val": {"bbox/AP": 0.5}})
    )
    toy.attach(tmp_path, best="val/bbox/AP")
    toy.run(1)
    assert _best_epoch(tmp_path) == 1


# What resume takes


def test_the_newest_that_verifies_is_taken_and_the_damaged_one_named(
    tmp_path: Path, straight: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    toy = create_toy()
    toy.attach(tmp_path)
    toy.run(2)
    last = tmp_path / "checkpoints" / "last.pt"
    _flip_a_bit(last)
    (tmp_path / "checkpoints" / ".tmp-last.pt").write_bytes(b"half")
    assert newest_valid_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "previous-00000009.pt"
    again = create_toy()
    handle = again.attach(tmp_path)
    assert again.run(3).digest() == straight.digest()
    assert handle.resumed_from == tmp_path / "checkpoints" / "previous-00000009.pt"
    assert f"{last}: damaged" in caplog.text
    assert ".tmp-last.pt" not in _names(tmp_path)


def test_the_best_is_taken_where_it_is_the_newest_that_verifies(tmp_path: Path) -> None:
    toy = create_toy()
    toy.attach(tmp_path, best="score")
    toy.run(2)
    _flip_a_bit(tmp_path / "checkpoints" / "last.pt")
    assert newest_valid_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "best.pt"


def test_where_nothing_verifies_the_run_starts_anew(tmp_path: Path, straight: Toy) -> None:
    toy = create_toy()
    toy.attach(tmp_path, keep_last=1)
    toy.run(1)
    _flip_a_bit(tmp_path / "checkpoints" / "last.pt")
    again = create_toy()
    again.attach(tmp_path)
    assert again.run(3).digest() == straight.digest()
    assert len(again.seen) == 3 * EPOCH_LENGTH


def test_a_whole_file_of_another_version_stops_the_run_instead_of_being_overwritten(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    checkpoint_file.save_checkpoint({"version": 9}, tmp_path / "checkpoints" / "last.pt")
    toy = create_toy()
    toy.attach(tmp_path)
    with pytest.raises(CheckpointError, match="version 9"):
        toy.run(1)


@pytest.mark.parametrize("content", [{"version": 9}, {"trainer": 3}, None])
def test_a_whole_file_that_is_no_checkpoint_is_kept_when_an_older_one_is_taken(
    tmp_path: Path, straight: Toy, content: dict[str, Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    toy = create_toy()
    toy.attach(tmp_path)
    toy.run(2)
    last = tmp_path / "checkpoints" / "last.pt"
    last.unlink()
    if content is None:
        torch.save({"weight": torch.ones(2)}, last)
    else:
        checkpoint_file.save_checkpoint(content, last)
    before = last.read_bytes()
    (tmp_path / "checkpoints" / "foreign-3-last.pt").touch()
    again = create_toy()
    handle = again.attach(tmp_path)
    assert again.run(3).digest() == straight.digest()
    assert handle.resumed_from == tmp_path / "checkpoints" / "previous-00000009.pt"
    kept = tmp_path / "checkpoints" / "foreign-4-last.pt"
    assert kept.read_bytes() == before
    assert f"{last}: " in caplog.text
    assert f"{kept}: kept under this name" in caplog.text


def test_a_path_without_the_position_of_a_run_is_refused(tmp_path: Path) -> None:
    checkpoint_file.save_checkpoint({"model": {}}, tmp_path / "x.pt")
    toy = create_toy()
    toy.attach(tmp_path, resume=tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt: does not say where a run stands"):
        toy.run()


def test_the_best_goes_where_a_run_goes_on_in_another_folder(tmp_path: Path) -> None:
    toy = create_toy()
    toy.attach(tmp_path / "a", best="score")
    toy.run(1)
    again = create_toy()
    again.attach(tmp_path / "b", best="score", resume=tmp_path / "a" / "checkpoints" / "last.pt")
    again.run(1)
    assert _names(tmp_path / "b") == ["best.pt", "last.pt"]


def test_logs_are_on_disk_before_the_checkpoint_of_their_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, save = checkpoints.sync_logs, checkpoint_folder.save_checkpoint

    def note_sync(folder: Path) -> None:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        calls.append(f"logs {json.loads(lines[-1])['iteration']}")
        sync(folder)

    def note_save(state: Any, path: Path) -> None:
        calls.append(f"checkpoint {state['trainer']['iteration']}")
        save(state, path)

    monkeypatch.setattr(checkpoints, "sync_logs", note_sync)
    monkeypatch.setattr(checkpoint_folder, "save_checkpoint", note_save)
    toy = create_toy()
    MetricLogger(tmp_path, console=False).attach(toy.trainer, every=2)
    toy.attach(tmp_path, background=True)
    toy.run(2)
    # The epoch has five steps, and a line at its end. The writer may be behind: then later lines are there too.
    logs, saved = ([int(call.split()[1]) for call in calls[first::2]] for first in (0, 1))
    assert [call.split()[0] for call in calls] == ["logs", "checkpoint"] * (len(calls) // 2)
    assert saved[-1] == 10
    assert all(line >= iteration for line, iteration in zip(logs, saved, strict=True))


def test_never_starts_anew_and_keeps_the_old_files(tmp_path: Path) -> None:
    create = create_toy()
    create.attach(tmp_path)
    create.run(2)
    old = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    again = create_toy()
    again.attach(tmp_path, resume="never")
    again.run(1)
    assert len(again.seen) == EPOCH_LENGTH
    assert (tmp_path / "previous-1" / "checkpoints" / "last.pt").read_bytes() == old
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["trainer"]["epoch"] == 1


def test_a_path_is_taken_as_given(tmp_path: Path, straight: Toy) -> None:
    toy = create_toy()
    toy.attach(tmp_path / "a")
    toy.run(2)
    again = create_toy()
    again.attach(tmp_path / "b", resume=str(tmp_path / "a" / "checkpoints" / "last.pt"), best="score")
    assert again.run(3).digest() == straight.digest()
    missing = create_toy()
    missing.attach(tmp_path / "b", resume=tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=r"none\.pt: cannot be opened"):
        missing.run()


def test_a_resume_from_an_older_one_drops_the_future_it_has_left_first(tmp_path: Path) -> None:
    toy = create_toy()
    toy.attach(tmp_path, keep_last=4)
    toy.run(2)
    assert _names(tmp_path) == [
        "last.pt",
        "previous-00000004.pt",
        "previous-00000005.pt",
        "previous-00000009.pt",
    ]
    again = create_toy()
    again.attach(tmp_path, keep_last=3, resume=tmp_path / "checkpoints" / "previous-00000005.pt", every=2)
    crash_at(again.trainer, 7)
    with pytest.raises(Crash):
        again.run(2)
    assert _names(tmp_path) == ["last.pt", "previous-00000004.pt", "previous-00000005.pt"]
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["trainer"]["iteration"] == 6


def test_temporary_files_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".tmp-last.pt").touch()
    (tmp_path / "last.pt").touch()
    assert sweep_temporary_files(tmp_path) == [tmp_path / ".tmp-last.pt"]
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


# All or nothing


class _Refusing:
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise ValueError("groups differ")


class _Checked(_Refusing):
    def check_state_dict(self, state: dict[str, Any]) -> list[str]:
        return ["seed is 1 in the file, 2 here"]


def _adam(toy: Toy) -> dict[str, Any]:
    return toy.to_save() | {"optimizer": torch.optim.Adam(toy.model.parameters())}


def _fewer_groups(toy: Toy) -> dict[str, Any]:
    groups = [{"params": [p]} for p in toy.model.parameters()]
    return toy.to_save() | {"optimizer": torch.optim.SGD(groups, lr=0.1, momentum=0.9)}


def _other_order(toy: Toy) -> dict[str, Any]:
    parameters = list(toy.model.parameters())[::-1]
    return toy.to_save() | {"optimizer": torch.optim.SGD(parameters, lr=0.1, momentum=0.9)}


def _half(toy: Toy) -> dict[str, Any]:
    return toy.to_save() | {"model": toy.model.bfloat16()}


def _renamed(toy: Toy) -> dict[str, Any]:
    return toy.to_save() | {"model": nn.ModuleDict({"net": toy.model})}


def _register(resumable: Any) -> Callable[[Toy], dict[str, Any]]:
    def register(toy: Toy) -> dict[str, Any]:
        register_resumable(toy.trainer, "odd", resumable)
        return toy.to_save()

    return register


def _drop(name: str) -> Callable[[Toy], dict[str, Any]]:
    return lambda toy: {key: item for key, item in toy.to_save().items() if key != name}


def _swap_resumable(resumable: Any) -> Callable[[Toy], dict[str, Any]]:
    def swap(toy: Toy) -> dict[str, Any]:
        toy.trainer.state.resumables["average"] = resumable
        return toy.to_save()

    return swap


@pytest.mark.parametrize(
    ("classes", "objects", "expected"),
    [
        (4, Toy.to_save, r"model: 3\.weight is float32 \[3, 8\] in the file, float32 \[4, 8\] here, 3\.bias is"),
        (3, _adam, r"optimizer: a SGD in the file, a Adam here"),
        (
            3,
            _fewer_groups,
            r"optimizer: parameter groups of \[6\] parameters in the file, of \[1, 1, 1, 1, 1, 1\] here",
        ),
        (3, _other_order, r"optimizer: momentum_buffer of parameter 0 is float32 \[8, 6\] in the file, float32 \[3\]"),
        (3, _half, r"model: 0\.weight is float32 \[8, 6\] in the file, bfloat16 \[8, 6\] here"),
        (3, _renamed, r"model: missing key net\.0\.weight, .*, and 6 more"),
        (3, _register(_Refusing()), r"the file has no resumable 'odd'"),
        (3, _drop("scheduler"), r"the file has a 'scheduler', this run has none"),
        (3, lambda toy: toy.to_save() | {"extra": toy.scheduler}, r"the file has no 'extra'"),
        (3, _swap_resumable(_Refusing()), r"resumables/average: groups differ"),
        (3, _swap_resumable(_Checked()), r"average: seed is 1 in the file, 2 here"),
    ],
    ids=lambda value: str(value) if isinstance(value, int | str) else None,
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(
    tmp_path: Path, classes: int, objects: Callable[[Toy], dict[str, Any]], expected: str
) -> None:
    toy = create_toy()
    toy.attach(tmp_path)
    toy.run(1)
    other = create_toy(classes=classes)
    to_save = objects(other)
    attach_checkpoints(other.trainer, None, to_save, tmp_path)
    before = other.digest()
    with pytest.raises(CheckpointError, match=expected) as caught:
        other.run()
    assert other.digest() == before
    assert other.seen == []
    assert other.trainer.state.iteration == 0
    assert str(tmp_path / "checkpoints" / "last.pt") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_length_of_the_epoch_is_refused(tmp_path: Path) -> None:
    toy = create_toy()
    toy.attach(tmp_path)
    toy.run(1)
    other = create_toy()
    other.attach(tmp_path)
    with pytest.raises(CheckpointError, match="an epoch has 5 iterations in the file, 4 here"):
        other.trainer.run(other.loader, max_epochs=2, epoch_length=4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"every": 0}, ValueError, "every must be at least 1"),
        ({"keep_last": 0}, ValueError, "keep_last must be at least 1"),
        ({"best_mode": "avg"}, ValueError, "best_mode"),
        ({"on_write_error": "ignore"}, ValueError, "on_write_error"),
        ({"best": "score", "evaluator": None}, ValueError, "needs the evaluator"),
        ({"to_save": {"trainer": nn.Linear(1, 1)}}, ValueError, "'trainer' is taken"),
        ({"to_save": {"lr": 0.1}}, TypeError, "'lr' is a float"),
    ],
)
def test_bad_arguments(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    toy = create_toy()
    arguments = {"evaluator": toy.evaluator, "to_save": toy.to_save()} | options
    with pytest.raises(error, match=message):
        attach_checkpoints(toy.trainer, arguments.pop("evaluator"), arguments.pop("to_save"), tmp_path, **arguments)


# When writing fails


def _fill_disk(monkeypatch: pytest.MonkeyPatch, iterations: set[int]) -> None:
    original = checkpoint_folder.save_checkpoint

    def save(state: Any, path: Path) -> None:
        if state["trainer"]["iteration"] in iterations:
            raise CheckpointError(f"{path}: cannot write this checkpoint: No space left on device")
        original(state, path)

    monkeypatch.setattr(checkpoint_folder, "save_checkpoint", save)


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_stops_the_run_and_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    toy = create_toy()
    toy.attach(tmp_path, background=background)
    _fill_disk(monkeypatch, {9})
    with pytest.raises(CheckpointError, match="No space left on device"):
        toy.run()
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["trainer"]["iteration"] == 5
    assert toy.trainer.state.iteration == (10 if background else 9)


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_is_passed_over_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool, caplog: pytest.LogCaptureFixture
) -> None:
    toy = create_toy()
    toy.scores.update({1: 0.5, 2: 0.9, 3: 0.7})
    toy.attach(tmp_path, background=background, on_write_error="continue", best="score")
    _fill_disk(monkeypatch, {9, 10})
    toy.run()
    assert caplog.text.count("No space left on device") == 2
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["trainer"]["iteration"] == 15
    # The second epoch's could not be kept, so the third's is the best there is.
    assert _best_epoch(tmp_path) == 3


def test_the_last_write_in_the_background_fails_the_run_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = create_toy()
    toy.attach(tmp_path, background=True)
    _fill_disk(monkeypatch, {15})
    with pytest.raises(CheckpointError, match="No space left on device"):
        toy.run()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    toy = create_toy()
    toy.attach(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"checkpoints: cannot keep checkpoints here: .*choose another output_dir"
    ):
        toy.run()


# In the background


def test_a_write_in_the_background_is_of_the_state_at_its_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, written = threading.Event(), []
    original = checkpoint_folder.save_checkpoint

    def save(state: Any, path: Path) -> None:
        assert gate.wait(20)
        written.append(state["trainer"]["iteration"])
        original(state, path)

    monkeypatch.setattr(checkpoint_folder, "save_checkpoint", save)
    toy = create_toy(evaluate=False)
    toy.attach(tmp_path / "slow", every=2, background=True, before_evaluation=False)
    toy.trainer.add_event_handler(Events.ITERATION_STARTED(once=4), gate.set)
    reached: list[int] = []
    toy.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: reached.append(len(written)))
    toy.run(1)
    assert reached[:3] == [0, 0, 0]  # the third iteration went on while the second's was being written
    assert written == [2, 4, 5]

    straight = create_toy()
    straight.attach(tmp_path / "straight", every=2, before_evaluation=False, keep_last=3)
    straight.run(1)
    names = ["last.pt", "previous-00000004.pt"]
    for name in names:
        fast = load_checkpoint(tmp_path / "straight" / "checkpoints" / name)
        slow = load_checkpoint(tmp_path / "slow" / "checkpoints" / name)
        assert all(torch.equal(fast["model"][key], slow["model"][key]) for key in fast["model"])


def test_nothing_is_lost_when_the_run_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = checkpoint_folder.save_checkpoint
    monkeypatch.setattr(
        checkpoint_folder, "save_checkpoint", lambda state, path: (time.sleep(0.2), original(state, path))
    )
    toy = create_toy()
    toy.attach(tmp_path, every=3, background=True)
    crash_at(toy.trainer, 4)
    with pytest.raises(Crash):
        toy.run()
    writers = [thread for thread in threading.enumerate() if thread.name == "checkpoint"]
    assert len(writers) == 1
    assert not writers[0].daemon  # so the interpreter waits for it before it ends
    writers[0].join()
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["trainer"]["iteration"] == 3


def test_buffers_are_reused(tmp_path: Path) -> None:
    buffers = checkpoints.HostBuffers()
    state = {"a": torch.ones(3), "b": [torch.zeros(2)]}
    first = checkpoints.to_host(state, buffers)
    state["a"].fill_(2)
    assert first["a"].tolist() == [1, 1, 1]
    second = checkpoints.to_host(state, buffers)
    assert second["a"].data_ptr() == first["a"].data_ptr()
    assert second["a"].tolist() == [2, 2, 2]


# Errors and the engine


def test_no_handler_swallows_an_error_and_each_sees_it_once(tmp_path: Path) -> None:
    toy = create_toy()
    seen: list[BaseException] = []
    toy.attach(tmp_path)
    toy.trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: seen.append(error))
    crash_at(toy.trainer, 3)
    with pytest.raises(Crash):
        toy.run()
    assert len(seen) == 1


def test_load_model_takes_the_average_that_was_evaluated(tmp_path: Path) -> None:
    path, model = tmp_path / "best.pt", nn.Linear(1, 1, bias=False)
    average = {"module": {"weight": torch.full((1, 1), 2.0)}, "num_updates": 3}
    state = {"model": {"weight": torch.ones(1, 1)}, "resumables": {"update": {"ema": average}}}
    checkpoint_file.save_checkpoint(state, path)
    load_model(path, model)
    assert model.weight.item() == 2
    load_model(path, model, average=False)
    assert model.weight.item() == 1
    with pytest.raises(CheckpointError, match=r"of another model, nothing was loaded: missing key bias; weight is"):
        load_model(path, nn.Linear(2, 1))
    with pytest.raises(CheckpointError, match="holds no 'net', only format, model"):
        load_model(path, model, name="net")


def test_the_log_says_what_was_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    toy = create_toy()
    toy.attach(tmp_path)
    toy.run(1)
    with caplog.at_level(logging.INFO):
        again = create_toy()
        again.attach(tmp_path)
        again.run(1)
    assert f"resumed from {tmp_path}/checkpoints/last.pt, iteration 5" in caplog.text


@pytest.mark.parametrize(
    ("kind", "stop", "is_told"),
    [("plain", 3, True), ("plain", 5, False), ("followed", 3, False), ("saved", 3, False), ("deterministic", 3, False)],
)
def test_a_loader_that_begins_the_epoch_anew_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, stop: int, is_told: bool
) -> None:
    class Stateful(DataLoader[Tensor]):
        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

    def run(**until: int) -> None:
        trainer = (DeterministicEngine if kind == "deterministic" else Engine)(lambda engine, batch: None)
        model, numbers = nn.Linear(1, 1), torch.arange(10)
        loader = Stateful(numbers, batch_size=2)  # type: ignore[arg-type]
        if kind == "followed":
            sampler = GroupedBatchSampler([0] * 10, 2, rank=0, world_size=1)
            sampler.attach(trainer)
            loader = Stateful(numbers, batch_sampler=sampler)  # type: ignore[arg-type]
        to_save = {"model": model, "loader": loader} if kind == "saved" else {"model": model}
        attach_checkpoints(trainer, None, to_save, tmp_path)
        trainer.run(loader, **until)

    run(max_iters=stop)
    assert not caplog.records
    run(max_epochs=2)
    told = "resumed within an epoch, after 3 of its 5 batches, but the loader begins the epoch anew"
    assert (told in caplog.text) == is_told


@pytest.mark.parametrize("stop", [2, 3, 5, 13, 16])
def test_a_run_with_an_epoch_that_was_cut_short_is_resumed_where_it_was(tmp_path: Path, stop: int) -> None:
    def run(folder: Path, stop: int | None = None) -> list[tuple[int, int, list[int]]]:
        steps: list[tuple[int, int, list[int]]] = []
        sampler = GroupedBatchSampler([0] * 20, 2, seed=1, rank=0, world_size=1)

        def step(engine: Engine, batch: Any) -> dict[str, Tensor]:
            steps.append((engine.state.epoch, engine.state.iteration, batch.tolist()))
            return {"loss": torch.tensor(1.0)}

        def fail(engine: Engine) -> None:
            raise RuntimeError("stopped")

        model = nn.Linear(1, 1)
        trainer = create_trainer(step, model)
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: trainer.terminate_epoch())
        attach_checkpoints(trainer, None, {"model": model}, folder, every=1)
        if stop is not None:  # 3 and 13 are ends of epochs
            trainer.add_event_handler(Events.ITERATION_STARTED(once=stop + 1), fail)
        loader = DataLoader(torch.arange(20), batch_sampler=sampler)
        with contextlib.nullcontext() if stop is None else pytest.raises(RuntimeError, match="stopped"):
            trainer.run(loader, max_epochs=3)
        return steps

    straight = run(tmp_path / "straight")
    assert [epoch for epoch, _, _ in straight] == [1] * 3 + [2] * 10 + [3] * 10
    assert run(tmp_path / "stopped", stop) + run(tmp_path / "stopped") == straight


def _positions(folder: Path, terminate_at: int | None = None, **until: int) -> list[tuple[int, int]]:
    steps: list[tuple[int, int]] = []
    trainer = create_trainer(
        lambda engine, batch: steps.append((engine.state.epoch, engine.state.iteration)), nn.Linear(1, 1)
    )
    attach_checkpoints(trainer, None, {"model": nn.Linear(1, 1)}, folder)
    if terminate_at is not None:
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=terminate_at), lambda: trainer.terminate())
    trainer.run(range(5), **until)
    return steps


@pytest.mark.parametrize("stop", [3, 5, 10])
def test_a_run_that_was_terminated_in_any_iteration_of_an_epoch_ends_with_its_epochs(tmp_path: Path, stop: int) -> None:
    straight = [(1 + i // 5, 1 + i) for i in range(15)]
    assert _positions(tmp_path, stop, max_epochs=3) == straight[:stop]
    assert _positions(tmp_path, max_epochs=3) == straight[stop:]


def test_a_run_after_a_resumed_one_that_had_ended_begins_at_the_beginning(tmp_path: Path) -> None:
    straight = [(1 + i // 5, 1 + i) for i in range(7)]
    assert _positions(tmp_path, max_iters=7) == straight
    steps: list[tuple[int, int]] = []
    trainer = create_trainer(
        lambda engine, batch: steps.append((engine.state.epoch, engine.state.iteration)), nn.Linear(1, 1)
    )
    attach_checkpoints(trainer, None, {"model": nn.Linear(1, 1)}, tmp_path, every=1)
    trainer.run(range(5), max_iters=7)
    assert steps == []
    trainer.run(range(5), max_iters=7)
    assert steps == straight
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["trainer"]["epoch_began_after"] == 5


def test_objects_that_are_saved_have_names(tmp_path: Path) -> None:
    trainer, model = Engine(lambda engine, batch: None), nn.Linear(1, 1)
    with pytest.raises(
        TypeError, match=r"to_save must be a dict of objects by name, as \{'model': model\}, got \[Linear"
    ):
        attach_checkpoints(trainer, None, [model], tmp_path)  # type: ignore[arg-type]
