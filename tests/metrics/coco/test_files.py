"""Evaluation of files: the numbers and the text of pycocotools, and bad files named in one line."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics import coco_eval
from ignite_imgtools.metrics.coco.files import evaluate_files
from tests.metrics.coco.cases import Case, box_case, keypoint_case, mask_case
from tests.metrics.coco.reference import coco_of, evaluate, results_of


def of_pycocotools(truth: Path, results: Path, iou_type: str) -> tuple[COCOeval, str]:
    """Its evaluation, and what its summary prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        reference = COCOeval(coco, coco.loadRes(str(results)), iou_type)
        reference.evaluate()
        reference.accumulate()
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            reference.summarize()
    return reference, text.getvalue()


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "truth", "results", "iou_types"),
    [
        (
            "val2014_100",
            "instances_val2014_100.json",
            "instances_val2014_fakebbox100_results.json",
            ("bbox", "segm"),  # boxes alone are taken for masks
        ),
        ("keypoints_4img", "example_coco_val.json", "example_coco_preds.json", ("keypoints", "bbox")),
    ],
)
def test_published_files(real_data: Path, folder: str, truth: str, results: str, iou_types: tuple[str, ...]) -> None:
    files = real_data / "coco_eval" / folder / truth, real_data / "coco_eval" / folder / results
    for iou_type in iou_types:
        reference, text = of_pycocotools(*files, iou_type)
        evaluation = evaluate_files(*files, iou_type)
        assert evaluation.text() + "\n" == text
        assert list(evaluation.numbers().values()) == list(reference.stats)
        for name in ("precision", "recall", "scores"):
            np.testing.assert_array_equal(evaluation.arrays[name], reference.eval[name])


def _shuffled(case: Case, iou_type: str, seed: int) -> list[dict[str, Any]]:
    """Results in random order, as read from json; beside their masks or keypoints some, all or none have boxes."""
    rng = np.random.default_rng(seed)
    results = json.loads(json.dumps(results_of(case.predictions, iou_type), default=bytes.decode))
    rng.shuffle(results)
    if iou_type != "bbox":
        for number, result in enumerate(results):
            # pycocotools wants a box of all results if the first has one.
            if seed % 3 == 0 or (seed % 3 == 1 and number and rng.random() < 0.5):
                result["bbox"] = rng.integers(0, 60, size=4).astype(float).tolist()
    return results


@pytest.mark.parametrize(("iou_type", "make"), [("bbox", box_case), ("segm", mask_case), ("keypoints", keypoint_case)])
def test_random_results_have_the_areas_of_pycocotools(iou_type: str, make: Any) -> None:
    for seed in range(7000, 7040):
        case = make(seed)
        dataset = {**case.dataset, "annotations": [dict(a) for a in case.dataset["annotations"]]}
        for number, annotation in enumerate(dataset["annotations"], start=1):
            annotation["id"] = number
        results = _shuffled(case, iou_type, seed)
        images = "seen" if seed % 2 else "all"
        chosen = {r["image_id"] for r in results} if images == "seen" else {i["id"] for i in dataset["images"]}
        evaluation = evaluate_files(dataset, results, iou_type, images=images)
        if not chosen:
            assert set(evaluation.numbers().values()) == {-1.0}
            continue
        reference = evaluate(dataset, results, sorted(chosen), iou_type)
        assert list(evaluation.numbers().values()) == list(reference.stats), seed
        np.testing.assert_array_equal(evaluation.arrays["precision"], reference.eval["precision"], str(seed))


def test_masks_stand_for_boxes_and_boxes_for_masks() -> None:
    for seed in range(7100, 7110):
        case = mask_case(seed)
        dataset = coco_of(case.dataset).dataset
        results = results_of(case.predictions, "segm")
        if not results:
            continue
        for annotation in dataset["annotations"]:
            annotation["bbox"] = [3.0, 4.0, 20.0, 10.0]
        for result in results[1::2]:
            result["bbox"] = [2.0, 3.0, 20.0, 10.0]
        reference = evaluate(dataset, results, [image["id"] for image in dataset["images"]], "bbox")
        assert list(coco_eval(dataset, results, "bbox").values()) == list(reference.stats)


def test_other_numbers_of_detections_are_in_text_and_numbers() -> None:
    dataset = coco_of(box_case(4).dataset).dataset
    evaluation = evaluate_files(dataset, results_of(box_case(4).predictions, "bbox"), max_detections=(5, 2000))
    assert [name for name in evaluation.numbers() if "AR" in name][:2] == ["bbox/AR5", "bbox/AR2000"]
    lines = evaluation.text().splitlines()
    assert lines[0].startswith(" Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=2000 ] = ")
    assert lines[6].startswith(" Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=  5 ] = ")
    assert len(lines) == 11


def test_numbers_of_each_class() -> None:
    dataset = coco_of(box_case(4).dataset).dataset
    numbers = coco_eval(dataset, results_of(box_case(4).predictions, "bbox"), per_class=True)
    assert {name for name in numbers if name.count("/") == 2} == {f"bbox/AP/{c['name']}" for c in dataset["categories"]}


_TRUTH: dict[str, Any] = {
    "images": [{"id": 1, "height": 50, "width": 60}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
    ],
}
_RESULT: dict[str, Any] = {"image_id": 1, "category_id": 3, "score": 0.5, "bbox": [1, 2, 3, 4]}


def test_a_perfect_result_and_none() -> None:
    assert coco_eval(_TRUTH, [_RESULT])["bbox/AP"] == pytest.approx(1.0)
    for iou_type in ("bbox", "segm"):
        truth = {**_TRUTH, "annotations": [{**_TRUTH["annotations"][0], "segmentation": [[1, 2, 4, 2, 4, 6, 1, 6]]}]}
        assert coco_eval(truth, [], iou_type)[f"{iou_type}/AP"] == 0.0


@pytest.mark.parametrize(
    ("change", "iou_type", "message"),
    [
        ({"category_id": None}, "bbox", "result 1: 'category_id' must be an integer, got None"),
        ({"category_id": "3"}, "bbox", "result 1: 'category_id' must be an integer, got '3'"),
        ({"category_id": 3.0}, "bbox", "result 1: 'category_id' must be an integer, got 3.0"),
        ({"category_id": True}, "bbox", "result 1: 'category_id' must be an integer, got True"),
        ({"image_id": 1 << 70}, "bbox", "result 1: 'image_id' must be an integer, got 1180591620717411303424"),
        ({"image_id": 2}, "bbox", "result 1: image_id 2 is not one of the 1 images of the ground truth"),
        ({"score": "0.5"}, "bbox", "result 1: 'score' must be a finite number, got '0.5'"),
        ({"score": float("nan")}, "bbox", "result 1: 'score' must be a finite number, got nan"),
        ({"bbox": [1, 2, 3]}, "bbox", "result 1: 'bbox' must be 4 finite numbers, got [1, 2, 3]"),
        ({"bbox": [1, 2, 3, "4"]}, "bbox", "result 1: 'bbox' must be 4 finite numbers, got [1, 2, 3, '4']"),
        ({"bbox": [1, 2, 3, float("inf")]}, "bbox", "result 1: 'bbox' must be 4 finite numbers"),
        ({"bbox": "1 2 3 4"}, "bbox", "result 1: 'bbox' must be 4 finite numbers, got '1 2 3 4'"),
        ({"segmentation": "mask"}, "segm", "result 1: expected polygons or run lengths as segmentation"),
        (
            {"segmentation": {"size": [5, 5], "counts": "0"}},
            "segm",
            "result 1: run lengths of size [5, 5] for an image of size [50, 60]",
        ),
        ({}, "keypoints", "result 0 has no 'keypoints'"),
    ],
)
def test_a_bad_result_is_named(change: dict[str, Any], iou_type: str, message: str) -> None:
    truth = {**_TRUTH, "annotations": []}
    with pytest.raises(DataError) as raised:
        coco_eval(truth, [_RESULT, {**_RESULT, **change}], iou_type)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("key", ["image_id", "category_id", "score", "bbox"])
def test_what_a_result_lacks_is_named(key: str) -> None:
    lacking = {name: value for name, value in _RESULT.items() if name != key}
    with pytest.raises(DataError, match=f"result 2 has no '{key}'"):
        coco_eval(_TRUTH, [_RESULT, _RESULT, lacking])


@pytest.mark.parametrize(
    ("truth", "results", "message"),
    [
        (b'{"images": [', b"[]", "gt.json: it is no valid json: Expecting value: line 1 column 13"),
        (b"\xef\xbb\xbf{}", b"[]", "gt.json: it is no valid json: Unexpected UTF-8 BOM"),
        (b"{}", b"\xff[]", "gt.json: 'images' of a ground truth must be a list, got nothing"),
        (None, b"\xff[]", "dt.json: byte 0 is not UTF-8: save it as UTF-8"),
        (None, b"[" * 100_000, "dt.json: it is nested endlessly"),
        (b"[]", b"[]", "gt.json: a ground truth must be an object with images, annotations and categories, got a list"),
        (None, json.dumps(_TRUTH).encode(), "dt.json: results must be a list, got an object with annotations: is it"),
        (None, b'"x"', "dt.json: results must be a list of objects, got a str"),
        (None, b"[3]", "dt.json: result 0 must be an object, got 3"),
        (None, json.dumps([{**_RESULT, "image_id": 9}]).encode(), "dt.json: result 0: image_id 9 is not one of"),
        (
            json.dumps({**_TRUTH, "annotations": [{"id": 4, "image_id": 1, "category_id": 3}]}).encode(),
            b"[]",
            "gt.json: annotation 4: 'area' must be a finite number, got None",
        ),
        (json.dumps({**_TRUTH, "images": [7]}).encode(), b"[]", "gt.json: images[0] must be an object, got a int"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, truth: bytes | None, results: bytes, message: str) -> None:
    (tmp_path / "gt.json").write_bytes(json.dumps(_TRUTH).encode() if truth is None else truth)
    (tmp_path / "dt.json").write_bytes(results)
    with pytest.raises(DataError) as raised:
        coco_eval(tmp_path / "gt.json", str(tmp_path / "dt.json"))
    assert str(raised.value).startswith(f"{tmp_path}/{message}")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: there is no such file"):
        coco_eval(tmp_path / "none.json", [])
    with pytest.raises(DataError, match="it is no file"):
        coco_eval(_TRUTH, tmp_path)
    with pytest.raises(ValueError, match="images must be"):
        coco_eval(_TRUTH, [], images="some")  # type: ignore[arg-type]


def test_a_bad_mask_of_the_ground_truth_is_said_to_be_of_the_ground_truth(tmp_path: Path) -> None:
    truth = {**_TRUTH, "annotations": [{**_TRUTH["annotations"][0], "segmentation": "x"}]}
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    with pytest.raises(DataError, match=r"gt\.json: annotation 1: expected polygons or run lengths"):
        coco_eval(tmp_path / "gt.json", [_RESULT], "segm")
