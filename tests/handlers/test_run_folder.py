"""The folder of a run: one configuration, one live run."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ignite_imgtools.handlers import RunFolderError, close_run_folder, open_run_folder, run_folder
from tests.handlers.forked import forked

_CONFIG = {"lr": 0.02, "batch_size": 8, "data": Path("a/b"), "steps": (1, 2), "epochs": 3, "num_workers": 0}


def _open(folder: Path, resume: str | Path = "auto", **changes: Any) -> Path:
    """As one run after the other, each letting go of the folder."""
    try:
        return open_run_folder(folder, _CONFIG | changes, resume=resume)
    finally:
        close_run_folder(folder)


def _refused(folder: Path, resume: str | Path = "auto", **changes: Any) -> str:
    before = sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())
    with pytest.raises(RunFolderError) as caught:
        _open(folder, resume, **changes)
    after = sorted((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())
    assert [item for item in after if item[0].name != ".lock"] == [item for item in before if item[0].name != ".lock"]
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def _fill(folder: Path) -> None:
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.pt").write_text("weights")
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "notes.txt").write_text("of the user")


def test_it_is_made_with_its_configuration(tmp_path: Path) -> None:
    folder = _open(tmp_path / "runs" / "a")
    assert folder == tmp_path / "runs" / "a"
    written = json.loads((folder / "config.json").read_text())
    assert written == _CONFIG | {"data": "a/b", "steps": [1, 2]}


def test_a_run_of_the_same_configuration_goes_on_in_it(tmp_path: Path) -> None:
    _open(tmp_path)
    _fill(tmp_path)
    _open(tmp_path, epochs=5, num_workers=2, resume="auto")
    assert (tmp_path / "checkpoints" / "last.pt").read_text() == "weights"
    assert json.loads((tmp_path / "config.json").read_text())["epochs"] == 5


def test_a_run_of_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    _open(tmp_path)
    _fill(tmp_path)
    message = _refused(tmp_path, lr=0.01, steps=(1, 3), amp_dtype="bfloat16")
    assert (
        'another configuration: amp_dtype absent there, "bfloat16" here; lr 0.02 there, 0.01 here; steps [1, 2]'
        in message
    )
    assert "choose another output_dir, or go on from a checkpoint of it with resume=PATH" in message
    _refused(tmp_path, resume="never", lr=0.01)


def test_with_a_path_to_resume_from_the_configuration_may_differ(tmp_path: Path) -> None:
    _open(tmp_path)
    _fill(tmp_path)
    _open(tmp_path, resume=tmp_path / "checkpoints" / "last.pt", lr=0.01)
    assert json.loads((tmp_path / "config.json").read_text())["lr"] == 0.01
    assert (tmp_path / "checkpoints" / "last.pt").exists()


def test_never_moves_the_old_run_aside_each_time_and_leaves_other_files(tmp_path: Path) -> None:
    _open(tmp_path)
    _fill(tmp_path)
    (tmp_path / "eval-other" / "eval").mkdir(parents=True)
    _open(tmp_path, resume="never", epochs=9)
    assert (tmp_path / "previous-1" / "checkpoints" / "last.pt").read_text() == "weights"
    assert (tmp_path / "previous-1" / "eval-other" / "eval").is_dir()
    assert json.loads((tmp_path / "previous-1" / "config.json").read_text())["epochs"] == 3
    left = [".lock", "config.json", "environment.json", "notes.txt", "previous-1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    _open(tmp_path, resume="never")
    assert json.loads((tmp_path / "previous-2" / "config.json").read_text())["epochs"] == 9


@pytest.mark.parametrize(
    ("content", "message"), [(None, "without config.json"), ("{", "is no JSON"), ("[]", "an object")]
)
def test_a_folder_whose_configuration_is_not_known_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    _fill(tmp_path)
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert message in _refused(tmp_path)


def test_a_folder_with_other_files_is_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    _open(tmp_path)


def test_what_cannot_be_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"file/run: cannot be used as run folder \(.*Not a directory\); choose"):
        _open(tmp_path / "file" / "run")


def test_a_folder_that_cannot_be_written_is_named_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "durable_file", refuse)
        with pytest.raises(RunFolderError, match=r"cannot be used as run folder \(.*config\.json: Permission denied\)"):
            open_run_folder(tmp_path, _CONFIG)
    assert tmp_path.resolve() not in run_folder._locks


def test_the_same_process_may_open_it_again(tmp_path: Path) -> None:
    open_run_folder(tmp_path, _CONFIG)
    _open(tmp_path)


def _live(folder: Path) -> None:
    open_run_folder(folder, {"lr": 1})
    os.write(1, b"open")
    time.sleep(60)


def test_two_live_runs_never_share_a_folder_and_that_of_a_killed_run_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "_PATIENCE", 0.2)
    with forked(_live, tmp_path, output=tmp_path / "output") as live:
        live.wait_for_output("open")
        with pytest.raises(RunFolderError, match=rf"in use by a live run, process {live.pid} on \S+ since 20\d\d-"):
            open_run_folder(tmp_path, {"lr": 1})
        os.kill(live.pid, signal.SIGKILL)
    monkeypatch.setattr(run_folder, "_PATIENCE", 10)
    open_run_folder(tmp_path, {"lr": 1})
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    close_run_folder(tmp_path)


def test_a_forked_worker_does_not_keep_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_PATIENCE", 0.0)
    open_run_folder(tmp_path, {"lr": 1})
    with forked(_worker, output=tmp_path / "output") as worker:
        worker.wait_for_output("started")
        close_run_folder(tmp_path)  # as the death of this process would
        open_run_folder(tmp_path, {"lr": 1})
    close_run_folder(tmp_path)


def _worker() -> None:
    os.write(1, b"started")
    time.sleep(60)
