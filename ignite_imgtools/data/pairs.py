"""Which files belong together: an image and its mask, matched by name, looked at without decoding them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .faults import Fault, shown
from .image_faults import examine_image
from .images import resolve_inside
from .ragged import Ragged, pack_bytes
from .regular_files import read_regular_file

__all__ = ["Column", "PairRow", "PairTable", "examine_pairs", "list_files", "match_files", "read_lines"]


@dataclass(frozen=True)
class Column:
    """A folder of files that belong to others: what they are, such as ``mask``, and which suffixes they may have."""

    what: str
    folder: Path
    suffixes: tuple[str, ...]


@dataclass(frozen=True)
class PairRow:
    """Names of the files that belong together, in order of the columns, and the place in a list that says so."""

    names: tuple[str, ...]
    where: str = ""


@dataclass(frozen=True, eq=False)
class PairTable:
    """``N`` images with their masks, in flat arrays: file names of each column, and image sizes int64 ``[N, 2]``
    (height, width)."""

    folders: tuple[Path, ...]
    names: tuple[Ragged, ...]
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, index: int, column: int = 0) -> str:
        """Name of a file, relative to the folder of its column."""
        return os.fsdecode(self.names[column][range(len(self))[index]].tobytes())  # counts from the end too

    def path(self, index: int, column: int = 0) -> Path:
        """Path of a file.

        Raises:
            DataError: it lies outside of its folder.
        """
        return resolve_inside(self.folders[column], self.name(index, column))

    def size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` of an image in pixels."""
        height, width = self.sizes[index].tolist()
        return height, width


def list_files(column: Column, key: Callable[[str], str]) -> tuple[dict[str, str], list[Fault]]:
    """Names of the files of a folder by their keys, in order of the names.

    Args:
        key: of a name without its suffix.

    Returns:
        The names, and faults: two files of the same key, or no such folder, which is fatal.
    """
    try:
        with os.scandir(column.folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        reason = error.strerror or str(error)
        what = f"folder of {column.what}s"
        return {}, [Fault(str(column.folder), "", what, "a folder", reason, "correct the path", fatal=True)]
    found: dict[str, str] = {}
    faults = []
    for name in names:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122  # a path for each of a million names takes seconds
        # Files that systems leave in folders begin with a dot.
        if suffix.lower() not in column.suffixes or name.startswith("."):
            continue
        if found.setdefault(key(stem), name) != name:
            expected, came = "no other one of this name", found[key(stem)]
            faults.append(Fault(str(column.folder / name), "", column.what, expected, came, "remove one of them"))
    return found, faults


def match_files(columns: Sequence[Column], key: Callable[[str], str] = str) -> tuple[list[PairRow], list[Fault]]:
    """Match the files of several folders by their keys.

    Returns:
        The complete rows, in order of the images' names, and a fault for each file of a row that is not complete.
    """
    listed, faults = [], []
    for column in columns:
        found, faults_of_column = list_files(column, key)
        listed.append(found)
        faults += faults_of_column
    if any(fault.fatal for fault in faults):
        return [], faults
    rows = [
        PairRow(tuple(found[name] for found in listed))
        for name in listed[0]
        if all(name in found for found in listed[1:])
    ]
    faults += _lone_files(columns, listed)
    return rows, faults


def _lone_files(columns: Sequence[Column], listed: Sequence[dict[str, str]]) -> list[Fault]:
    faults = []
    for key in sorted(set().union(*listed)):
        present = [number for number, found in enumerate(listed) if key in found]
        first = columns[present[0]]
        for number, column in enumerate(columns):
            if number not in present:
                file = str(first.folder / listed[present[0]][key])
                expected = f"one of the same name in {column.folder}"
                faults.append(Fault(file, "", column.what, expected, "none", f"add it, or remove this {first.what}"))
    return faults


def examine_pairs(
    columns: Sequence[Column], rows: Sequence[PairRow], faults: Sequence[Fault], source: Path
) -> tuple[PairTable | None, list[Fault]]:
    """Look at the start and the end of all files.

    Args:
        columns: the images' first.
        faults: what matching the files found.
        source: the file or folder that the rows are from.

    Returns:
        The rows whose files can be used and are of the same size, or ``None`` if there is none or a fault is fatal;
        and all faults.
    """
    faults = list(faults)
    if any(fault.fatal for fault in faults):
        return None, faults
    good, sizes = [], []
    for row in rows:
        size, faults_of_row = _examine_row(columns, row, source)
        faults += faults_of_row
        if size is not None and not faults_of_row:
            good.append(row)
            sizes.append(size)
    if not good:
        expected = f"at least one {columns[0].what} with its {columns[1].what} that can be used"
        faults.append(Fault(str(source), "", f"{columns[0].what}s", expected, "none", fatal=True))
        return None, faults
    names = tuple(pack_bytes([os.fsencode(row.names[number]) for row in good]) for number in range(len(columns)))
    folders = tuple(column.folder for column in columns)
    return PairTable(folders, names, np.array(sizes, dtype=np.int64)), faults


def _examine_row(columns: Sequence[Column], row: PairRow, source: Path) -> tuple[tuple[int, int] | None, list[Fault]]:
    faults, sizes = [], []
    for column, name in zip(columns, row.names, strict=True):
        file = str(source) if row.where else str(column.folder / name)
        size, fault = examine_image(column.folder, name, None, file, row.where, is_mask=column is not columns[0])
        sizes.append(size)
        if fault is not None:
            faults.append(fault)
    for column, name, size in zip(columns[1:], row.names[1:], sizes[1:], strict=True):
        if size is not None and sizes[0] is not None and size != sizes[0]:
            turned = " (turned by EXIF orientation?)" if size == sizes[0][::-1] else ""
            expected = f"{sizes[0][1]} x {sizes[0][0]} as {columns[0].folder / row.names[0]} has"
            came = f"{size[1]} x {size[0]}{turned}"
            faults.append(Fault(str(column.folder / name), "", "size", expected, came, f"replace the {column.what}"))
    return sizes[0], faults


def read_lines(path: Path) -> tuple[list[tuple[int, str]], list[Fault]]:
    """Lines of a list that are not empty, with their numbers from 1.

    Returns:
        The lines, and faults: a line that comes twice, or no such text file, which is fatal.
    """
    try:
        text = read_regular_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return [], [Fault(str(path), "", "list", "UTF-8 text", reason, "correct the path or the file", fatal=True)]
    lines, faults, seen = [], [], set()
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if line in seen:
            faults.append(Fault(str(path), f"line {number}", "name", "each image once", f"{shown(line)} again"))
        elif line:
            seen.add(line)
            lines.append((number, line))
    return lines, faults
