"""VocMetric against published numbers and against the development kit's rules as a slow loop."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine

from ignite_imgtools.data import VocDetection, coco_index
from ignite_imgtools.formats import DataError
from ignite_imgtools.metrics import VocMetric
from ignite_imgtools.metrics.voc_average_precision import average_precision, box_iou, match_to_best, precision_recall
from tests.metrics.coco.reference import coco_of
from tests.metrics.voc_reference import evaluate_class

Objects = Mapping[int, Sequence[tuple[int, Sequence[float], bool]]]
Found = Mapping[int, Sequence[tuple[int, float, Sequence[float]]]]


def index_of(objects: Objects, names: Sequence[str]) -> Any:
    """A COCO index of ``(label, xyxy, difficult)`` by image id; labels count from 1."""
    annotations = []
    for image, ones in objects.items():
        for label, (x1, y1, x2, y2), difficult in ones:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            annotations.append({"image_id": image, "category_id": label, "iscrowd": int(difficult), **box})
    return coco_of(
        {
            "images": [{"id": image} for image in objects],
            "categories": [{"id": label, "name": name} for label, name in enumerate(names, start=1)],
            "annotations": [{"id": id_, **annotation} for id_, annotation in enumerate(annotations, start=1)],
        }
    )


def prediction(found: Sequence[tuple[int, float, Sequence[float]]]) -> dict[str, torch.Tensor]:
    return {
        "labels": torch.tensor([label for label, *_ in found], dtype=torch.int64),
        "scores": torch.tensor([score for _, score, _ in found], dtype=torch.float64),
        "boxes": torch.tensor([box for *_, box in found], dtype=torch.float64).reshape(-1, 4),
    }


def evaluated(objects: Objects, found: Found, names: Sequence[str], order: Iterable[int], **options: Any) -> VocMetric:
    metric = VocMetric(index_of(objects, names), per_class=True, **options)
    for image in order:
        metric.update(([prediction(found[image])], [{"image_id": image}]))
    return metric


def read_lines(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()]


@pytest.mark.data
def test_published_numbers_of_85_images(real_data: Path) -> None:
    folder = real_data / "voc_eval" / "cartucho_85"
    expected = json.loads((folder / "expected.json").read_text())["AP"]
    mean, names = expected.pop("mAP"), list(expected)
    objects, found = {}, {}
    for image, file in enumerate(sorted((folder / "ground-truth").iterdir())):
        lines = read_lines(file)
        objects[image] = [
            (names.index(name) + 1, [float(x) for x in rest[:4]], rest[4:] == ["difficult"]) for name, *rest in lines
        ]
        lines = [line for line in read_lines(folder / "detection-results" / file.name) if line[0] in names]
        found[image] = [(names.index(name) + 1, float(score), [float(x) for x in box]) for name, score, *box in lines]
    assert len(objects) == 85
    assert len(names) == 30
    result = evaluated(objects, found, names, objects, inclusive=True).compute()
    assert 100 * result["voc/AP50"] == pytest.approx(mean, abs=0.005)
    assert {name: round(100 * result[f"voc/AP50/{name}"], 2) for name in names} == expected


@pytest.mark.data
def test_difficult_objects_of_a_real_data_set_are_left_out(real_data: Path) -> None:
    dataset = VocDetection(real_data / "voc2012_mini" / "VOCdevkit" / "VOC2012", "trainval")
    truth = coco_index(dataset)
    for found_too in ({0, 1}, {0}):
        metric = VocMetric(truth, inclusive=True, per_class=True)
        for image_id in truth.getImgIds():
            objects = [a for a in truth.imgToAnns[image_id] if a["iscrowd"] in found_too]
            boxes = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in objects)]
            labels = [a["category_id"] for a in objects]
            found = [(label, 0.9, box) for label, box in zip(labels, boxes, strict=True)]
            metric.update(([prediction(found)], [{"image_id": image_id}]))
        assert metric.compute()["voc/AP50"] == 1
    objects = sum(len(annotations) for annotations in truth.imgToAnns.values())
    assert objects - sum(len(precision) for precision, _ in metric.curves().values()) == 21


# The worked example of https://github.com/rafaelpadilla/Object-Detection-Metrics (MIT), 7 images, xywh.
_TOY_TRUTH = [
    [(25, 16, 38, 56), (129, 123, 41, 62)],
    [(123, 11, 43, 55), (38, 132, 59, 45)],
    [(16, 14, 35, 48), (123, 30, 49, 44), (99, 139, 47, 47)],
    [(53, 42, 40, 52), (154, 43, 31, 34)],
    [(59, 31, 44, 51), (48, 128, 34, 52)],
    [(36, 89, 52, 76), (62, 58, 44, 67)],
    [(28, 31, 55, 63), (58, 67, 50, 58)],
]
_TOY_FOUND = [
    [(0.88, 5, 67, 31, 48), (0.70, 119, 111, 40, 67), (0.80, 124, 9, 49, 67)],
    [(0.71, 64, 111, 64, 58), (0.54, 26, 140, 60, 47), (0.74, 19, 18, 43, 35)],
    [(0.18, 109, 15, 77, 39), (0.67, 86, 63, 46, 45), (0.38, 160, 62, 36, 53), (0.91, 105, 131, 47, 47)],
    [(0.35, 83, 28, 28, 26), (0.78, 28, 68, 42, 67), (0.45, 87, 89, 25, 39), (0.14, 10, 155, 60, 26)],
    [(0.62, 50, 38, 28, 46), (0.44, 95, 11, 53, 28), (0.95, 29, 131, 72, 29), (0.23, 29, 163, 72, 29)],
    [(0.45, 43, 48, 74, 38), (0.84, 17, 155, 29, 35), (0.43, 95, 110, 25, 42)],
    [(0.48, 16, 20, 101, 88), (0.95, 33, 116, 37, 49)],
]
_TOY_FOUND[2].append((0.44, 18, 148, 40, 44))


def test_published_worked_example() -> None:
    objects = {
        image: [(1, (x, y, x + w, y + h), False) for x, y, w, h in boxes] for image, boxes in enumerate(_TOY_TRUTH)
    }
    found = {
        image: [(1, score, (x, y, x + w, y + h)) for score, x, y, w, h in boxes]
        for image, boxes in enumerate(_TOY_FOUND)
    }
    metric = evaluated(objects, found, ["object"], objects, iou_threshold=0.3, inclusive=True)
    assert metric.compute()["voc/AP30"] == pytest.approx(0.2457, abs=5e-5)
    assert metric.compute()["voc/AP30_11point"] == pytest.approx(0.2684, abs=5e-5)
    precision, recall = metric.curves()["object"]
    np.testing.assert_allclose(precision[:5], [1, 0.5, 2 / 3, 0.5, 0.4])
    assert recall[-1] == 7 / 15


# Boxes on a coarse grid overlap often, tie, and hit the threshold exactly.
_BOX = st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(1, 4)] * 2).map(
    lambda b: (10.0 * b[0], 10.0 * b[1], 10.0 * (b[0] + b[2]), 10.0 * (b[1] + b[3]))
)
_OBJECT = st.tuples(st.integers(1, 3), _BOX, st.sampled_from([False, False, False, True]))
_DETECTION = st.tuples(st.integers(1, 4), st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.9]), _BOX)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_equals_the_loop(data: st.DataObject) -> None:
    images = data.draw(st.lists(st.integers(-5, 50), min_size=1, max_size=4, unique=True))
    objects = {image: data.draw(st.lists(_OBJECT, max_size=5)) for image in images}
    found = {image: data.draw(st.lists(_DETECTION, max_size=8)) for image in images}
    order = data.draw(st.permutations(images))
    options = {
        "iou_threshold": data.draw(st.sampled_from([0.1, 1 / 3, 0.5, 0.75])),
        "inclusive": data.draw(st.booleans()),
    }
    metric = evaluated(objects, found, ["a", "b", "c"], order, chunk_images=2, **options)
    key = f"voc/AP{100 * options['iou_threshold']:.6g}"
    result, means = metric.compute(), []
    for label, name in enumerate("abc", start=1):
        truth = {
            image: [{"box": box, "difficult": hard} for of, box, hard in ones if of == label]
            for image, ones in objects.items()
        }
        detections = [(image, score, box) for image in sorted(images) for of, score, box in found[image] if of == label]
        expected = evaluate_class(truth, detections, options["iou_threshold"], options["inclusive"])
        np.testing.assert_allclose(
            [result[f"{key}/{name}"], result[f"{key}_11point/{name}"]], expected or (-1, -1), atol=1e-12
        )
        if expected:
            means.append(expected)
    np.testing.assert_allclose(
        [result[key], result[f"{key}_11point"]], np.mean(means, axis=0) if means else (-1, -1), atol=1e-12
    )


def test_second_match_is_wrong_even_if_it_overlaps_another_truth() -> None:
    # The second box overlaps the first truth most; the greedy rule of COCO would give it the second truth.
    group, truth = np.zeros(2, dtype=np.int64), np.array([[0.0, 0, 10, 10], [0, 4, 10, 14]])
    boxes = np.array([[0.0, 0, 10, 10], [0, 1, 10, 11]])
    outcome = match_to_best(group, boxes, group, truth, np.zeros(2, dtype=bool), iou_threshold=0.5)
    assert outcome.tolist() == [1, 0]
    outcome = match_to_best(group, boxes, group, truth, np.array([True, False]), iou_threshold=0.5)
    assert outcome.tolist() == [2, 2]


def test_overlap_of_boxes_by_edges_and_by_pixels() -> None:
    boxes, others = np.array([[1.0, 1, 2, 2]] * 3), np.array([[2.0, 2, 3, 3], [1, 1, 2, 2], [3, 3, 3, 3]])
    assert box_iou(boxes, others).tolist() == [0, 1, 0]
    assert box_iou(boxes, others, inclusive=True).tolist() == [1 / 7, 1, 0]


def test_average_precision_of_a_curve_by_hand() -> None:
    precision, recall = precision_recall(np.array([True, False, True]), 4)
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(recall, [1 / 4, 1 / 4, 1 / 2])
    assert average_precision(precision, recall) == pytest.approx(1 / 4 + 1 / 4 * 2 / 3)
    assert average_precision(precision, recall, points=11) == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)
    assert average_precision(precision[:0], recall[:0], points=11) == 0


_BOX_A, _BOX_B = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 40.0, 40.0)


def test_difficult_objects_are_neither_found_nor_missed() -> None:
    objects = {7: [(1, _BOX_A, True), (1, _BOX_B, False)]}
    found = {7: [(1, 0.9, _BOX_A), (1, 0.8, _BOX_A), (1, 0.5, _BOX_B)]}
    assert evaluated(objects, found, ["a"], [7]).compute()["voc/AP50"] == 1
    only = {7: objects[7][:1]}
    assert evaluated(only, found, ["a"], [7]).compute()["voc/AP50"] == -1


def test_images_all_counts_the_truth_of_unseen_images() -> None:
    objects = {1: [(1, _BOX_A, False)], 2: [(1, _BOX_B, False)]}
    found = {1: [(1, 0.9, _BOX_A)]}
    assert evaluated(objects, found, ["a"], [1]).compute()["voc/AP50"] == 1
    assert evaluated(objects, found, ["a"], [1], images="all").compute()["voc/AP50"] == 0.5


def test_an_image_seen_twice_counts_once_as_seen_first() -> None:
    metric = VocMetric(index_of({1: [(1, _BOX_A, False)]}, ["a"]))
    good, bad = prediction([(1, 0.5, _BOX_A)]), prediction([(1, 0.9, _BOX_B)])
    metric.update(([good, bad], [{"image_id": 1}] * 2))
    metric.update(([bad], [{"image_id": 1}]))
    assert metric.compute()["voc/AP50"] == 1


def test_state_dict_goes_on_where_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    objects = {image: [(1, _BOX_A, False), (2, _BOX_B, image == 3)] for image in range(6)}
    found = {
        image: [(int(rng.integers(1, 3)), float(rng.random()), (_BOX_A, _BOX_B)[rng.integers(2)]) for _ in range(4)]
        for image in objects
    }
    whole = evaluated(objects, found, ["a", "b"], objects)
    half = evaluated(objects, found, ["a", "b"], [0, 1, 2])
    torch.save(half.state_dict(), tmp_path / "state.pt")
    rest = VocMetric(index_of(objects, ["a", "b"]), per_class=True)
    rest.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for image in (2, 3, 4, 5):
        rest.update(([prediction(found[image])], [{"image_id": image}]))
    assert rest.compute() == whole.compute()

    with pytest.raises(ValueError, match=r"iou_threshold=0\.5, the metric 0\.75"):
        VocMetric(index_of(objects, ["a", "b"]), 0.75).load_state_dict(half.state_dict())
    with pytest.raises(ValueError, match="category 2"):
        VocMetric(index_of({image: [] for image in objects}, ["a"])).load_state_dict(half.state_dict())
    with pytest.raises(DataError, match="image_id 0"):
        VocMetric(index_of({9: []}, ["a", "b"])).load_state_dict(half.state_dict())


def test_in_an_engine() -> None:
    objects = {1: [(1, _BOX_A, False)]}
    metric = VocMetric(index_of(objects, ["a"]))
    engine = Engine(lambda engine, batch: {"y_pred": batch[0], "y": batch[1]})
    metric.attach(engine, "voc")
    batch = ([prediction([(1, 0.5, _BOX_A)])], [{"image_id": 1}])
    assert engine.run([batch]).metrics == {"voc/AP50": 1.0, "voc/AP50_11point": 1.0}
    assert engine.run([batch, batch]).metrics["voc/AP50"] == 1.0  # reset between runs


def test_wrong_arguments_are_named() -> None:
    index = index_of({1: []}, ["a"])
    with pytest.raises(ValueError, match="iou_threshold must be above 0 and at most 1, got 0"):
        VocMetric(index, 0)
    with pytest.raises(ValueError, match="images"):
        VocMetric(index, images="some")  # type: ignore[arg-type]
    metric = VocMetric(index)
    with pytest.raises(ValueError, match="one prediction for each target"):
        metric.update(([], [{"image_id": 1}]))
    with pytest.raises(DataError, match="image_id 2"):
        metric.update(([prediction([])], [{"image_id": 2}]))
    assert metric.compute()["voc/AP50"] == -1
