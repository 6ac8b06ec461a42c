"""Waits are shown: a bar on a terminal, lines elsewhere, nothing that was not asked for."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from ignite_imgtools import progress

_PROGRAM = """
import sys, time
from ignite_imgtools import progress
progress._BAR_AFTER, progress._LINE_AFTER, progress._LINE_EVERY = 0.05, 0.05, 0.1
progress.show_progress()
for number in progress.waiting("checking", list(range(10))):
    time.sleep(0.03)
"""


@pytest.fixture(autouse=True)
def _shown() -> Iterator[None]:
    progress.show_progress()
    yield
    progress.show_progress(False)


def test_lines_where_there_is_no_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 4
    assert all(line.startswith("checking: ") and line.endswith(" s to go") and "\r" not in line for line in lines)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_bar_without_colours_on_a_terminal_and_nothing_left_of_it(no_color: str) -> None:
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "NO_COLOR": no_color, "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", _PROGRAM], stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        try:
            while chunk := os.read(main, 4096):
                shown += chunk
        except OSError:  # as which the end of a terminal arrives
            pass
    os.close(main)
    assert process.returncode == 0
    text = shown.decode()
    assert "checking:" in text
    assert "/10" in text
    assert "\x1b[3" not in text  # colours
    assert text.endswith("\r")
    assert not text.split("\r")[-2].strip()  # written over by blanks


def test_short_waits_and_waits_not_asked_for_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.waiting("checking", range(5))) == [0, 1, 2, 3, 4]
    progress.show_progress(False)
    with progress.Wait("checking", 2) as wait:
        wait.advance()
    progress.say("reading")
    assert capsys.readouterr().err == ""


def test_what_is_called_counts_in_the_outermost_wait(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_AFTER", 0.0)
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)

    @progress.waited("inner")
    def read() -> None:
        progress.tick()

    @progress.waited("outer")
    def open_data() -> None:
        progress.tick()
        read()

    open_data()
    progress.tick()
    assert capsys.readouterr().err == "outer: 1 images\nouter: 2 images\n"


def test_commands_count_the_images_they_look_at(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ignite_imgtools.data.check import check_dataset
    from ignite_imgtools.data.make_data import make_data

    for name in ("_LINE_AFTER", "_LINE_EVERY"):
        monkeypatch.setattr(progress, name, 0.0)
    make_data("coco", tmp_path / "data", num_train=3, num_val=1, image_size=64)
    assert not check_dataset("coco", tmp_path / "data")
    err = capsys.readouterr().err
    assert "writing the built-in data: 4 images\n" in err
    assert "checking: 4 images\n" in err


def test_log_lines_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    handler = progress.line_handler()
    record = logging.LogRecord("a", logging.INFO, "", 0, "drawn", None, None)
    handler.emit(record)
    assert capsys.readouterr() == ("drawn\n", "")
