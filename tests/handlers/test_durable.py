"""Files that are there in whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ignite_imgtools.handlers import durable
from ignite_imgtools.handlers.durable import durable_file, link_or_copy, make_folder_durably, sync_file, sync_folder


def test_the_file_takes_its_place_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with durable_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
        assert (tmp_path / ".tmp-a.json").exists()
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_an_error_all_is_as_before(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def write() -> None:
        with durable_file(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        write()
    assert [item.read_text() for item in tmp_path.iterdir()] == ["old"]


def test_what_a_kill_has_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".tmp-a").write_text("half")
    with durable_file(tmp_path / "a") as file:
        file.write(b"new")
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


def test_a_second_name_is_the_same_file_and_given_again_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    for _ in range(2):
        link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").samefile(tmp_path / "b")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_without_hard_links_it_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("a")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "a"
    assert not (tmp_path / "a").samefile(tmp_path / "b")


@pytest.mark.parametrize(("number", "passed_over"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_folders_that_cannot_be_synchronised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, passed_over: bool
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    if passed_over:
        sync_folder(tmp_path)
    else:
        with pytest.raises(OSError, match="Input/output error"):
            sync_folder(tmp_path)


def test_every_folder_that_is_made_is_synchronised_in_the_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronised: list[Path] = []

    def note(folder: Path) -> None:
        synchronised.append(folder)
        raise PermissionError  # as where a folder may be written and not read

    monkeypatch.setattr(durable, "sync_folder", note)
    for _ in range(2):
        make_folder_durably(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert sorted(synchronised) == [tmp_path, tmp_path / "a"]


def test_a_file_is_synchronised_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    sync_file(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "a"
