"""What an evaluation is made of: thresholds, area ranges, numbers of detections; the defaults are COCO's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["IOU_TYPES", "Parameters"]

IOU_TYPES = ("bbox", "segm", "keypoints")

# The ranges and standard deviations of the COCO evaluation (https://cocodataset.org/#detection-eval, #keypoints-eval).
_AREA_RANGES = {"all": (0.0, 1e10), "small": (0.0, 1024.0), "medium": (1024.0, 9216.0), "large": (9216.0, 1e10)}
_KEYPOINT_SIGMAS = (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)


@dataclass(frozen=True)
class Parameters:
    """Parameters of the evaluation of one type of overlap, checked.

    Attributes:
        iou_type: one of :data:`IOU_TYPES`.
        iou_thresholds: float64 ``[T]``, ascending.
        recall_thresholds: float64 ``[R]``, ascending.
        area_names: ``A`` names of ranges, one of them ``"all"``.
        area_ranges: float64 ``[A, 2]`` in square pixels, both ends included.
        max_detections: ``M`` numbers of detections for each image and category, ascending.
        keypoint_sigmas: float64 ``[K]``, the standard deviation of each keypoint relative to the object's size.
        use_cats: whether a detection matches only truth of its category.
        lvis_style: whether the images' lists of categories not annotated everywhere are heeded.
    """

    iou_type: str
    iou_thresholds: NDArray[np.float64]
    recall_thresholds: NDArray[np.float64]
    area_names: tuple[str, ...]
    area_ranges: NDArray[np.float64]
    max_detections: tuple[int, ...]
    keypoint_sigmas: NDArray[np.float64]
    use_cats: bool = True
    lvis_style: bool = False

    @classmethod
    def create(
        cls,
        iou_type: str,
        *,
        iou_thresholds: Sequence[float] | NDArray[np.float64] | None = None,
        recall_thresholds: Sequence[float] | NDArray[np.float64] | None = None,
        area_ranges: Mapping[str, tuple[float, float]] | None = None,
        max_detections: Sequence[int] | None = None,
        keypoint_sigmas: Sequence[float] | NDArray[np.float64] | None = None,
        use_cats: bool = True,
        lvis_style: bool = False,
    ) -> Parameters:
        """Parameters of one type, ``None`` standing for COCO's own value.

        Raises:
            ValueError: an argument is out of its range; names it.
        """
        if iou_type not in IOU_TYPES:
            raise ValueError(f"iou_types must be of {', '.join(IOU_TYPES)}, got {iou_type!r}")
        keypoints = iou_type == "keypoints"
        if keypoints and not use_cats:
            # pycocotools pools no keypoints: it looks them up under a category -1 and finds none.
            raise ValueError("use_cats=False is defined for bbox and segm, not for keypoints: leave one of them out")
        if area_ranges is None:
            area_ranges = {name: area for name, area in _AREA_RANGES.items() if not (keypoints and name == "small")}
        if max_detections is None:
            max_detections = (20,) if keypoints else (1, 10, 100)
        if keypoint_sigmas is None:
            # Divided by 10 twice as in the reference: the last bit of .26 / 10 is not that of .026.
            keypoint_sigmas = np.array(_KEYPOINT_SIGMAS) / 100 / 10.0
        if iou_thresholds is None:
            iou_thresholds = np.linspace(0.5, 0.95, 10)
        if recall_thresholds is None:
            recall_thresholds = np.linspace(0.0, 1.0, 101)
        return cls(
            iou_type=iou_type,
            iou_thresholds=_ascending("iou_thresholds", iou_thresholds),
            recall_thresholds=_ascending("recall_thresholds", recall_thresholds),
            area_names=tuple(area_ranges),
            area_ranges=_checked_areas(area_ranges),
            max_detections=_checked_detections(max_detections),
            keypoint_sigmas=_checked_sigmas(keypoint_sigmas),
            use_cats=use_cats,
            lvis_style=lvis_style,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """``(A, T)``: matches are kept for each area range and threshold."""
        return len(self.area_names), len(self.iou_thresholds)

    @property
    def match_thresholds(self) -> NDArray[np.float64]:
        """float64 ``[T]``, what an overlap must reach: an IoU of 1 may be computed a bit too small."""
        return np.minimum(self.iou_thresholds, 1 - 1e-10)


def _ascending(name: str, values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all() or (np.diff(array) <= 0).any():
        raise ValueError(f"{name} must be a list of ascending numbers, got {values}")
    return array


def _checked_areas(areas: Mapping[str, tuple[float, float]]) -> NDArray[np.float64]:
    if "all" not in areas:
        raise ValueError(f"area_ranges must name a range 'all', got {', '.join(areas)}")
    for name, area in areas.items():
        if len(area) != 2 or not area[0] <= area[1]:
            raise ValueError(f"area_ranges[{name!r}] must be (lowest, highest) in square pixels, got {area}")
    return np.array(list(areas.values()), dtype=np.float64)


def _checked_detections(max_detections: Sequence[int]) -> tuple[int, ...]:
    if not max_detections or any(int(number) != number or number < 1 for number in max_detections):
        raise ValueError(f"max_detections must be positive integers, got {max_detections}")
    return tuple(sorted({int(number) for number in max_detections}))


def _checked_sigmas(sigmas: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    array = np.array(sigmas, dtype=np.float64)
    if array.ndim != 1 or not array.size or not (array > 0).all():
        raise ValueError(f"keypoint_sigmas must be one positive number for each keypoint, got {sigmas}")
    return array
