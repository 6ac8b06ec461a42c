"""The summary of an evaluation as pycocotools prints it."""

from __future__ import annotations

from collections.abc import Mapping

from ignite_imgtools.metrics.coco.parameters import Parameters

__all__ = ["summary_text"]


def summary_text(numbers: Mapping[str, float], parameters: Parameters) -> str:
    """The lines that ``COCOeval.summarize`` prints, character for character: twelve, or ten for keypoints.

    Custom area ranges and numbers of detections have lines of their own, with their numbers.

    Args:
        numbers: of :func:`~.summary.summarize`.
        parameters: of the same evaluation.
    """
    every_threshold = f"{parameters.iou_thresholds[0]:0.2f}:{parameters.iou_thresholds[-1]:0.2f}"
    ranges = [name for name in parameters.area_names if name != "all"]
    limits = parameters.max_detections
    keypoints = parameters.iou_type == "keypoints"
    precisions = [(every_threshold, "all", limits[-1]), ("0.50", "all", limits[-1]), ("0.75", "all", limits[-1])]
    recalls = precisions if keypoints else [(every_threshold, "all", limit) for limit in limits]
    by_area = [(every_threshold, area, limits[-1]) for area in ranges]
    rows = [("Average Precision", "(AP)", *row) for row in [*precisions, *by_area]]
    rows += [("Average Recall", "(AR)", *row) for row in [*recalls, *by_area]]
    return "\n".join(
        f" {title:<18} {short} @[ IoU={iou:<9} | area={area:>6s} | maxDets={limit:>3d} ] = {value:0.3f}"
        for (title, short, iou, area, limit), value in zip(rows, numbers.values(), strict=True)
    )
