"""The annotations of a data set as columns, read once from a COCO index."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ignite_imgtools.formats import DataError, one_line
from ignite_imgtools.metrics.coco.ordering import find_sorted
from ignite_imgtools.metrics.coco.parameters import Parameters

__all__ = ["GroundTruth"]

_MAX_PIXELS = 178_956_970  # where image decoders take an image for a bomb


class GroundTruth:
    """Images, categories and annotations of a COCO index.

    Images and categories are numbered by ascending id, and a group is one category of one image:
    ``group = image * num_categories + category``. Annotations are sorted by group, within a group as they are listed;
    those of an image or category the index does not list are left out, as pycocotools does.

    Args:
        coco: a ``pycocotools.coco.COCO``, or any object with its ``dataset`` or its ``imgs``, ``anns`` and ``cats``.

    Attributes:
        image_ids: int64 ``[I]``, ascending.
        category_ids: int64 ``[C]``, ascending.
        category_names: ``C`` names, each once.
        annotations: the ``G`` annotations as the index has them.
        image, category: int64 ``[G]``, positions in ``image_ids`` and ``category_ids``.
        area: float64 ``[G]`` in square pixels.
        crowd: bool ``[G]``.

    Raises:
        DataError: an id is no integer, an annotation id is used twice, or a field is missing or no number.
    """

    def __init__(self, coco: Any):
        images, categories, annotations = (_entries(coco, *names) for names in _TABLES)
        ids_of_images = _integers("image", "id", images)
        self._images = dict(zip(ids_of_images.tolist(), images, strict=True))
        self.image_ids = np.unique(ids_of_images)
        named = dict(zip(_integers("category", "id", categories).tolist(), categories, strict=True))
        self.category_ids = np.array(sorted(named), dtype=np.int64)
        self.category_names = _distinct_names({id_: named[id_] for id_ in sorted(named)})
        self._image_index = {id_: index for index, id_ in enumerate(self.image_ids.tolist())}

        ids = _integers("annotation", "id", annotations)
        ids.sort()
        if (ids[1:] == ids[:-1]).any():
            values, counts = np.unique(ids, return_counts=True)
            worst = counts.argmax()
            raise DataError(f"annotation id {values[worst]} is used {counts[worst]} times: give each its own")
        image, known_image = find_sorted(self.image_ids, _integers("annotation", "image_id", annotations))
        category, known = find_sorted(self.category_ids, _integers("annotation", "category_id", annotations))
        rows = np.flatnonzero(known & known_image)
        rows = rows[np.argsort(image[rows] * self.num_categories + category[rows], kind="stable")]
        self.annotations: list[Mapping[str, Any]] = [annotations[row] for row in rows.tolist()]
        self.image, self.category = image[rows], category[rows]
        self.area = _numbers("area", self.annotations, ())
        self.crowd = np.array([bool(annotation.get("iscrowd")) for annotation in self.annotations], dtype=bool)

    def __len__(self) -> int:
        return len(self.annotations)

    @property
    def num_images(self) -> int:
        return len(self.image_ids)

    @property
    def num_categories(self) -> int:
        return len(self.category_ids)

    @cached_property
    def boxes(self) -> NDArray[np.float64]:
        """float64 ``[G, 4]``: x, y, width, height in pixels."""
        return _numbers("bbox", self.annotations, (4,))

    @cached_property
    def group(self) -> NDArray[np.int64]:
        """int64 ``[G]``, ascending."""
        return self.image * self.num_categories + self.category

    def image_index(self, image_id: Any) -> int:
        """The position of an image in :attr:`image_ids`.

        Raises:
            DataError: there is no such image.
        """
        try:
            return self._image_index[operator.index(image_id)]
        except TypeError:
            kind = type(image_id).__name__
            raise DataError(f"image_id of a target must be an integer, got {image_id!r} of type {kind}") from None
        except KeyError:
            raise DataError(f"image_id {image_id!r} is not one of the {self.num_images} images of the index") from None

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width of the image at position ``index``, as the index states them.

        Raises:
            DataError: the index does not state them, or they are not those of an image.
        """
        image = self._images[int(self.image_ids[index])]
        try:
            height, width = int(image["height"]), int(image["width"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(f"image {image['id']} has no height and width, which masks need") from None
        # pycocotools divides by them, and counts in 32 bits.
        if height < 1 or width < 1 or height * width > _MAX_PIXELS:
            raise DataError(f"image {image['id']}: expected a height and a width from 1, got {height} and {width}")
        return height, width

    def category_positions(self, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Positions in :attr:`category_ids` of category ids ``[n]``, and whether there is such a category."""
        return find_sorted(self.category_ids, labels)

    def category_lists(self, key: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Categories that images list under ``key``: their groups, int64 ascending, and bool ``[I]``, which images
        have such a list."""
        listed = np.zeros(self.num_images, dtype=bool)
        groups = [np.zeros(0, dtype=np.int64)]
        for index, image_id in enumerate(self.image_ids.tolist()):
            ids = self._images[image_id].get(key)
            if ids is not None:
                listed[index] = True
                categories, known = self.category_positions(np.array(ids, dtype=np.int64))
                groups.append(index * self.num_categories + categories[known])
        return np.unique(np.concatenate(groups)), listed

    def keypoints(self, count: int) -> NDArray[np.float64]:
        """float64 ``[G, count, 3]``: x, y in pixels and visibility, 0 for those that are not labelled."""
        return _numbers("keypoints", self.annotations, (3 * count,)).reshape(len(self), count, 3)

    def ignored(self, parameters: Parameters) -> NDArray[np.bool_]:
        """bool ``[A, G]``: annotations that need not be found: crowds, those of an area outside the range and, for
        keypoints, those without any."""
        ignored = self.crowd
        if parameters.iou_type == "keypoints":
            ignored = ignored | (self._num_keypoints() == 0)
        lowest, highest = parameters.area_ranges[:, 0, None], parameters.area_ranges[:, 1, None]
        return ignored | (self.area < lowest) | (self.area > highest)

    def _num_keypoints(self) -> NDArray[np.float64]:
        counted = [a if "num_keypoints" in a else {**a, "num_keypoints": _count_labelled(a)} for a in self.annotations]
        return _numbers("num_keypoints", counted, ())


_TABLES = (("images", "imgs"), ("categories", "cats"), ("annotations", "anns"))


def _entries(coco: Any, name: str, attribute: str) -> list[Mapping[str, Any]]:
    dataset = getattr(coco, "dataset", None)
    if isinstance(dataset, Mapping) and name in dataset:
        return list(dataset[name])
    entries = getattr(coco, attribute, None)
    if not isinstance(entries, Mapping):
        raise TypeError(f"coco must be a pycocotools COCO or look like one, got {type(coco).__name__} without {name}")
    return list(entries.values())


def _integers(kind: str, key: str, entries: Sequence[Mapping[str, Any]]) -> NDArray[np.int64]:
    try:
        values = [entry[key] for entry in entries]
    except KeyError:
        raise DataError(f"{_first(kind, entries, lambda entry: key not in entry)} has no {key!r}") from None
    for kinds in set(map(type, values)):
        if not issubclass(kinds, int | np.integer):
            bad = next(value for value in values if type(value) is kinds)
            raise DataError(f"{kind} {key} must be an integer, got {bad!r} of type {kinds.__name__}")
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        bad = max(values, key=abs)
        raise DataError(f"{kind} {key} must be an integer of 64 bits, got {bad}") from None


def _first(kind: str, entries: Iterable[Mapping[str, Any]], wrong: Any) -> str:
    place, entry = next((place, entry) for place, entry in enumerate(entries) if wrong(entry))
    return f"{kind} {entry['id']}" if "id" in entry else f"{kind} number {place}"


def _numbers(key: str, entries: Sequence[Mapping[str, Any]], shape: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        array = np.array([entry[key] for entry in entries], dtype=np.float64).reshape(len(entries), *shape)
        if np.isfinite(array).all():
            return array
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    expected = f"{shape[0]} finite numbers" if shape else "a finite number"
    where = _first("annotation", entries, lambda entry: not _is_finite(entry.get(key), shape))
    entry = next(entry for entry in entries if not _is_finite(entry.get(key), shape))
    raise DataError(f"{where}: {key!r} must be {expected}, got {entry.get(key)!r:.200}")


def _count_labelled(annotation: Mapping[str, Any]) -> int | None:
    """How many of the keypoints are labelled; ``None`` where there are none to count."""
    try:
        return int(np.count_nonzero(np.asarray(annotation["keypoints"])[2::3]))
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _is_finite(value: Any, shape: tuple[int, ...]) -> bool:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return False
    return array.shape == shape and bool(np.isfinite(array).all())


def _distinct_names(categories: Mapping[int, Mapping[str, Any]]) -> tuple[str, ...]:
    names = [one_line(str(category.get("name", id_))) for id_, category in categories.items()]
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({id_})" for name, id_ in zip(names, categories, strict=True))
