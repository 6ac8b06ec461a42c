"""What an evaluation says beyond its numbers: curves, tables, confusion, and which kinds of error cost how much."""

from ignite_imgtools.metrics.coco_analysis.confusion import confusion_matrix
from ignite_imgtools.metrics.coco_analysis.errors import ERROR_KINDS, ErrorBreakdown, error_breakdown

__all__ = ["ERROR_KINDS", "ErrorBreakdown", "confusion_matrix", "error_breakdown"]
