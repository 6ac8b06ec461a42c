"""The cost of an update of the segmentation and saliency metrics beside that of other ways, in one run.

``confusion``: 21 classes, 8 images of 520 x 520 pixels, from logits to a matrix of counts. Beside ignite's
ConfusionMatrix and torchmetrics' stands the tutorials' way: argmax, a mask of the valid pixels, one histogram.
``saliency``: 8 maps of 400 x 300 pixels to the mean absolute error and both curves at 255 thresholds. Beside it the
tutorial's way, two histograms of the pixels chosen by a mask, and the definition, a comparison for each threshold.

The ways take turns, so that a busy machine troubles all of them alike; times are medians of the CPU seconds of the
process. All must give the same numbers, or nothing is printed. Measure with one thread where other work runs:

    python benchmarks/segmentation_metrics.py --threads 1 --rounds 15
    python benchmarks/segmentation_metrics.py --workload saliency

Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from ignite.metrics import ConfusionMatrix
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from ignite_imgtools.metrics import SaliencyMetric, SegmentationMetric

Way = Callable[[], np.ndarray]

_CLASSES = 21


def confusion_ways(images: int, size: int) -> dict[str, Way]:
    """Ways to count 21 classes in one batch, each returning its matrix."""
    torch.manual_seed(0)
    truth = torch.randint(0, _CLASSES, (images, size, size))
    logits = torch.randn(images, _CLASSES, size, size)
    logits.scatter_add_(1, truth.unsqueeze(1), torch.full((images, 1, size, size), 2.0))
    truth[torch.rand(truth.shape) < 0.05] = 255

    def ours() -> np.ndarray:
        metric = SegmentationMetric(_CLASSES)
        metric.update((logits, truth))
        return metric.matrix()

    def of_ignite() -> np.ndarray:
        metric = ConfusionMatrix(_CLASSES)
        metric.update((logits, truth))
        return metric.confusion_matrix.numpy()

    def of_torchmetrics() -> np.ndarray:
        metric = MulticlassConfusionMatrix(_CLASSES, ignore_index=255)
        metric.update(logits, truth)
        return metric.compute().numpy()

    def tutorials() -> np.ndarray:
        predicted, true = logits.argmax(1).flatten(), truth.flatten()
        valid = (true >= 0) & (true < _CLASSES)
        pairs = _CLASSES * true[valid] + predicted[valid]
        return torch.bincount(pairs, minlength=_CLASSES**2).view(_CLASSES, _CLASSES).numpy()

    return {
        "ignite ConfusionMatrix": of_ignite,
        "SegmentationMetric": ours,
        "tutorials": tutorials,
        "torchmetrics": of_torchmetrics,
    }


def saliency_ways(images: int) -> dict[str, Way]:
    """Ways to the error and the curves of one batch, each returning 511 numbers."""
    torch.manual_seed(0)
    truth = torch.zeros(images, 1, 300, 400)
    truth[:, :, 80:200, 100:260] = 1
    # Half way between the borders of two bins, so that rounding cannot tell the ways apart.
    probs = ((torch.rand(truth.shape) * 0.7 + 0.3 * truth) * 254).floor().add_(0.5).div_(255)

    def ours() -> np.ndarray:
        metric = SaliencyMetric(from_logits=False)
        metric.update((probs, truth))
        precision, recall, _ = metric.curves()
        return np.concatenate([[metric.compute()["MAE"]], precision, recall])

    def one_by_one(curves: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> np.ndarray:
        errors, precisions, recalls = [], [], []
        for predicted, true in zip(probs, truth, strict=True):
            errors.append((predicted - true).abs().mean().item())
            found, hits = curves(predicted, true > 0.5)
            precisions.append(hits / found.clamp(min=1))
            recalls.append(hits / hits[0].clamp(min=1))
        means = [torch.stack(values).double().mean(0).numpy() for values in (precisions, recalls)]
        return np.concatenate([[np.mean(errors)], *means])

    def by_masks(predicted: Tensor, salient: Tensor) -> tuple[Tensor, Tensor]:
        hits, misses = (
            torch.histc(predicted[mask], 255, 0, 1).flip(0).cumsum(0).flip(0) for mask in (salient, ~salient)
        )
        return hits + misses, hits

    def by_thresholds(predicted: Tensor, salient: Tensor) -> tuple[Tensor, Tensor]:
        found = [predicted >= k / 255 for k in range(255)]
        return torch.stack([mask.sum() for mask in found]), torch.stack([(mask & salient).sum() for mask in found])

    return {
        "tutorial, masks": lambda: one_by_one(by_masks),
        "SaliencyMetric": ours,
        "each threshold": lambda: one_by_one(by_thresholds),
    }


def medians(ways: dict[str, Way], rounds: int) -> dict[str, float]:
    """Seconds of each way, after a round that warms up and compares the results with the first's."""
    # As after the forward pass of any model: freed blocks of this size stay with the process for the next ones.
    torch.ones(2**22)
    expected = next(iter(ways.values()))()
    for name, way in ways.items():
        np.testing.assert_allclose(way(), expected, atol=1e-6, err_msg=name)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=["confusion", "saliency", "both"], default="both")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, default=520, help="of the images of confusion, in pixels")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    workloads: dict[str, Callable[[], dict[str, Way]]] = {
        "confusion": lambda: confusion_ways(arguments.images, arguments.size),
        "saliency": lambda: saliency_ways(arguments.images),
    }
    print(f"{arguments.images} images, {arguments.threads} threads, medians of {arguments.rounds} rounds")
    for workload, create in workloads.items():
        if arguments.workload not in (workload, "both"):
            continue
        seconds = medians(create(), arguments.rounds)
        baseline = next(iter(seconds.values()))
        for name, value in seconds.items():
            print(f"{workload:10} {name:24} {value * 1e3:9.1f} ms  ratio {value / baseline:6.3f}")


if __name__ == "__main__":
    main()
