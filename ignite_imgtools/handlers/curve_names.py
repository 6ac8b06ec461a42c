"""Which of the numbers that were logged are losses, which are metrics, and of which of them less is better."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence

import numpy as np

from ignite_imgtools.handlers.history import History

__all__ = ["best_place", "is_error", "loss_names", "main_metric", "metric_names"]

_KNOWN = ("AP", "AP50", "AP75")
# What a training is judged by, the first one that there is.
_MAIN = ("AP", "dice", "mean_IoU", "mIoU", "max_F", "top1", "accuracy", "NME", "mean_dice")
# The last words of errors, of which the smallest is the best.
_ERRORS = frozenset(
    "mae nme mse rmse mape nll ece epe fid lpips fpr fnr wer cer brier perplexity error errors loss losses distance "
    "hausdorff hd95 error_rate failure_rate miss_rate false_positive_rate false_negative_rate".split()
)
# The last words of what a step may return beside its losses.
_NO_LOSSES = frozenset("norm scale size lr rate time momentum accuracy acc precision recall count".split())
_WORD_ENDS = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def loss_names(history: History) -> list[str]:
    """The terms of the training's loss and the losses of evaluations, the sums first; without terms that are sums."""
    names = [name for name in history.names if "/" in name and _is_loss(name) and not _is_sum(history, name)]
    return sorted(names, key=lambda name: not name.endswith("/loss"))


def _is_sum(history: History, name: str) -> bool:
    """Whether a term is the only one, and so the same as the sum."""
    total = f"{name.split('/', 1)[0]}/loss"
    points = zip(history.points(name), history.points(total), strict=True)
    return name != total and all(np.array_equal(own, others, equal_nan=True) for own, others in points)


def _is_loss(name: str) -> bool:
    if "loss" in name.rsplit("/", 1)[-1]:
        return not name.endswith("loss_scale")
    # A step's own terms have any name: all are drawn but those that are known to be something else.
    return name.startswith("train/") and not _ends_with(name, _NO_LOSSES)


def is_error(name: str) -> bool:
    """Whether less of a metric is better, by the last word of its name.

    >>> is_error("val/edge_mae"), is_error("val/NME"), is_error("val/mean_IoU")
    (True, True, False)
    """
    return _ends_with(name, _ERRORS)


def _ends_with(name: str, endings: Collection[str]) -> bool:
    words = [word.lower() for word in _WORD_ENDS.split(name.rsplit("/", 1)[-1]) if word]
    return any("_".join(words[begin:]) in endings for begin in range(len(words)))


def best_place(name: str, values: np.ndarray) -> int | None:
    """Where the best of the values of a metric is, the first of equal ones; ``None`` where there is none."""
    finite = [place for place, value in enumerate(values) if math.isfinite(value)]
    choose: Callable[..., int] = min if is_error(name) else max
    return choose(finite, key=lambda place: values[place]) if finite else None


def metric_names(history: History, metrics: Sequence[str] | None = None) -> list[str]:
    """The metrics that are drawn, see :func:`attach_curves`."""
    # Of "val/bbox/AP" the metric is "bbox/AP"; "val/bbox/AP/cat" is of a single class.
    found = [name for name in history.names if "/" in name and not name.startswith("train/") and "loss" not in name]
    if metrics is not None:
        return [name for name in found if name.split("/", 1)[1] in metrics]
    known = [name for name in found if name.count("/") < 3 and name.rsplit("/", 1)[-1] in _KNOWN]
    everything = {name.lower() for name in found}
    return known or [name for name in found if name.count("/") < 3 and not _has_mean(name.lower(), everything)]


def _has_mean(name: str, names: Collection[str]) -> bool:
    """Whether a metric is of a single class, with the mean of all beside it: of ``val/iou/cat`` ``val/mean_iou``."""
    parts = name.split("/")
    return any(
        f"{'/'.join(parts[: end - 1])}/{mean}" in names
        for end in range(2, len(parts))
        for mean in (parts[end - 1], f"mean_{parts[end - 1]}", f"m{parts[end - 1]}")
    )


def main_metric(names: Sequence[str]) -> str | None:
    """Of the metrics of a run the one that it is judged by; ``None`` where there are none."""
    known = [name for kind in _MAIN for name in names if name.rsplit("/", 1)[-1] == kind]
    return next(iter([*known, *names]), None)
