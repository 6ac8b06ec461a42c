"""What an evaluation says beyond its numbers: curves, tables, confusion, and which kinds of error cost how much."""

from ignite_imgtools.metrics.coco_analysis.confusion import confusion_matrix
from ignite_imgtools.metrics.coco_analysis.curves import PrecisionRecallCurve, precision_recall_curves
from ignite_imgtools.metrics.coco_analysis.errors import ERROR_KINDS, ErrorBreakdown, error_breakdown
from ignite_imgtools.metrics.coco_analysis.tables import count_truths, per_class_table, table_to_csv, table_to_text

__all__ = [
    "ERROR_KINDS",
    "ErrorBreakdown",
    "PrecisionRecallCurve",
    "confusion_matrix",
    "count_truths",
    "error_breakdown",
    "per_class_table",
    "precision_recall_curves",
    "table_to_csv",
    "table_to_text",
]
