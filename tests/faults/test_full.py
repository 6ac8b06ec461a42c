"""The short form of the trials with full and unwritable disks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("fcntl")
from tests.faults.disks import CannotMount
from tests.faults.full import try_calls, try_full_disk, try_logs, try_unwritable
from tests.faults.torn import Tried


@pytest.mark.parametrize(
    ("attempt", "cases"),
    [
        (lambda: try_full_disk("disk", 1), 6),
        (lambda: try_full_disk("limit", 2), 12),
        (lambda: try_calls(3), 60),
        (try_unwritable, 9),
        (try_logs, 20),
    ],
    ids=["disk", "limit", "calls", "unwritable", "logs"],
)
def test_no_checkpoint_is_lost_and_no_log_stops_a_run(attempt: Callable[[], Tried], cases: int) -> None:
    try:
        tried = attempt()
    except CannotMount as error:
        pytest.skip(str(error))
    assert tried.cases >= cases
    assert not tried.wrong, str(tried)
