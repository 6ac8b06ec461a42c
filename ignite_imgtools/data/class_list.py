"""Names of the classes whose numbers masks hold."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from ignite_imgtools.distributed import is_main_process
from ignite_imgtools.formats import DataError

from .faults import CLASS_NAME, is_class_name, shown
from .images import IMAGE_SUFFIXES, resolve_inside
from .masks import IGNORED, read_mask
from .pairs import Column, list_files
from .regular_files import read_regular_file

__all__ = ["checked_class_names", "count_classes", "find_class_names"]

_LISTS = ("classes.txt", "class_names.txt")

_logger = logging.getLogger(__name__)


def find_class_names(*folders: Path) -> tuple[str, ...] | None:
    """The names that ``classes.txt`` or ``class_names.txt`` lists: one in a line, line 1 is class 0.

    A first line ``__ignore__``, as labelme writes it, is passed over.

    Args:
        folders: where to look, in this order.

    Returns:
        The names, or ``None`` if there is no such file.

    Raises:
        DataError: the file is no UTF-8 text, or its names are bad.
    """
    for path in (folder / name for folder in folders for name in _LISTS):
        if not path.is_file():
            continue
        try:
            lines = read_regular_file(path).decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: expected UTF-8 text, {error}; write it anew") from error
        # Lines that are empty count, unless they are the last ones: they are somebody's class without a name.
        names = [line.strip() for line in "\n".join(lines).rstrip().split("\n")]
        try:
            return checked_class_names(names[1:] if names[0] == "__ignore__" else names)
        except ValueError as error:
            raise DataError(f"{path}: {error}; correct the list") from error
    return None


def checked_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple.

    Raises:
        ValueError: there are fewer than 2 or more than 255, or one is empty or comes twice.
    """
    if isinstance(names, str) or not 2 <= len(names) <= IGNORED:
        came = repr(names) if isinstance(names, str) else len(names)
        raise ValueError(f"class_names must be 2 to {IGNORED} names, the background's at 0, got {came}")
    for number, name in enumerate(names):
        if not name or name in names[:number]:
            raise ValueError(f"class_names must be different and not empty, got {name!r} for class {number}")
        if not is_class_name(name):
            raise ValueError(f"class_names: expected {CLASS_NAME}, got {shown(name)} for class {number}")
    return tuple(names)


def count_classes(folders: Iterable[Path], ignored: Collection[int] = ()) -> tuple[str, ...]:
    """Names for the classes of masks that nobody lists: ``class_0`` to the largest number that is found.

    All masks are decoded; those that cannot be are passed over.

    Args:
        folders: of masks.
        ignored: numbers beside 255 that mean "ignored".

    Raises:
        DataError: there are no masks, or their numbers are none that count classes.
    """
    seen = np.zeros(0, dtype=np.int64)
    first_error, masks, where = None, 0, []
    for folder in folders:
        where.append(str(folder))
        names, faults = list_files(Column("mask", folder, IMAGE_SUFFIXES), str)
        if any(fault.fatal for fault in faults):
            raise DataError(str(faults[0]))
        for name in names.values():
            try:
                values = read_mask(resolve_inside(folder, name)).numpy()
            except DataError as error:
                first_error = first_error or error
                continue
            masks += 1
            seen = np.union1d(seen, np.flatnonzero(np.bincount(values.ravel())))
    if not masks:
        raise first_error or DataError(f"{where[0]}: no masks found; correct the path")
    if is_main_process():
        _logger.info("decoded %d masks to count their classes; classes.txt, a name in a line, saves that", masks)
    numbers = np.setdiff1d(seen, [IGNORED, *ignored])
    largest = int(numbers.max(initial=0))
    few = ", ".join(map(str, seen[:8])) + (", ..." if len(seen) > 8 else "")
    # Colours or brightnesses in place of numbers leave most of them out.
    if largest == 0 or largest > IGNORED - 1 or 2 * len(numbers) < largest + 1:
        raise DataError(
            f"{where[0]}: class numbers: expected 0, 1, 2, ..., and {IGNORED} where ignored, got {few}; "
            "write class numbers into the masks, or list the classes in classes.txt if most do not occur"
        )
    return tuple(f"class_{number}" for number in range(largest + 1))
