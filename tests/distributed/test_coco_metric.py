"""CocoMetric gives the same arrays on any number of processes."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest

from ignite_imgtools.metrics import CocoMetric
from tests.distributed.spawn import run_processes
from tests.metrics.coco.cases import Case, box_case, keypoint_case, mask_case
from tests.metrics.coco.reference import coco_of, evaluate, results_of


def _joined(seeds: range) -> Case:
    """One data set of many small ones, with 21 images or more and categories in common."""
    images: list[Any] = []
    annotations: list[Any] = []
    predictions: dict[int, Any] = {}
    for seed in seeds:
        case = box_case(seed)
        categories = {category["id"]: place for place, category in enumerate(case.dataset["categories"])}
        ids = {image["id"]: 100 * seed + place for place, image in enumerate(case.dataset["images"])}
        images += [{**image, "id": ids[image["id"]]} for image in case.dataset["images"]]
        for annotation in case.dataset["annotations"]:
            place = {"id": len(annotations), "image_id": ids[annotation["image_id"]]}
            annotations.append({**annotation, **place, "category_id": categories[annotation["category_id"]]})
        for id_, prediction in case.predictions.items():
            labels = prediction["labels"].clone().apply_(lambda label, known=categories: known.get(label, 77))
            predictions[ids[id_]] = {**prediction, "labels": labels}
    return Case(
        {"images": images, "categories": [{"id": k} for k in range(3)], "annotations": annotations}, predictions
    )


def _evaluate(case: Case, shuffle: bool, idle: int | None) -> dict[str, Any]:
    """This process's shard in batches of 3; the first image is seen by every process, as a padded sampler does."""
    ids = list(case.predictions)
    if shuffle:
        np.random.default_rng(7).shuffle(ids)
    workers = [rank for rank in range(idist.get_world_size()) if rank != idle]
    rank = idist.get_rank()
    own = ids[workers.index(rank) :: len(workers)] + ids[:1] if rank != idle else []
    metric = CocoMetric(coco_of(case.dataset), chunk_images=5)
    for start in range(0, len(own), 3):
        now = own[start : start + 3]
        metric.update(([case.predictions[id_] for id_ in now], [{"image_id": id_} for id_ in now]))
    return {"numbers": metric.compute(), **metric.arrays("bbox")}


@pytest.mark.parametrize(
    ("world_size", "shuffle", "idle"),
    [(1, False, None), (2, True, None), (3, False, None), (3, True, 1), (4, False, 0)],
)
def test_the_arrays_do_not_depend_on_the_processes(world_size: int, shuffle: bool, idle: int | None) -> None:
    case = _joined(range(40, 54))
    reference = evaluate(case.dataset, results_of(case.predictions, "bbox"), list(case.predictions))
    for result in run_processes(_evaluate, world_size, case, shuffle, idle):
        for name in ("precision", "recall", "scores"):
            np.testing.assert_array_equal(result[name], reference.eval[name])
        assert list(result["numbers"].values()) == list(reference.stats)


def _evaluate_type(cases: list[Case], iou_type: str) -> list[dict[str, Any]]:
    """One metric after the other; images are dealt out in turn."""
    found = []
    for case in cases:
        metric = CocoMetric(coco_of(case.dataset), (iou_type,), keep_results=True)
        for id_ in list(case.predictions)[idist.get_rank() :: idist.get_world_size()]:
            metric.update(([case.predictions[id_]], [{"image_id": id_}]))
        found.append({**metric.arrays(iou_type), "results": metric.results(iou_type)})
    return found


@pytest.mark.parametrize(("iou_type", "make"), [("bbox", box_case), ("segm", mask_case), ("keypoints", keypoint_case)])
def test_results_and_arrays_of_every_type_are_gathered(iou_type: str, make: Any) -> None:
    cases = [case for case in map(make, range(20, 40)) if case.predictions]
    for found in run_processes(_evaluate_type, 2, cases, iou_type):
        for case, own in zip(cases, found, strict=True):
            reference = evaluate(case.dataset, own["results"], list(case.predictions), iou_type)
            assert len(own["results"]) == sum(len(p["scores"]) for p in case.predictions.values())
            for name in ("precision", "recall", "scores"):
                np.testing.assert_array_equal(own[name], reference.eval[name])


def _see_nothing() -> dict[str, float]:
    return CocoMetric(coco_of(box_case(1).dataset)).compute()


def test_no_process_has_an_image() -> None:
    for numbers in run_processes(_see_nothing, 2):
        assert set(numbers.values()) == {-1.0}


def _state_of_one() -> Any:
    # Called by one process alone: it must not wait for the other.
    return sorted(CocoMetric(coco_of(box_case(1).dataset)).state_dict()) if idist.get_rank() == 0 else None


def test_the_state_is_local() -> None:
    assert run_processes(_state_of_one, 2) == [["bbox"], None]
