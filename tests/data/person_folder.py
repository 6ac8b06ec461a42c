"""A small COCO data set of people with three keypoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ignite_imgtools.data import CocoDetection
from tests.data.coco_folder import annotation, write_coco_folder

__all__ = ["change_to_people", "open_people"]


def change_to_people(content: dict[str, Any]) -> None:
    """Make people of what :func:`tests.data.coco_folder.coco_content` gives."""
    content["categories"] = [
        {"id": 7, "name": "dog"},
        {"id": 5, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]},
    ]
    content["annotations"] = [
        annotation(1, 3, 5, [1, 2, 10, 8], keypoints=[3, 4, 2, 5.5, 6, 1, 0, 0, 0], num_keypoints=2),
        annotation(2, 3, 7, [1, 2, 10, 8]),  # no person
        annotation(3, 3, 5, [4, 4, 10, 8], keypoints=[0] * 9, num_keypoints=0),  # nothing annotated
        annotation(4, 1, 5, [0, 0, 30, 30], iscrowd=1, segmentation={"size": [30, 40], "counts": [0, 1200]}),
        annotation(5, 1, 5, [30, 20, 15, 15], keypoints=[31, 21, 2, 32, 22, 2, 33, 23, 2], num_keypoints=3),
        annotation(6, 3, 5, [20, 10, 6, 9], keypoints=[21, 11, 2, 22, 12, 2, 23, 13, 1], num_keypoints=3),
    ]


def open_people(folder: Path) -> CocoDetection:
    """Images 1, 2 and 3 with 1, 0 and 2 persons; others are a dog, a crowd, and a person without keypoints."""
    return CocoDetection(folder / "train", write_coco_folder(folder, change_to_people), keypoints=True)
