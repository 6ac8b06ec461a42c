"""What CocoMetric promises beside its numbers: input, state, images, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics import CocoMetric, VocMetric
from tests.metrics.coco.cases import box_case
from tests.metrics.coco.reference import coco_of, evaluate, results_of

_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def dataset(**changes: Any) -> dict[str, Any]:
    annotation = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10.0, 10.0, 20.0, 20.0], "area": 400.0}
    return {
        "images": [{"id": 1, "height": 50, "width": 50}, {"id": 2, "height": 50, "width": 50}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}],
        "annotations": [{**annotation, "iscrowd": 0, **changes}],
    }


def prediction(score: float = 0.5, x1: float = 10.0, **changes: Any) -> dict[str, Any]:
    boxes = torch.tensor([[x1, 10.0, 30.0, 30.0]])
    return {"boxes": boxes, "labels": torch.tensor([3]), "scores": torch.tensor([score]), **changes}


def metric_of(**options: Any) -> CocoMetric:
    return CocoMetric(coco_of(dataset()), **options)


def test_the_result_is_flat_and_reaches_the_engine() -> None:
    metric = metric_of(per_class=True)
    evaluator = Engine(lambda engine, batch: {"y_pred": batch[0], "y": batch[1], "batch_size": 1})
    metric.attach(evaluator, "coco")
    evaluator.run([([prediction()], [{"image_id": 1}])])
    expected = {f"bbox/{key}": 1.0 for key in _KEYS}
    expected |= {f"bbox/{key}": -1.0 for key in ("APm", "APl", "ARm", "ARl", "AP/dog")}
    expected["bbox/AP/cat"] = 1.0
    assert evaluator.state.metrics == pytest.approx(expected)
    assert all(type(value) is float for value in evaluator.state.metrics.values())


def test_each_epoch_starts_anew() -> None:
    metric = metric_of()
    metric.update(([prediction(x1=25.0)], [{"image_id": 1}]))
    assert metric.compute()["bbox/AP"] == 0.0
    metric.reset()
    metric.update(([prediction()], [{"image_id": 1}]))
    assert metric.compute()["bbox/AR100"] == 1.0


@pytest.mark.parametrize(("images", "recall"), [("seen", -1.0), ("all", 0.0)])
def test_images_that_were_not_seen(images: Any, recall: float) -> None:
    metric = metric_of(images=images)
    assert metric.compute()["bbox/AR100"] == recall
    metric.update(([prediction()], [{"image_id": 2}]))
    assert metric.compute()["bbox/AR100"] == recall
    metric.update(([prediction()], [{"image_id": 1}]))
    assert metric.compute()["bbox/AR100"] == 1.0


def test_an_image_seen_twice_counts_as_it_came_first() -> None:
    metric = metric_of()
    metric.update(([prediction(), prediction(x1=25.0)], [{"image_id": 1}, {"image_id": 1}]))
    metric.update(([prediction(x1=25.0)], [{"image_id": 1}]))
    assert metric.compute()["bbox/AR100"] == 1.0


def test_annotation_0_is_matched_which_pycocotools_does_not() -> None:
    metric = CocoMetric(coco_of(dataset(id=0)))
    metric.update(([prediction()], [{"image_id": 1}]))
    assert metric.compute()["bbox/AR100"] == 1.0


def test_an_image_id_may_be_any_integer() -> None:
    metric = metric_of()
    for image_id in (1, np.int32(1), torch.tensor(1), torch.tensor([2])):
        metric.update(([prediction()], [{"image_id": image_id}]))
    assert metric.compute()["bbox/AR100"] == 1.0


def test_an_unknown_label_takes_no_part() -> None:
    metric = metric_of()
    metric.update(([prediction(labels=torch.tensor([99]))], [{"image_id": 1}]))
    assert metric.compute()["bbox/AP"] == 0.0


@pytest.mark.parametrize(
    "empty",
    [
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)},
        {"boxes": torch.zeros(0), "labels": torch.zeros(0), "scores": torch.zeros(0)},
        {"boxes": [], "labels": [], "scores": []},
    ],
)
def test_no_detection(empty: dict[str, Any]) -> None:
    metric = metric_of()
    metric.update(([empty, prediction()], [{"image_id": 1}, {"image_id": 2}]))
    assert metric.compute()["bbox/AR100"] == 0.0


@pytest.mark.parametrize("categories", [[], [{"id": 1}]])
def test_a_data_set_without_objects(categories: list[Any]) -> None:
    coco = coco_of({"images": [{"id": 1, "height": 9, "width": 9}], "categories": categories, "annotations": []})
    metric = CocoMetric(coco, ("bbox", "segm", "keypoints"), per_class=True, images="all")
    assert set(metric.compute().values()) == {-1.0}
    masks, keypoints = torch.ones(1, 9, 9), torch.zeros(1, 17, 3)
    metric.update(([prediction(masks=masks, keypoints=keypoints, labels=torch.tensor([1]))], [{"image_id": 1}]))
    assert set(metric.compute().values()) == {-1.0}


def test_predictions_are_copied() -> None:
    metric = metric_of()
    reused = prediction()
    metric.update(([reused], [{"image_id": 1}]))
    reused["boxes"].zero_()
    assert metric.compute()["bbox/AR100"] == 1.0


def test_updates_in_inference_mode() -> None:
    metric = metric_of()
    with torch.inference_mode():
        half = prediction(boxes=torch.tensor([[10.0, 10.0, 30.0, 30.0]]).half())
        metric.update(([prediction(), half], [{"image_id": 1}, {"image_id": 2}]))
    assert metric.compute()["bbox/AR100"] == 1.0


def test_what_comes_after_the_hundredth_does_not_count() -> None:
    boxes = torch.cat([torch.zeros(100, 4), torch.tensor([[10.0, 10.0, 30.0, 30.0]])])
    many = {"boxes": boxes, "labels": torch.full((101,), 3), "scores": torch.linspace(1, 0, 101)}
    for limits, recall in (((1, 10, 100), 0.0), ((101,), 1.0)):
        metric = metric_of(max_detections=limits)
        metric.update(([many], [{"image_id": 1}]))
        assert metric.compute()[f"bbox/AR{limits[-1]}"] == recall


def test_pooled_categories_have_one_name() -> None:
    metric = metric_of(use_cats=False, per_class=True)
    metric.update(([prediction(labels=torch.tensor([8]))], [{"image_id": 1}]))
    assert metric.compute()["bbox/AP/all"] == pytest.approx(1)
    assert (metric.category_names, metric_of().category_names) == (("all",), ("cat", "dog"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scores": torch.tensor([float("nan")])}, "image_id 1: scores must be no NaN, got nan in detection 0"),
        ({"boxes": torch.tensor([[0, 0, float("nan"), 9]])}, r"image_id 1: boxes must be finite, got \[0.0, 0.0, nan"),
        ({"boxes": torch.tensor([[0, 0, float("inf"), 9]])}, "image_id 1: boxes must be finite"),
        ({"boxes": torch.tensor([[0, float("-inf"), float("inf"), 9]])}, "image_id 1: boxes must be finite"),
        ({"boxes": torch.zeros(2, 4)}, r"image_id 1: boxes must be \[1, 4\], one for each score, got \[2, 4\]"),
        ({"labels": torch.tensor([1.0])}, "image_id 1: labels must be integers, got torch.float32"),
        ({"scores": torch.tensor(0.5)}, r"image_id 1: scores must be \[N\], one for each score, got \[\]"),
    ],
)
def test_bad_predictions_are_refused_in_one_line(wrong: dict[str, Any], message: str) -> None:
    metric = metric_of(chunk_images=1)
    with pytest.raises(DataError, match=message) as error:
        metric.update(([{**prediction(), **wrong}], [{"image_id": 1}]))
    assert "\n" not in str(error.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(DataError, match="image_id 1 have no 'boxes'"):
        metric_of().update(([{"scores": torch.zeros(1), "labels": torch.zeros(1)}], [{"image_id": 1}]))


@pytest.mark.parametrize(
    ("image_id", "message"),
    [
        (7, "image_id 7 is not one of the 2 images"),
        ("1", "image_id of a target must be an integer, got '1' of type str"),
        (1.0, "image_id of a target must be an integer, got 1.0 of type float"),
    ],
)
def test_bad_image_ids_are_refused(image_id: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        metric_of().update(([prediction()], [{"image_id": image_id}]))


def test_one_prediction_for_each_target() -> None:
    with pytest.raises(ValueError, match="got 2 and 1"):
        metric_of().update(([prediction(), prediction()], [{"image_id": 1}]))


@pytest.mark.parametrize("make", [metric_of, lambda: VocMetric(coco_of(dataset()))])
@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (([prediction()], [{"id": 1}]), DataError, r"the 'image_id' of its image, got one with \['id'\]"),
        (([prediction()], [1]), DataError, "the 'image_id' of its image, got a int"),
        ((prediction(), [{"image_id": 1}]), ValueError, r"y_pred must be a list .*, got one dict with \['boxes'"),
        (([prediction()], {"image_id": 1}), ValueError, r"y must be a list with a dict for each image, got one dict"),
    ],
)
def test_what_is_no_batch_is_told(make: Any, output: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make().update(output)


@pytest.mark.parametrize("make", [metric_of, lambda: VocMetric(coco_of(dataset()))])
def test_boxes_that_look_like_xywh_are_told_once(make: Any) -> None:
    metric = make()
    xywh = {"boxes": torch.tensor([[30.0, 40, 10, 5], [9, 1, 3, 3]] * 6), "labels": torch.tensor([3, 8] * 6)}
    metric.update(([prediction(), {**xywh, "scores": torch.ones(12)}], [{"image_id": 1}, {"image_id": 2}]))
    with pytest.warns(RuntimeWarning, match=r"image_id 2: boxes must be xyxy .* 40.0, 10.0, 5.0\], and so 12 of 13"):
        numbers = metric.compute()
    assert next(iter(numbers.values())) == pytest.approx(1 / 7)  # six false positives go before, as in pycocotools


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou_types": ("box",)}, "iou_types must be of bbox, segm, keypoints, got 'box'"),
        ({"iou_types": ()}, "iou_types must name one type"),
        ({"images": "some"}, 'images must be "seen" or "all"'),
        ({"iou_thresholds": [0.7, 0.5]}, "iou_thresholds must be a list of ascending numbers"),
        ({"recall_thresholds": []}, "recall_thresholds must be a list of ascending numbers"),
        ({"area_ranges": {"tiny": (0, 10)}}, "area_ranges must name a range 'all', got tiny"),
        ({"area_ranges": {"all": (10, 0)}}, r"area_ranges\['all'\] must be \(lowest, highest\)"),
        ({"max_detections": [0, 10]}, "max_detections must be positive integers"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric_of(**options)


def test_the_state_resumes_a_half_done_evaluation() -> None:
    case = box_case(5)
    coco = coco_of(case.dataset)
    ids = list(case.predictions)
    whole = CocoMetric(coco)
    whole.update(([case.predictions[id_] for id_ in ids], [{"image_id": id_} for id_ in ids]))
    half, rest = CocoMetric(coco), CocoMetric(coco)
    half.update(([case.predictions[ids[0]]], [{"image_id": ids[0]}]))
    rest.load_state_dict(half.state_dict())
    for id_ in ids:  # the first a second time
        rest.update(([case.predictions[id_]], [{"image_id": id_}]))
    reference = evaluate(case.dataset, results_of(case.predictions, "bbox"), ids)
    for metric in (whole, rest):
        np.testing.assert_array_equal(metric.arrays("bbox")["precision"], reference.eval["precision"])
        assert list(metric.compute().values()) == list(reference.stats)


def test_the_state_is_read_without_running_code(tmp_path: Any) -> None:
    metric = metric_of()
    metric.update(([prediction()], [{"image_id": 1}]))
    torch.save(metric.state_dict(), tmp_path / "state.pt")
    other = metric_of()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.compute() == metric.compute()


def test_a_state_of_another_evaluation_is_refused() -> None:
    metric = metric_of()
    with pytest.raises(ValueError, match="other categories, thresholds or area ranges"):
        metric.load_state_dict(metric_of(iou_thresholds=[0.5]).state_dict())
    with pytest.raises(ValueError, match="the state is of segm, the metric of bbox"):
        metric.load_state_dict({"segm": {}})
    other = dataset()
    other["images"] = [{"id": 9}]
    state = metric_of()
    state.update(([prediction()], [{"image_id": 1}]))
    with pytest.raises(DataError, match="image_id 1 is not one of the 1 images"):
        CocoMetric(coco_of(other)).load_state_dict(state.state_dict())
