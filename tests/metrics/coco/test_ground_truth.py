"""Ground truth is read from any COCO-like index, and bad entries are named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics.coco.ground_truth import GroundTruth

_IMAGES = [{"id": 5, "height": 4, "width": 6}, {"id": 0}]
_CATEGORIES = [{"id": 7, "name": "b"}, {"id": -2, "name": "a"}, {"id": 3, "name": "b"}]


def _annotation(id_: int, image_id: int, category_id: int, **changes: Any) -> dict[str, Any]:
    return {"id": id_, "image_id": image_id, "category_id": category_id, "bbox": [0, 0, 2, 2], "area": 4, **changes}


def _truth(annotations: list[dict[str, Any]], images: Any = None, categories: Any = None) -> GroundTruth:
    dataset = {"images": images or _IMAGES, "categories": categories or _CATEGORIES, "annotations": annotations}
    return GroundTruth(SimpleNamespace(dataset=dataset))


def test_annotations_are_sorted_by_image_and_category_and_stay_in_order_within() -> None:
    truth = _truth([_annotation(1, 5, 3), _annotation(9, 0, 7), _annotation(2, 5, -2), _annotation(0, 5, 3)])
    assert [annotation["id"] for annotation in truth.annotations] == [9, 2, 1, 0]
    assert truth.image_ids.tolist() == [0, 5]
    assert truth.category_ids.tolist() == [-2, 3, 7]
    assert truth.category_names == ("a", "b (3)", "b (7)")
    assert truth.image_size(1) == (4, 6)


def test_annotations_of_unknown_images_and_categories_are_left_out() -> None:
    assert len(_truth([_annotation(1, 6, 3), _annotation(2, 5, 4)])) == 0


def test_an_index_without_dataset_will_do() -> None:
    index = SimpleNamespace(imgs={0: _IMAGES[1]}, cats={3: _CATEGORIES[2]}, anns={1: _annotation(1, 0, 3)})
    assert len(GroundTruth(index)) == 1
    with pytest.raises(TypeError, match="must be a pycocotools COCO or look like one, got list"):
        GroundTruth([])


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"id": "1"}, "annotation id must be an integer, got '1' of type str"),
        ({"image_id": 5.0}, "annotation image_id must be an integer, got 5.0 of type float"),
        ({"category_id": None}, "annotation category_id must be an integer, got None of type NoneType"),
        ({"id": 1}, "annotation id 1 is used 2 times"),
        ({"id": 2**70}, f"annotation id must be an integer of 64 bits, got {2**70}"),
        ({"area": float("nan")}, "annotation 2: 'area' must be a finite number, got nan"),
        ({"area": None}, "annotation 2: 'area' must be a finite number, got None"),
        ({"bbox": [1, 2, 3]}, r"annotation 2: 'bbox' must be 4 finite numbers, got \[1, 2, 3\]"),
        ({"bbox": "abcd"}, "annotation 2: 'bbox' must be 4 finite numbers, got 'abcd'"),
    ],
)
def test_a_bad_annotation_is_named(annotation: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        _ = _truth([_annotation(1, 5, 3), {**_annotation(2, 5, 3), **annotation}]).boxes
    assert "\n" not in str(error.value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(DataError, match="annotation number 0 has no 'id'"):
        _truth([{"image_id": 5}])
    with pytest.raises(DataError, match="annotation 4 has no 'image_id'"):
        _truth([{"id": 4}])
    with pytest.raises(DataError, match="image id must be an integer, got 'x' of type str"):
        _truth([], images=[{"id": "x"}])
    with pytest.raises(DataError, match="image 0 has no height and width"):
        _truth([]).image_size(0)


def test_numpy_integers_are_integers() -> None:
    assert _truth([_annotation(np.int64(1), np.uint8(5), 3)]).image.tolist() == [1]
