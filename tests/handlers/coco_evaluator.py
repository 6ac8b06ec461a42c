"""A small detection data set and an evaluator that finds most of it."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from pycocotools.coco import COCO

from ignite_imgtools.metrics import CocoMetric

__all__ = ["NAMES", "create_evaluator", "create_truth"]

NAMES = ["cat", "dog", "never"]


def create_truth() -> COCO:
    generator = np.random.default_rng(0)
    coco = COCO()
    images = [{"id": i, "width": 100, "height": 100} for i in range(12)]
    annotations = []
    for i in range(40):
        x, y, w, h = (float(n) for n in generator.uniform(5, 45, 4))
        annotations.append(
            {
                "id": i + 1,
                "image_id": i % 12,
                "category_id": 1 + i % 2,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
            }
        )
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)]
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def create_evaluator(coco: COCO, **options: Any) -> tuple[Engine, CocoMetric]:
    generator = torch.Generator().manual_seed(0)

    def step(engine: Engine, image_id: int) -> dict[str, Any]:
        found = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        boxes = torch.tensor([a["bbox"] for a in found]) + 3 * torch.randn(len(found), 4, generator=generator)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([a["category_id"] for a in found])
        scores = torch.rand(len(found), generator=generator)
        return {
            "y_pred": [{"boxes": boxes, "labels": labels, "scores": scores}],
            "y": [{"image_id": image_id}],
            "batch_size": 1,
        }

    evaluator, metric = Engine(step), CocoMetric(coco, **options)
    metric.attach(evaluator, "coco")
    return evaluator, metric
