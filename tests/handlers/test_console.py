"""Lines and bars for people."""

from __future__ import annotations

import io
import sys

import pytest

from ignite_imgtools.handlers.console import Console


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Console().shows_bar
    monkeypatch.setattr(sys, "stderr", _Terminal())
    assert Console().shows_bar
    assert not Console(bar=False).shows_bar


def test_lines_stand_above_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(bar=True)
    console.advance()
    console.start_bar("Epoch [1]", 4, 1)
    console.advance()
    console.write("a line")
    console.close_bar()
    console.close_bar()
    console.write("another")
    shown = capsys.readouterr()
    assert shown.out == "a line\nanother\n"
    assert "25%" in shown.err


def test_a_closed_pipe_costs_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError("closed")

    monkeypatch.setattr(sys, "stdout", Closed())
    console = Console(bar=False)
    with pytest.warns(RuntimeWarning, match="cannot write to the terminal"):
        console.write("x")
    console.write("y")


def test_it_can_be_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    Console(lines=False, bar=False).write("x")
    assert capsys.readouterr().out == ""
