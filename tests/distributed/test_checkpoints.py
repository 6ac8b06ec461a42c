"""Checkpoints of several processes: one file, one decision, one error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
from ignite.engine import Events

from ignite_imgtools.formats import register_resumable
from ignite_imgtools.handlers import CheckpointError, checkpoint_folder, load_checkpoint
from tests.distributed.spawn import run_processes
from tests.handlers.toy_training import Crash, crash_at, create_toy, digest, wait_for_writers


def _run(folder: Path, crash: int | None, options: dict[str, Any]) -> tuple[str, list[list[int]], str]:
    toy = create_toy()
    handle = toy.attach(folder, **options)
    if crash is not None:
        crash_at(toy.trainer, crash)
        with pytest.raises(Crash):
            toy.run()
        wait_for_writers()
    else:
        toy.run()
    # The statistics of BatchNorm of other processes are their own and nobody's: DDP replaces them at each step.
    weights = digest(list(toy.model.parameters())) if idist.get_rank() else toy.digest()
    return weights, toy.seen, str(handle.resumed_from)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("crash", [8, 11])
def test_two_processes_resume_to_the_same_run(tmp_path: Path, crash: int, background: bool) -> None:
    options = {"every": 3, "background": background, "best": "score"}
    straight = run_processes(_run, 2, tmp_path / "straight", None, options)
    run_processes(_run, 2, tmp_path / "run", crash, options)
    resumed = run_processes(_run, 2, tmp_path / "run", None, options)
    for (weights, seen, source), (expected, all_seen, _) in zip(resumed, straight, strict=True):
        assert weights == expected
        assert seen == all_seen[-len(seen) :]
        assert source == str(tmp_path / "run" / "checkpoints" / "last.pt")
    for name in ("last.pt", "best.pt"):
        state = load_checkpoint(tmp_path / "run" / "checkpoints" / name)
        assert state["trainer"]["iteration"] == 15
        assert not any(key.startswith("module.") for key in state["model"])


def test_at_another_number_of_processes_no_sample_is_lost_or_repeated(tmp_path: Path) -> None:
    options = {"every": 3}
    first = run_processes(_run, 2, tmp_path, 4, options)
    ((_, seen, _),) = run_processes(_run, 1, tmp_path, None, options)
    before = [index for _, batches, _ in first for batch in batches[:3] for index in batch]
    rest = [index for batch in seen[:2] for index in batch]
    assert sorted(before + rest) == list(range(20))


class _RefusesOnOne:
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if idist.get_rank() == 1:
            raise ValueError("not on this rank")


def _refused(folder: Path) -> tuple[bool, str]:
    toy = create_toy()
    register_resumable(toy.trainer, "odd", _RefusesOnOne())
    toy.attach(folder)
    before = toy.digest()
    with pytest.raises(CheckpointError) as caught:
        toy.run()
    return toy.digest() == before, str(caught.value)


def _prepare(folder: Path) -> None:
    toy = create_toy()
    register_resumable(toy.trainer, "odd", _RefusesOnOne())
    toy.attach(folder)
    toy.run(1)


def test_what_one_process_cannot_load_no_process_loads(tmp_path: Path) -> None:
    run_processes(_prepare, 2, tmp_path)
    refused = run_processes(_refused, 2, tmp_path)
    assert [same for same, _ in refused] == [True, True]
    assert refused[0][1] == refused[1][1]
    assert "resumables/odd: not on this rank" in refused[0][1]


def _full(folder: Path, options: dict[str, Any]) -> tuple[int, str]:
    def save(state: Any, path: Path) -> None:
        raise CheckpointError(f"{path}: cannot write this checkpoint: No space left on device")

    checkpoint_folder.save_checkpoint = save  # type: ignore[attr-defined]
    toy = create_toy()
    toy.attach(folder, **options)
    try:
        toy.run()
    except CheckpointError as error:
        return toy.trainer.state.iteration, str(error)
    return toy.trainer.state.iteration, ""


@pytest.mark.parametrize(("background", "iteration"), [(False, 4), (True, 5)])
def test_a_full_disk_stops_all_processes_after_the_same_step(tmp_path: Path, background: bool, iteration: int) -> None:
    stopped = run_processes(_full, 2, tmp_path, {"background": background})
    assert stopped[0] == stopped[1]
    assert stopped[0][0] == iteration
    assert "No space left on device" in stopped[0][1]


def test_a_full_disk_stops_no_process_where_that_is_asked(tmp_path: Path) -> None:
    assert run_processes(_full, 2, tmp_path, {"on_write_error": "continue"}) == [(15, "")] * 2


def _write_from(folder: Path) -> list[str]:
    """The names of files that a process other than the main one opens for writing."""
    import sys

    found: list[str] = []

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if (
            event == "open"
            and isinstance(args[0], str)
            and str(folder) in args[0]
            and args[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            found.append(args[0])
        if event in ("os.rename", "os.remove", "os.link", "os.mkdir") and str(folder) in str(args[0]):
            found.append(f"{event} {args[0]}")

    toy = create_toy()
    toy.attach(folder, every=1, best="score")
    sys.addaudithook(audit)
    toy.trainer.add_event_handler(Events.COMPLETED, lambda: None)
    toy.run()
    return found


def test_one_process_writes(tmp_path: Path) -> None:
    main, other = run_processes(_write_from, 2, tmp_path)
    assert main
    assert other == []
