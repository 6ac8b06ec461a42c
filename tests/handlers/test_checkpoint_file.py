"""The format of checkpoints: what is written, what is refused."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ignite_imgtools.handlers import CheckpointError, checkpoint_file, durable, load_checkpoint, save_checkpoint
from ignite_imgtools.handlers.checkpoint_folder import CheckpointFolder


def _state(size: int = 300) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    weights = {"a.weight": torch.randn(size, 7, generator=generator), "a.bias": torch.zeros(3), "empty": torch.empty(0)}
    return {
        "model": weights,
        "trainer": {"iteration": 12, "epoch_length": 5},
        "mixed": [1, 2.5, "text", None, (True, b"raw")],
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(_state(), tmp_path / "last.pt")
    return tmp_path / "last.pt"


def _assert_equal(loaded: dict[str, Any], state: dict[str, Any]) -> None:
    assert loaded["mixed"] == state["mixed"]
    assert loaded["trainer"] == state["trainer"]
    assert all(torch.equal(loaded["model"][key], state["model"][key]) for key in state["model"])


def test_what_is_saved_is_loaded(saved: Path) -> None:
    _assert_equal(load_checkpoint(saved), _state())
    assert [path.name for path in saved.parent.iterdir()] == ["last.pt"]


def test_torch_and_zipfile_read_it_as_it_is(saved: Path) -> None:
    _assert_equal(torch.load(saved, weights_only=True), _state())
    _assert_equal(torch.load(saved, weights_only=True, mmap=True), _state())
    with zipfile.ZipFile(saved) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"ignite_imgtools crc32 ")


@pytest.mark.parametrize("size", [1, 2500, 20000])
def test_the_same_state_gives_the_same_bytes(tmp_path: Path, size: int) -> None:
    # Small and large writes take different ways; sizes around the chunks that torch hands over.
    for name in ("a.pt", "b.pt"):
        save_checkpoint(_state(size), tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    load_checkpoint(tmp_path / "a.pt")


def _refused(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return caught.value


def test_every_single_flipped_bit_is_refused(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    # Spread over the file; the last ones in the end record, our comment and its digits, where each bit is tried.
    spread = np.linspace(0, len(content) * 8 - 1, 64).astype(int).tolist()
    end = range((len(content) - 22 - 30) * 8, len(content) * 8)
    for bit in [*spread, *end]:
        content[bit // 8] ^= 1 << bit % 8
        saved.write_bytes(content)
        error = _refused(saved)
        assert error.damaged, f"bit {bit}: {error}"
        content[bit // 8] ^= 1 << bit % 8
    saved.write_bytes(content)
    load_checkpoint(saved)


def test_truncated_and_lengthened_files_are_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for length in [0, 1, 21, 22, 100, *np.linspace(200, len(content) - 1, 20).astype(int).tolist()]:
        saved.write_bytes(content[:length])
        assert _refused(saved).damaged
    for longer in (content + b"\0", b"\0" + content, content + content):
        saved.write_bytes(longer)
        _refused(saved)


def test_missing_files_folders_and_pipes_are_refused_without_waiting(tmp_path: Path) -> None:
    assert "No such file" in str(_refused(tmp_path / "none.pt"))
    assert "not a regular file" in str(_refused(tmp_path))
    os.mkfifo(tmp_path / "pipe.pt")
    assert "not a regular file" in str(_refused(tmp_path / "pipe.pt"))


def test_other_versions_and_foreign_files_are_refused_but_not_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    save_checkpoint({"version": 2}, path)
    error = _refused(path)
    assert "version 2" in str(error)
    assert not error.damaged
    torch.save({"weight": torch.ones(2)}, path)
    error = _refused(path)
    assert "not a checkpoint of ignite_imgtools" in str(error)
    assert not error.damaged
    path.write_text("<html>404</html>")
    assert _refused(path).damaged


def test_a_file_of_ours_that_another_program_has_written_again_lacks_its_checksum(saved: Path) -> None:
    torch.save(torch.load(saved, weights_only=True), saved)
    assert "checksum is missing" in str(_refused(saved))


class _Evil:
    def __init__(self, marker: Path):
        self._marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._marker}",)


@pytest.mark.parametrize("form", ["checkpoint", "torch", "legacy", "pickle"])
def test_no_code_of_a_file_runs(tmp_path: Path, form: str) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "ran"
    evil = {"model": _Evil(marker)}
    if form == "checkpoint":
        save_checkpoint(evil, path)
    elif form == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=form == "torch")
    _refused(path)
    assert not marker.exists()


def test_a_compressed_entry_which_may_unfold_to_any_size_is_refused(saved: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    assert "compressed" in str(_refused(bomb))


class _FullDisk:
    """Lets the first ``room`` writes through; all later ones fail, as those that a destructor tries again."""

    def __init__(self, room: int):
        self.room = room
        self.file: Any = None

    def write(self, data: Any) -> int:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))


def _inject(monkeypatch: pytest.MonkeyPatch, disk: _FullDisk) -> None:
    @contextlib.contextmanager
    def full(path: Path) -> Iterator[Any]:
        with durable.durable_file(path) as disk.file:
            yield disk

    monkeypatch.setattr(checkpoint_file, "durable_file", full)


def _count_writes(path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> int:
    disk = _FullDisk(10_000)
    _inject(monkeypatch, disk)
    save_checkpoint(state, path)
    path.unlink()
    return 10_000 - disk.room


def test_a_disk_that_is_full_at_any_write_leaves_the_old_file_and_nothing_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()
    state = _state() | {"more": torch.zeros(50_000)}
    writes = _count_writes(saved.parent / "counted.pt", state, monkeypatch)
    assert writes > 10
    for room in range(writes):
        _inject(monkeypatch, _FullDisk(room))
        with pytest.raises(CheckpointError) as caught:
            save_checkpoint(state, saved)
        message = str(caught.value)
        assert f"{saved}: cannot write this checkpoint: No space left on device; it needs 0.2 MB" in message
        assert "MB are free there" in message
        assert "\n" not in message
        assert saved.read_bytes() == before
        assert [path.name for path in saved.parent.iterdir()] == ["last.pt"]
    _inject(monkeypatch, _FullDisk(writes))
    save_checkpoint(state, saved)
    assert saved.read_bytes() != before


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_fsync_or_rename_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    before = saved.read_bytes()

    def fail(*args: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
    with pytest.raises(CheckpointError, match="Input/output error"):
        save_checkpoint(_state() | {"more": 1}, saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["last.pt"]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none/last\.pt: cannot write this checkpoint: No such file"):
        save_checkpoint(_state(), tmp_path / "none" / "last.pt")


def test_a_temporary_name_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("untouched")
    (tmp_path / ".tmp-last.pt").symlink_to(tmp_path / "outside")
    save_checkpoint(_state(), tmp_path / "last.pt")
    assert (tmp_path / "outside").read_text() == "untouched"


_SAVE_TWICE = """
import sys, torch
from pathlib import Path
from ignite_imgtools.handlers.checkpoint_folder import CheckpointFolder
torch.set_num_threads(1)
files = CheckpointFolder(Path(sys.argv[1]), keep_last=1)
for iteration in (1, 2):
    files.save_last({"model": torch.zeros(100), "trainer": {"iteration": iteration}})
files.keep_last = 2
files.save_last({"model": torch.zeros(100), "trainer": {"iteration": 3}})
files.save_last({"model": torch.zeros(100), "trainer": {"iteration": 4}})
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_system_calls_are_in_the_order_that_survives_a_power_cut(tmp_path: Path) -> None:
    trace, folder = tmp_path / "trace", tmp_path / "checkpoints"
    calls = "openat,fsync,rename,renameat,renameat2,unlink,unlinkat,link,linkat"
    python = [sys.executable, "-c", _SAVE_TWICE]
    done = subprocess.run(
        [*["strace", "-f", "-y", "-s", "300", "-e", f"trace={calls}", "-o", str(trace)], *python, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "ptrace" in done.stderr.lower() and done.returncode != 0:
        pytest.skip(f"strace may not trace here: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    events = []
    for line in trace.read_text().splitlines():
        if str(folder) not in line or "ENOENT" in line:
            continue
        if "fsync(" in line:
            events.append("fsync file" if ".tmp-last.pt" in line else "fsync folder")
        elif "rename" in line and ".tmp-last.pt" in line:
            events.append("rename")
        elif "link(" in line or "linkat(" in line:
            kind = "unlink" if "unlink" in line else "link"
            if "previous-" in line or kind == "unlink":
                events.append(kind)
        elif "O_EXCL" in line and ".tmp-last.pt" in line:
            events.append("create")
    one = ["create", "fsync file", "rename", "fsync folder"]
    # The fourth save links the last one, and removes the oldest when all else is on disk.
    assert events == [*one, *one, "link", *one, "link", *one, "unlink"]


def test_where_only_the_folder_could_not_be_synchronised_the_next_file_does_not_get_a_wrong_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = CheckpointFolder(tmp_path, keep_last=2)
    files.save_last({"trainer": {"iteration": 1}})

    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(durable, "sync_folder", fail)
        with pytest.raises(CheckpointError, match="Input/output error"):
            files.save_last({"trainer": {"iteration": 2}})
    files.save_last({"trainer": {"iteration": 3}})
    found = {path.name: load_checkpoint(path)["trainer"]["iteration"] for path in tmp_path.iterdir()}
    assert found == {"last.pt": 3, "previous-00000002.pt": 2}
