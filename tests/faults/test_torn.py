"""The short form of the trials with damaged and foreign checkpoints."""

from __future__ import annotations

import os

import pytest

from tests.faults.torn import try_damages, try_mismatches, try_weights


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_damaged_or_foreign_is_refused_and_the_newest_good_one_used() -> None:
    tried = try_damages(8, 4, resume_each=6)
    assert tried.cases > 30
    assert not tried.wrong, str(tried)


def test_what_does_not_fit_changes_nothing() -> None:
    tried = try_mismatches()
    assert tried.cases >= 30
    assert not tried.wrong, str(tried)


def test_of_weights_the_part_that_fits_is_loaded() -> None:
    tried = try_weights(("classifier", "hrnet"))
    assert tried.cases == 2
    assert not tried.wrong, str(tried)
