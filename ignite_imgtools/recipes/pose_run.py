"""What a model of persons' keypoints has to know of the data set it was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from ignite_imgtools.data import PersonKeypoints
from ignite_imgtools.engines import COCO_KEYPOINT_SIGMAS
from ignite_imgtools.losses import COCO_JOINT_WEIGHTS
from ignite_imgtools.recipes.config import ConfigError

__all__ = ["KeypointSet"]


@dataclasses.dataclass(frozen=True)
class KeypointSet:
    """The keypoints of a data set; its length is their number.

    Args:
        names: in order; numbers where the annotations name none.
        skeleton: pairs of keypoints, counted from 1, to draw lines between.
        flip_permutation: which keypoint takes the place of each when an image is mirrored; ``None`` if unknown.
        sigmas: standard deviation of each in the evaluation.
        category: name of the persons' category, and
        category_id: its id in the annotations.
    """

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...]
    flip_permutation: tuple[int, ...] | None
    sigmas: tuple[float, ...]
    category: str
    category_id: int

    @classmethod
    def of_persons(
        cls, persons: PersonKeypoints, *, mirrored: bool, sigmas: Sequence[float] | None = None
    ) -> KeypointSet:
        """The keypoints of a data set.

        Args:
            mirrored: whether persons will be mirrored.
            sigmas: by default those of COCO's 17.

        Raises:
            ConfigError: ``sigmas`` are needed, or of another number.
            ValueError: persons will be mirrored, and it is not known which keypoints are each other's counterparts.
        """
        count = persons.num_keypoints
        if sigmas is None and count != len(COCO_KEYPOINT_SIGMAS):
            raise ConfigError(
                f"--keypoint-sigmas must be given for {count} keypoints, one for each, such as 0.05 for all of them"
            )
        chosen = tuple(COCO_KEYPOINT_SIGMAS if sigmas is None else sigmas)
        if len(chosen) != count or min(chosen) <= 0:
            raise ConfigError(f"--keypoint-sigmas must be {count} positive numbers, got {' '.join(map(str, chosen))}")
        known = len(persons.category.keypoints) == count
        joints = range(1, count + 1)
        return cls(
            persons.category.keypoints if known else tuple(map(str, joints)),
            tuple(line for line in persons.category.skeleton if line[0] in joints and line[1] in joints),
            persons.flip_permutation if mirrored else None,
            chosen,
            persons.category.name,
            persons.category.id,
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> KeypointSet:
        """The inverse of :meth:`to_dict`."""
        flip = values["flip_permutation"]
        return cls(
            tuple(values["names"]),
            tuple((start, end) for start, end in values["skeleton"]),
            None if flip is None else tuple(flip),
            tuple(values["sigmas"]),
            values["category"],
            values["category_id"],
        )

    def to_dict(self) -> dict[str, Any]:
        """As json and a checkpoint can hold it."""
        return {
            "names": list(self.names),
            "skeleton": [list(line) for line in self.skeleton],
            "flip_permutation": None if self.flip_permutation is None else list(self.flip_permutation),
            "sigmas": list(self.sigmas),
            "category": self.category,
            "category_id": self.category_id,
        }

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_coco(self) -> bool:
        """Whether they are as many as COCO's, and are taken for these."""
        return len(self.names) == len(COCO_KEYPOINT_SIGMAS)

    def joint_weights(self, weighting: Literal["equal", "hard"]) -> Sequence[float] | None:
        """Weights of a loss, ``None`` for equal ones.

        Raises:
            ConfigError: there are none for keypoints other than COCO's.
        """
        if weighting == "equal":
            return None
        if not self.is_coco:
            raise ConfigError(f"--joint-weighting hard is for COCO's 17 keypoints, the data set has {len(self)}")
        return COCO_JOINT_WEIGHTS
