"""What is wrong with a data set: collected in one pass, then listed, refused or dropped with a count."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, TypeGuard

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.formats import UNPRINTABLE, DataError, one_line

__all__ = [
    "CLASS_NAME",
    "REACH",
    "Fault",
    "OnBadSample",
    "fault_of_error",
    "is_class_name",
    "settle_faults",
    "shown",
]

OnBadSample = Literal["raise", "skip"]
"""``"raise"``: bad images and annotations are refused; ``"skip"``: they are left out, with a count."""

REACH = 10.0
"""How far coordinates may lie from the image, in lengths of its longer side, before they are taken for a mistake."""

_LONGEST_CLASS_NAME = 256

CLASS_NAME = f"a name of 1 to {_LONGEST_CLASS_NAME} printable characters"
"""What is expected of the name of a class: it goes into logs, tables, pictures, and tags of TensorBoard."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong; ``str()`` gives the line to show.

    Args:
        file: path of the file to look at.
        where: the place in it, such as ``annotation 17``; empty for the file as a whole.
        what: the field, or the fault itself where there is nothing to expect.
        expected: what should be there.
        came: what is there.
        advice: what to do.
        fatal: nothing can be read past it, so it cannot be left out.
    """

    file: str
    where: str
    what: str
    expected: str = ""
    came: str = ""
    advice: str = "correct it"
    fatal: bool = False

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.file, self.where, self.what) if part)
        expectation = f": expected {self.expected}, got {self.came}" if self.expected else ""
        # File names may hold line breaks and what terminals obey.
        return one_line(f"{place}{expectation}; {self.advice}")


def is_class_name(name: Any) -> TypeGuard[str]:
    """Whether ``name`` is what :data:`CLASS_NAME` says."""
    return isinstance(name, str) and 0 < len(name) <= _LONGEST_CLASS_NAME and not UNPRINTABLE.search(name)


def fault_of_error(error: DataError, file: str | PathLike[str], where: str = "", what: str = "") -> Fault:
    """The fault that a :class:`DataError` about one file tells of; its advice follows the last semicolon."""
    # As it was raised: str() has other characters in place of some that a file's name may hold.
    message = str(error.args[0]).removeprefix(f"{file}: ")
    text, separator, advice = message.rpartition("; ")
    if not separator:
        text, advice = message, "correct it"
    return Fault(str(file), where, f"{what}: {text}" if what else text, advice=advice)


def shown(value: Any, limit: int = 60) -> str:
    """``repr(value)`` in one line of at most ``limit`` characters."""
    # The value may be a list of a million numbers: cut it before it is spelled out.
    text = repr(value[:8] if isinstance(value, list | str) and len(value) > limit else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def settle_faults(faults: Sequence[Fault], on_bad_sample: OnBadSample, data_format: str) -> None:
    """Refuse a data set with faults, or say how many samples were left out.

    Args:
        faults: what reading the data set found; what they are about has been left out already.
        on_bad_sample: what to do about them.
        data_format: name of the format, for the advice.

    Raises:
        DataError: there are faults and ``on_bad_sample="raise"``, or one of them is fatal; tells of the first one
            (of the first fatal one) and how many more there are.
        ValueError: ``on_bad_sample`` is neither.
    """
    if on_bad_sample not in ("raise", "skip"):
        raise ValueError(f"on_bad_sample must be 'raise' or 'skip', got {on_bad_sample!r}")
    if not faults:
        return
    fatal = [fault for fault in faults if fault.fatal]
    if fatal:
        raise DataError(str(fatal[0]))
    if on_bad_sample == "raise":
        more = (
            f" ({len(faults) - 1} more faults: `ignite-imgtools check {data_format} --data DIR` lists them)"
            if faults[1:]
            else ""
        )
        raise DataError(f"{faults[0]}, or leave it out with --on-bad-sample skip, in Python on_bad_sample='skip'{more}")
    if is_main_process():
        _logger.warning("left out %d bad samples or annotations, the first: %s", len(faults), faults[0])
