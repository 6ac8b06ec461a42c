"""Where the parts of a data set in YOLO's format lie: ``data.yaml``, or lists of images beside a list of names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ignite_imgtools.formats import DataError

from .faults import CLASS_NAME, is_class_name, shown
from .images import resolve_inside
from .regular_files import exists, read_regular_file

__all__ = ["YoloLayout", "label_name", "read_yolo_layout"]

_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_NAMES_LISTS = ("classes.txt", "obj.names", "classes.names")
_MAX_DEPTH = 32
_MAX_YAML = 1 << 20  # bytes; names of ten thousand classes are a quarter of it
# What people call the parts; the first name found is taken.
_PARTS = {"train": ("train",), "val": ("val", "valid", "validation")}


@dataclass(frozen=True)
class YoloLayout:
    """A data set found.

    ``file``: the file that describes it; ``class_names``: of the classes 0, 1, ...; ``parts``: for ``"train"`` and,
    where there is one, ``"val"``, folders of images and lists (``.txt``), relative to the folder of the data set.
    """

    file: Path
    class_names: tuple[str, ...]
    parts: dict[str, tuple[str, ...]]


def label_name(image_name: str) -> str:
    """Path of the label file that belongs to an image.

    The last folder named ``images`` is replaced by ``labels``; where none is, labels lie beside the images.

    >>> label_name("images/set/images/a.b.jpg"), label_name("my_images/a.png")
    ('images/set/labels/a.b.txt', 'my_images/a.txt')
    """
    *folders, file = image_name.split("/")
    for place in reversed(range(len(folders))):
        if folders[place] == "images":
            folders[place] = "labels"
            break
    return "/".join([*folders, f"{os.path.splitext(file)[0]}.txt"])  # noqa: PTH122  (of a name, not of a path)


def read_yolo_layout(folder: str | os.PathLike[str]) -> YoloLayout:
    """Read the description of a data set in YOLO's format.

    - ``data.yaml`` (or ``dataset.yaml``): ``names``, a list or ``{number: name}``; ``train`` and ``val`` (``valid``),
      each a folder of images, a list of them (``.txt``), or several of these; ``path``, the folder that they are
      relative to, from that of the file. A ``path`` that leads elsewhere is passed over, and so is a ``../`` before a
      part, as some exports write it: what is meant is in this folder.
    - or ``train.txt`` and ``val.txt`` (``valid.txt``), lists of images, with the names, one in a line, in
      ``classes.txt``, ``obj.names`` or ``classes.names``.

    Raises:
        DataError: there is neither, or something in it is bad.
    """
    folder = Path(folder)
    file = next((folder / name for name in _YAML_NAMES if (folder / name).is_file()), None)
    if file is not None:
        return _from_yaml(file)
    lists: dict[str, tuple[str, ...]] = {
        part: (names[0],)
        for part, known in _PARTS.items()
        if (names := [f"{name}.txt" for name in known if (folder / f"{name}.txt").is_file()])
    }
    names_file = next((folder / name for name in _NAMES_LISTS if (folder / name).is_file()), None)
    if "train" not in lists or names_file is None:
        raise DataError(
            f"{folder}: no data.yaml as YOLO has it, and no train.txt with classes.txt either; correct the path"
        )
    names = [line.strip() for line in _read_text(names_file).rstrip().splitlines()]
    return YoloLayout(names_file, _checked_names(names, names_file), lists)


def _from_yaml(file: Path) -> YoloLayout:
    content = _load_yaml(file)
    if not isinstance(content, dict) or "names" not in content or "train" not in content:
        raise DataError(f"{file}: expected names, train and val, got {shown(content)}; write them")
    names = content["names"]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            came = shown(list(names))
            raise DataError(f"{file}: names: expected the classes 0 to {len(names) - 1}, got {came}; correct it")
        names = [names[number] for number in range(len(names))]
    checked = _checked_names(names, file)
    count = content.get("nc", len(checked))
    if count != len(checked):
        expected = f"{len(checked)}, as many as there are names"
        raise DataError(f"{file}: nc: expected {expected}, got {shown(count)}; correct it")
    parts = {}
    for part, known in _PARTS.items():
        entries = next((content[name] for name in known if content.get(name)), None)
        if entries is not None:
            entries = entries if isinstance(entries, list) else [entries]
            parts[part] = tuple(_part_path(file, part, entry, content.get("path")) for entry in entries)
    if "train" not in parts:
        raise DataError(f"{file}: train: expected a folder of images or a list of them, got nothing; write it")
    return YoloLayout(file, checked, parts)


def _part_path(file: Path, part: str, entry: Any, base: Any) -> str:
    """Path of a part relative to the folder of ``file``."""
    folder = file.parent
    wanted = f"{file}: {part}: expected a folder of images or a list of them inside of {folder}, got {shown(entry)}"
    if not isinstance(entry, str) or not (base is None or isinstance(base, str)):
        raise DataError(f"{wanted}; write its path")
    names = [os.path.normpath(os.path.join(base or "", entry)), os.path.normpath(entry)]  # noqa: PTH118
    names = [os.path.relpath(name, folder.absolute()) if os.path.isabs(name) else name for name in names]  # noqa: PTH117
    below = entry
    while below.startswith("../"):
        below = below.removeprefix("../")
    for name in [*names, os.path.normpath(below)]:
        if name.startswith("..") or os.path.isabs(name):  # noqa: PTH117
            continue
        if exists(folder / name):
            try:
                return resolve_inside(folder, name).relative_to(folder).as_posix()
            except DataError as error:
                raise DataError(f"{file}: {part}: {error}") from error
    raise DataError(f"{wanted}; correct the path or move the data")


def _checked_names(names: Any, file: Path) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}: names: expected a list of the classes, got {shown(names)}; write it")
    seen: set[str] = set()
    for number, name in enumerate(names):
        # YAML takes names such as no, on or 1e3 without quotes for something else.
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{file}: names: expected a name for class {number}, got {shown(name)}; put it in quotes")
        if not is_class_name(name):
            raise DataError(f"{file}: names: expected {CLASS_NAME} for class {number}, got {shown(name)}; correct it")
        if name in seen:
            raise DataError(f"{file}: names: expected different names, got {shown(name)} twice; rename one")
        seen.add(name)
    return tuple(str(name) for name in names)


def _load_yaml(file: Path) -> Any:
    import yaml

    class WithoutAliases(yaml.SafeLoader):
        """A few lines of aliases of aliases would be gigabytes of data."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias, which this file needs none of")
            # Its scanner takes longer for each level, by as much as there are levels.
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                raise yaml.YAMLError(f"more than {_MAX_DEPTH} levels")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    text = _read_text(file)
    if len(text) > _MAX_YAML:
        raise DataError(f"{file}: expected a short description, got {len(text)} characters; correct the path")
    try:
        loader = WithoutAliases(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file}: expected YAML, {reason}; write the file anew") from error


def _read_text(file: Path) -> str:
    try:
        return read_regular_file(file).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: expected UTF-8 text, {error}; write it anew") from error
