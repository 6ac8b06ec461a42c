"""Files of a run folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ignite_imgtools.handlers.run_files import (
    MetricsFile,
    WriteGuard,
    append_bytes,
    read_metrics,
    to_json,
    write_atomically,
)


def test_json_has_no_word_for_what_is_not_finite() -> None:
    text = to_json({"a": math.nan, "b": math.inf, "c": 0.1, "d": "ü", "e": 3})
    assert text == '{"a": null, "b": null, "c": 0.1, "d": "ü", "e": 3}'
    assert json.loads(text, parse_constant=pytest.fail)["c"] == 0.1


def test_a_metrics_file_is_cut_at_an_iteration_and_keeps_the_bytes_of_the_rest(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "run" / "metrics.jsonl")
    file.cut(3)
    for iteration in (1, 2, 3, 4):
        file.append({"iteration": iteration, "value": 1 / 3})
    before = file.path.read_bytes()
    append_bytes(file.path, b'{"iteration": 5, "val')
    assert [record["iteration"] for record in read_metrics(file.path)] == [1, 2, 3, 4]
    file.cut(4)
    assert file.path.read_bytes() == before
    file.cut(2)
    assert file.path.read_bytes() == b"".join(before.splitlines(keepends=True)[:2])
    assert [path.name for path in file.path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_file_that_needs_no_cut_is_not_written(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"iteration": 1})
    inode = file.path.stat().st_ino
    file.cut(1)
    assert file.path.stat().st_ino == inode


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "plots" / "a.png"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    (tmp_path / "plots" / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomically(tmp_path / "plots" / "folder", b"")
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.png", "folder"]


def test_a_guard_warns_once_of_the_system_and_lets_other_errors_pass() -> None:
    guard = WriteGuard("this")
    with pytest.warns(RuntimeWarning, match="cannot write this: full; training goes on without it"), guard:
        raise OSError("full")
    assert guard.off
    with pytest.raises(KeyError), WriteGuard("that"):
        raise KeyError("mine")
