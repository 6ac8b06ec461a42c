import logging

import pytest

from ignite_imgtools.data.faults import Fault, fault_of_error, settle_faults, shown
from ignite_imgtools.formats import DataError


def test_a_fault_is_one_line():
    fault = Fault("a\nb.json", "annotation 3", "bbox", "4 numbers", "'x\ny'", "correct it")
    assert str(fault) == "a b.json: annotation 3: bbox: expected 4 numbers, got 'x y'; correct it"
    assert str(Fault("a.jpg", "", "it breaks off", advice="restore it")) == "a.jpg: it breaks off; restore it"


def test_faults_of_errors():
    error = DataError("a.jpg: no such file; by the way; restore it")
    assert str(fault_of_error(error, "a.jpg")) == str(error)
    fault = fault_of_error(DataError("file name '/x' is absolute"), "a.json", "image 3")
    assert str(fault) == "a.json: image 3: file name '/x' is absolute; correct it"


def test_long_values_are_shortened():
    assert shown([1, 2]) == "[1, 2]"
    assert len(shown(list(range(10**6)))) <= 60
    assert len(shown("x\n" * 10**6)) <= 60
    assert "\n" not in shown("x\n" * 10)


def test_settling(caplog):
    faults = [Fault("a", "", "x"), Fault("b", "", "y", fatal=True), Fault("c", "", "z")]
    settle_faults([], "raise", "coco")
    for choice in ("raise", "skip"):
        with pytest.raises(DataError, match=r"^b: y; correct it$"):
            settle_faults(faults, choice, "coco")
    with pytest.raises(
        DataError,
        match=r"^a: x; correct it, or leave it out with --on-bad-sample skip, in Python on_bad_sample='skip'$",
    ):
        settle_faults(faults[:1], "raise", "coco")
    with caplog.at_level(logging.WARNING, logger="ignite_imgtools"):
        settle_faults([faults[0], faults[2]], "skip", "coco")
    assert caplog.messages == ["left out 2 bad samples or annotations, the first: a: x; correct it"]
