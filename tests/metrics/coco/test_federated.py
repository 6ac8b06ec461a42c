"""Images of which not all categories are annotated, against pycocotools with the two rules of LVIS added."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from tests.metrics.coco.cases import box_case
from tests.metrics.coco.compare import assert_equal, evaluated
from tests.metrics.coco.reference import evaluate, results_of


class _LvisEval(COCOeval):
    """COCO's evaluation with what LVIS changes."""

    def _prepare(self) -> None:
        super()._prepare()
        for (image_id, category_id), detections in self._dts.items():
            absent = self.cocoGt.imgs[image_id].get("neg_category_ids")
            if absent is not None and category_id not in absent and not self._gts[image_id, category_id]:
                detections.clear()

    def evaluateImg(self, image_id: int, category_id: int, *rest: Any) -> Any:
        result = super().evaluateImg(image_id, category_id, *rest)
        if result and category_id in self.cocoGt.imgs[image_id].get("not_exhaustive_category_ids", []):
            result["dtIgnore"] |= result["dtMatches"] == 0
        return result


def test_lists_of_the_images_are_heeded() -> None:
    for seed in range(700, 780):
        case = copy.deepcopy(box_case(seed))
        rng = np.random.default_rng(seed)
        categories = [category["id"] for category in case.dataset["categories"]]
        for image in case.dataset["images"]:
            for key in ("neg_category_ids", "not_exhaustive_category_ids"):
                if rng.random() < 0.7:
                    image[key] = [int(id_) for id_ in categories if rng.random() < 0.4]
        if case.predictions:
            results = results_of(case.predictions, "bbox")
            reference = evaluate(case.dataset, results, list(case.predictions), evaluator=_LvisEval)
            assert_equal(evaluated(case, seed, "bbox", lvis_style=True), reference, "bbox")
