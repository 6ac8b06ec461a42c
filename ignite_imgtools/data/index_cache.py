"""The index of a large annotation file, kept on disk between runs.

An entry is found by the SHA-256 of the whole annotation file and of the code that reads it, so that it can be missing
but not stale: neither times nor names of files take part. It is an ``.npz`` of plain arrays, read without pickle after
its checksums, and checked; whatever is wrong with it, the annotation file is read anew. Only what had no fault is kept.
Entries are written to a temporary file and renamed; of several processes that want the same one, the first writes and
the others wait.

``$IGNITE_IMGTOOLS_CACHE`` is the folder, or ``off``; by default ``$XDG_CACHE_HOME/ignite_imgtools``, or
``~/.cache/ignite_imgtools``. Entries are the user's own: a folder or a file that belongs to somebody else, or that
others may write, is left alone. Together they take at most 4 GB; the one that went unused for longest goes first.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ignite_imgtools.formats import one_line
from ignite_imgtools.progress import say

from .detection_table import Category, DetectionTable
from .ragged import Ragged
from .segmentations import Segmentations

try:
    import fcntl
except ImportError:  # not on Windows: each process reads for itself
    fcntl = None  # type: ignore[assignment]

__all__ = ["CacheEntry", "cache_folder"]

_VARIABLE = "IGNITE_IMGTOOLS_CACHE"
_SMALLEST = 20_000_000
"""Size of the smallest file whose index is kept, in bytes: a smaller one is read in a second."""
_MOST = 4 << 30
_PATIENCE = 180.0
"""Seconds to wait for another process that reads the same file."""
_TEMPORARY = ".tmp-"
_READERS = "index_cache coco_file coco_objects detection_table faults quick_look ragged segmentations".split()
_FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "image_ids": ("int64", ()),
    "sizes": ("int64", (2,)),
    "names": ("uint8", ()),
    "name_starts": ("int64", ()),
    "starts": ("int64", ()),
    "boxes_xywh": ("float64", (4,)),
    "labels": ("int64", ()),
    "areas": ("float64", ()),
    "iscrowd": ("bool", ()),
}
_OF_SEGMENTATIONS = {
    "polygons": ("float64", ()),
    "polygon_value_starts": ("int64", ()),
    "polygon_starts": ("int64", ()),
    "rle": ("uint8", ()),
    "rle_starts": ("int64", ()),
}


def cache_folder() -> Path | None:
    """The folder of the entries, which need not be there, or ``None`` where nothing is to be kept."""
    chosen = os.environ.get(_VARIABLE, "").strip()
    if chosen:
        return None if chosen.lower() in ("off", "0", "no") else Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():
        return Path(base) / "ignite_imgtools"
    try:
        return Path.home() / ".cache" / "ignite_imgtools"
    except RuntimeError:
        return None


class CacheEntry:
    """The place in the cache for the index of one annotation file, as the file is now.

    Args:
        folder: of the entries; the user's own.
        digest: SHA-256 of the annotation file.
    """

    def __init__(self, folder: Path, digest: str):
        self.folder, self.digest = folder, digest
        self.key = f"{digest} {_digest_of_readers()}"
        self.path = folder / f"coco-{hashlib.sha256(self.key.encode()).hexdigest()[:40]}.npz"

    @classmethod
    def of(cls, annotation_file: str | os.PathLike[str]) -> CacheEntry | None:
        """The entry for a file; ``None`` where none can be kept, or it is not worth it."""
        folder, file = cache_folder(), Path(annotation_file)
        with suppress(OSError):
            if folder is None or not file.is_file() or file.stat().st_size < _SMALLEST:
                return None
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_own(folder.stat(), stat.S_IFDIR):
                with file.open("rb") as opened:
                    return cls(folder, _digest_of(opened))
        return None

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Within it no other process has the turn of this entry; gives whether nobody else had it just before.

        It ends with the process at the latest. Where the file system has no locks, all have it at once.
        """
        # One byte of the file for each entry: no lock files pile up.
        place, first = int(self.digest[:12], 16), True
        descriptor = None
        if fcntl is not None:
            with suppress(OSError):
                descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            give_up = time.monotonic() + _PATIENCE
            while descriptor is not None and time.monotonic() < give_up:
                try:
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                    break
                except (BlockingIOError, PermissionError):
                    first = False
                    time.sleep(0.05)
                except OSError:
                    break
            yield first
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def load(self) -> DetectionTable | None:
        """What is kept, or ``None`` where there is nothing or it is damaged."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError:
            return None
        # Whatever damaged bytes raise on their way through zipfile and NumPy, the annotation file is still there.
        with os.fdopen(descriptor, "rb") as file, suppress(Exception):
            if _is_own(os.fstat(descriptor), stat.S_IFREG):
                table = _read(file, self.key)
                os.utime(descriptor)
                return table
        return None

    def save(self, table: DetectionTable) -> None:
        """Keep ``table``; where that cannot be, nothing happens."""
        temporary = None
        try:
            descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=self.folder)
            # Not synced: what a power cut leaves of it does not fit its checksums.
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, allow_pickle=False, **_arrays_of(table, self.key))
            Path(temporary).replace(self.path)
        except OSError as error:
            say(one_line(f"the index could not be kept in {self.folder}: {error.strerror}"))
        else:
            temporary = None
            say(one_line(f"kept the index in {self.path} ({_VARIABLE}=off to keep none)"))
        finally:
            if temporary is not None:
                with suppress(OSError):
                    Path(temporary).unlink()
        with suppress(OSError):
            self._make_room()

    def _make_room(self) -> None:
        """Remove what was left half written yesterday, and the entries unused for longest where they are too many."""
        entries = [(path, path.lstat()) for path in self.folder.iterdir() if path.suffix == ".npz"]
        total = sum(status.st_size for _, status in entries)
        for path, status in sorted(entries, key=lambda entry: entry[1].st_mtime):
            if total > _MOST and path != self.path:
                path.unlink(missing_ok=True)
                total -= status.st_size
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            if path.lstat().st_mtime < time.time() - 86_400:
                path.unlink(missing_ok=True)


def _digest_of(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(1 << 22):
        digest.update(piece)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _digest_of_readers() -> str:
    """Of the source of all that decides what a table holds and what is a fault: no version to forget to raise."""
    digest = hashlib.sha256()
    for name in _READERS:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()


def _is_own(status: os.stat_result, kind: int) -> bool:
    """Whether it is of this kind, belongs to the user, and nobody else may write it."""
    if stat.S_IFMT(status.st_mode) != kind:
        return False
    return os.name != "posix" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def _arrays_of(table: DetectionTable, key: str) -> dict[str, np.ndarray]:
    categories = [[c.id, c.name, c.keypoints, c.skeleton] for c in table.categories]
    arrays = {
        "key": _bytes(key),
        "categories": _bytes(json.dumps(categories)),
        "image_ids": table.image_ids,
        "sizes": table.sizes,
        "names": table.names.values,
        "name_starts": table.names.starts,
        "starts": table.starts,
        "boxes_xywh": table.boxes_xywh,
        "labels": table.labels,
        "areas": table.areas,
        "iscrowd": table.iscrowd,
    }
    if (segmentations := table.segmentations) is not None:
        arrays["polygons"], arrays["polygon_value_starts"] = (
            segmentations.polygons.values,
            segmentations.polygons.starts,
        )
        arrays["polygon_starts"] = segmentations.polygon_starts
        arrays["rle"], arrays["rle_starts"] = segmentations.rle.values, segmentations.rle.starts
    if table.keypoints is not None:
        arrays["keypoints"] = table.keypoints
    return arrays


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _read(file: BinaryIO, key: str) -> DetectionTable:
    """The table in an entry; ``ValueError`` or anything else where it is none."""
    with zipfile.ZipFile(file) as members:
        # Stored and not compressed, its arrays are no larger than the file.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()) or members.testzip():
            raise ValueError("damaged")
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        kept: dict[str, np.ndarray] = {name: arrays[name] for name in arrays.files}
    _expect(kept.pop("key").tobytes() == key.encode())
    categories = tuple(
        Category(id_, name, tuple(keypoints), tuple((a, b) for a, b in skeleton))
        for id_, name, keypoints, skeleton in json.loads(kept.pop("categories").tobytes())
    )
    keypoints = kept.pop("keypoints", None)
    fields = _FIELDS if "rle" not in kept else _FIELDS | _OF_SEGMENTATIONS
    _expect(kept.keys() == fields.keys())
    for name, (dtype, shape) in fields.items():
        _expect(kept[name].dtype == dtype and kept[name].shape[1:] == shape and kept[name].ndim == 1 + len(shape))
    return _table(kept, categories, keypoints)


def _table(
    kept: dict[str, np.ndarray], categories: tuple[Category, ...], keypoints: np.ndarray | None
) -> DetectionTable:
    images, objects = len(kept["image_ids"]), len(kept["labels"])
    _expect(len(kept["sizes"]) == images and bool((kept["sizes"] > 0).all()))
    _expect(all(len(kept[name]) == objects for name in ("boxes_xywh", "areas", "iscrowd")))
    _expect(bool(((kept["labels"] >= 1) & (kept["labels"] <= len(categories))).all()))
    _expect_starts(kept["starts"], images, objects)
    segmentations = None
    if "rle" in kept:
        polygons = _ragged(kept["polygons"], kept["polygon_value_starts"], len(kept["polygon_value_starts"]) - 1)
        _expect_starts(kept["polygon_starts"], objects, len(polygons))
        segmentations = Segmentations(
            polygons, kept["polygon_starts"], _ragged(kept["rle"], kept["rle_starts"], objects)
        )
    if keypoints is not None:
        _expect(keypoints.dtype == np.float64 and keypoints.ndim == 3 and keypoints.shape[::2] == (objects, 3))
    plain: dict[str, Any] = {
        name: kept[name] for name in ("image_ids", "sizes", "starts", "boxes_xywh", "labels", "areas", "iscrowd")
    }
    names = _ragged(kept["names"], kept["name_starts"], images)
    return DetectionTable(**plain, names=names, categories=categories, segmentations=segmentations, keypoints=keypoints)


def _ragged(values: np.ndarray, starts: np.ndarray, rows: int) -> Ragged:
    _expect_starts(starts, rows, len(values))
    return Ragged(values, starts)


def _expect_starts(starts: np.ndarray, rows: int, values: int) -> None:
    _expect(len(starts) == rows + 1 and starts[0] == 0 and starts[-1] == values and bool((np.diff(starts) >= 0).all()))


def _expect(condition: bool) -> None:
    if not condition:
        raise ValueError("not what was kept")
