"""Ground truth of a data set as pycocotools has it, made from annotations alone."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from torch.utils.data import Dataset

from ignite_imgtools.formats import DataError

from .detection_table import BACKGROUND, Category, DetectionTable
from .subsets import unwrap_subset

if TYPE_CHECKING:
    from pycocotools.coco import COCO

__all__ = ["coco_index"]

_indices: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def coco_index(dataset: Dataset[Any]) -> COCO:
    """Index of a detection data set for evaluation; no image is read.

    Works with our data sets, with any data set that has ``annotations(index) -> target`` (the target of an image
    in the detection format, without transforms) and ``image_size(index) -> (height, width)``, and with subsets of
    these, nested or not. The index is kept for as long as the data set lives, and given again.

    Returns:
        A ``pycocotools.coco.COCO``: image ids are those of the targets; category ids are the labels, named by
        ``dataset.class_names`` where it has them, the background first; annotation ids count from 1. Boxes, areas,
        segmentations and keypoints of our data sets are those of the file: boxes are not clipped, and crowds (of VOC:
        difficult objects) are always there, marked in ``iscrowd``.

    Raises:
        TypeError: the data set has no ``annotations`` or no ``image_size``.
        DataError: a target lacks a key, has a box that is not xyxy or not as many labels as boxes, or two samples have
            one ``image_id``.
    """
    try:
        return _indices[dataset]
    except (KeyError, TypeError):  # not seen yet, or of a class whose objects cannot be keys
        index = _create_index(dataset)
    with suppress(TypeError):
        _indices[dataset] = index
    return index


def _create_index(dataset: Dataset[Any]) -> COCO:
    base, indices = unwrap_subset(dataset)
    table = getattr(base, "table", None)
    if isinstance(table, DetectionTable):
        return _coco(**_of_table(table if indices is None else table.take_images(indices)))
    for method in ("annotations", "image_size"):
        if not callable(getattr(base, method, None)):
            raise TypeError(
                f"coco_index needs {type(base).__name__}.{method}(index), which it does not have: give it "
                "annotations(index), the target of an image without reading the image, "
                "and image_size(index), its (height, width)"
            )
    if indices is None:
        indices = np.arange(len(base))  # type: ignore[arg-type]
    return _coco(**_of_targets(base, indices))


def _coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]], categories: list[dict[str, Any]]) -> COCO:
    from pycocotools.coco import COCO

    coco = COCO()
    # loadRes copies the key "info" too.
    coco.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    # What COCO.createIndex does, which prints.
    coco.imgs = {image["id"]: image for image in images}
    coco.cats = {category["id"]: category for category in categories}
    for id_, annotation in enumerate(annotations, start=1):
        # pycocotools takes an annotation whose id is 0 for no match at all.
        annotation["id"] = id_
        coco.anns[id_] = annotation
        coco.imgToAnns[annotation["image_id"]].append(annotation)
        coco.catToImgs[annotation["category_id"]].append(annotation["image_id"])
    return coco


def _of_table(table: DetectionTable) -> dict[str, list[dict[str, Any]]]:
    image_ids, sizes = table.image_ids.tolist(), table.sizes.tolist()
    owners = np.repeat(np.arange(len(table)), np.diff(table.starts)).tolist()
    columns = (owners, table.boxes_xywh.tolist(), table.labels.tolist(), table.areas.tolist(), table.iscrowd.tolist())
    annotations: list[dict[str, Any]] = []
    for row, (image, box, label, area, crowd) in enumerate(zip(*columns, strict=True)):
        annotation = {"image_id": image_ids[image], "category_id": label, "bbox": box, "area": area}
        annotation["iscrowd"] = int(crowd)
        if table.segmentations is not None:
            segmentation = table.segmentations.in_coco_format(row, *sizes[image])
            if segmentation is not None:
                annotation["segmentation"] = segmentation
        if table.keypoints is not None:
            annotation |= _keypoints(table.keypoints[row])
        annotations.append(annotation)
    return {
        "images": [
            {"id": id_, "file_name": table.name(image), "height": height, "width": width}
            for image, (id_, (height, width)) in enumerate(zip(image_ids, sizes, strict=True))
        ],
        "annotations": annotations,
        "categories": [_category(label, category) for label, category in enumerate(table.categories, start=1)],
    }


def _category(label: int, category: Category) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": label, "name": category.name}
    if category.keypoints:
        entry |= {"keypoints": list(category.keypoints), "skeleton": [list(pair) for pair in category.skeleton]}
    return entry


def _of_targets(dataset: Any, indices: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    images, annotations, labels_seen = [], [], set()
    samples: dict[int, int] = {}
    for index in indices.tolist():
        target = dataset.annotations(index)
        where = f"{type(dataset).__name__}.annotations({index})"
        if missing := [key for key in ("boxes", "labels", "image_id") if key not in target]:
            raise DataError(f"{where}: the target has no {missing[0]!r}, only {sorted(target)}")
        height, width = dataset.image_size(index)
        image_id = int(target["image_id"])
        if image_id in samples:
            raise DataError(
                f"{where}: image_id {image_id} is that of sample {samples[image_id]} too: give each image an id of its "
                "own, and take each once"
            )
        samples[image_id] = index
        images.append({"id": image_id, "height": int(height), "width": int(width)})
        boxes, labels = np.asarray(target["boxes"], np.float64).reshape(-1, 4), np.asarray(target["labels"]).tolist()
        if len(labels) != len(boxes):
            raise DataError(f"{where}: one label for each of {len(boxes)} boxes is needed, got {len(labels)}")
        sides = boxes[:, 2:] - boxes[:, :2]
        if (turned := np.flatnonzero((sides < 0).any(axis=1))).size:
            raise DataError(
                f"{where}: boxes must be xyxy in pixels, x1 <= x2 and y1 <= y2, got {boxes[turned[0]].tolist()}; "
                "torchvision.ops.box_convert makes them of xywh"
            )
        bboxes = np.concatenate((boxes[:, :2], sides), axis=1).tolist()
        areas = np.asarray(target["area"], np.float64) if "area" in target else sides.prod(1)
        crowds = np.asarray(target["iscrowd"]) if "iscrowd" in target else np.zeros(len(boxes))
        labels_seen.update(labels)
        for row, label in enumerate(labels):
            annotation = {"image_id": image_id, "category_id": label, "bbox": bboxes[row]}
            annotation |= {"area": float(areas[row]), "iscrowd": int(crowds[row])}
            if "masks" in target:
                annotation["segmentation"] = _run_lengths(np.asarray(target["masks"][row]))
            if "keypoints" in target:
                annotation |= _keypoints(np.asarray(target["keypoints"][row], np.float64))
            annotations.append(annotation)
    names = dict(enumerate(getattr(dataset, "class_names", ()))) or {label: str(label) for label in labels_seen}
    unnamed = labels_seen - names.keys()
    if unnamed:
        raise ValueError(f"label {min(unnamed)} has no name: class_names has {len(names)}, {list(names.values())}")
    categories = [{"id": label, "name": name} for label, name in sorted(names.items()) if name != BACKGROUND]
    return {"images": images, "annotations": annotations, "categories": categories}


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as mask_utils

    encoded = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def _keypoints(points: np.ndarray) -> dict[str, Any]:
    return {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
