"""One function at a time on a thread of its own."""

from __future__ import annotations

import logging
import threading

import pytest

from ignite_imgtools.handlers.background_call import BackgroundCall


def test_the_caller_goes_on_and_waits_when_it_wants_to() -> None:
    call, gate, done = BackgroundCall("work"), threading.Event(), []

    def work() -> None:
        gate.wait(10)
        done.append(1)

    assert call.wait() is None
    call.start(work)
    assert done == []
    with pytest.raises(RuntimeError, match="before wait"):
        call.start(lambda: None)
    gate.set()
    assert call.wait() is None
    assert done == [1]


def test_an_error_is_logged_at_once_and_handed_over_once(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise OSError("disk gone")

    call = BackgroundCall("work")
    with caplog.at_level(logging.WARNING):
        call.start(fail)
        error = call.wait()
    assert isinstance(error, OSError)
    assert "work: disk gone" in caplog.text
    assert call.wait() is None
    call.start(lambda: None)
    assert call.wait() is None
