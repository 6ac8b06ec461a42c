"""The answer of pycocotools, for comparison."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

__all__ = ["coco_of", "evaluate", "results_of"]


def coco_of(dataset: Mapping[str, Any]) -> COCO:
    """An index of ``dataset``, built without printing."""
    coco = COCO()
    coco.dataset = copy.deepcopy(dict(dataset))
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def results_of(predictions: Mapping[int, Mapping[str, Any]], iou_type: str) -> list[dict[str, Any]]:
    """Predictions by image id as COCO results, in the way of torchvision's reference evaluation."""
    results = []
    for image_id, prediction in predictions.items():
        common = zip(prediction["labels"].tolist(), prediction["scores"].tolist(), strict=True)
        for row, (label, score) in enumerate(common):
            result: dict[str, Any] = {"image_id": image_id, "category_id": label, "score": score}
            if iou_type == "bbox":
                x1, y1, x2, y2 = prediction["boxes"][row].unbind()
                result["bbox"] = torch.stack([x1, y1, x2 - x1, y2 - y1]).tolist()
            elif iou_type == "segm":
                result["segmentation"] = coco_mask.encode(np.asfortranarray(prediction["bitmaps"][row], dtype=np.uint8))
            else:
                result["keypoints"] = prediction["keypoints"][row].flatten().tolist()
            results.append(result)
    return results


def evaluate(
    dataset: Mapping[str, Any],
    results: Sequence[dict[str, Any]],
    image_ids: Sequence[int],
    iou_type: str = "bbox",
    change: Callable[[Any], None] | None = None,
    evaluator: type[COCOeval] = COCOeval,
) -> COCOeval:
    """pycocotools' evaluation of ``results`` on the images ``image_ids``.

    Annotations are numbered anew from 1, since pycocotools takes one with id 0 for unmatched; ``change`` may set
    parameters.
    """
    dataset = copy.deepcopy(dict(dataset))
    for number, annotation in enumerate(dataset["annotations"], start=1):
        annotation["id"] = number
    truth = coco_of(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        if results:
            detections = truth.loadRes(copy.deepcopy(list(results)))
        else:  # loadRes([]) fails
            detections = coco_of({**dataset, "annotations": []})
        reference = evaluator(truth, detections, iou_type)
        reference.params.imgIds = list(image_ids)
        if change is not None:
            change(reference.params)
        reference.evaluate()
        reference.accumulate()
        if len(np.atleast_1d(reference.params.maxDets)) in (1, 3):
            reference.summarize()
    return reference
