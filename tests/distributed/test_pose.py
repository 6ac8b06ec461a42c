"""Pose estimation gives the same numbers on any number of processes, each image handed over once and complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ignite_imgtools.data import CocoDetection, PersonKeypoints, coco_index, collate_person_images, create_loader
from ignite_imgtools.data.transforms import pose_eval
from ignite_imgtools.engines import create_pose_evaluator
from ignite_imgtools.metrics import CocoMetric
from tests.data.person_folder import open_people
from tests.distributed.spawn import run_processes
from tests.engines.tiny_pose import TinyPose


def _evaluate(folder: Path, batch_size: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    persons = PersonKeypoints(_open(folder), transforms=pose_eval((32, 24)))
    sigmas = (0.5, 0.5, 0.5)  # so wide that the answers of an untrained model match
    index = coco_index(persons.dataset)
    metric = CocoMetric(index, iou_types=("keypoints",), keypoint_sigmas=sigmas, keep_results=True)
    options: dict[str, Any] = {"keypoint_sigmas": sigmas, "oks_threshold": None, "min_keypoint_score": -9.0}
    evaluator = create_pose_evaluator(TinyPose(), {"coco": metric}, refine="dark", **options)
    evaluator.run(create_loader(persons.by_image(), batch_size, collate_fn=collate_person_images))
    return {**evaluator.state.metrics, "results": sorted(metric.results("keypoints"), key=str)}


def _open(folder: Path) -> CocoDetection:
    return CocoDetection(folder / "train", folder / "annotations" / "instances_train.json", keypoints=True)


def test_numbers_do_not_depend_on_the_processes(tmp_path: Path) -> None:
    open_people(tmp_path)
    (alone,) = run_processes(_evaluate, 1, tmp_path, 2)
    assert len(alone["results"]) == 3
    assert alone["keypoints/AP50"] > 0
    # Three processes for three images, one of which has nobody in it.
    assert run_processes(_evaluate, 3, tmp_path, 3) == [alone] * 3
