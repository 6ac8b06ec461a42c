"""Evaluate the same images on 1 to 4 processes, and compare the numbers.

Integers must be equal, average precision and all arrays of it too, other floats to 1e-12, on every process. The
numbers of images are such that they divide among neither 2, 3 nor 4 processes without a rest, or among some of them.

``metrics``: every metric there is, on made-up answers with ties, crowds, absent classes and more, fed by the loader
and the engine of an evaluation. ``recipes``: every recipe's own ``evaluate`` of a model that was trained for some
steps: its metrics and losses as written to ``eval/``, and its results image by image.

    python -m tests.faults.world_size                                  # both, 21, 22 and 23 images on 1 to 4 processes
    python -m tests.faults.world_size --parts metrics --images 21 --processes 1 2 3     # the short form, in CI

prints a table: for each metric the number of values compared, and for each number of images the largest difference
between any two processes of any number of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from numpy.typing import NDArray

from ignite_imgtools import distributed
from ignite_imgtools.cli import main as command
from ignite_imgtools.data import create_loader
from ignite_imgtools.data.make_data import make_data
from ignite_imgtools.engines import create_evaluator
from ignite_imgtools.engines.mean_losses import MeanDenseLosses, MeanLosses
from ignite_imgtools.metrics import (
    ClassificationMetric,
    CocoMetric,
    DiceMetric,
    LandmarkMetric,
    MeterBank,
    SaliencyMetric,
    SegmentationMetric,
    SmoothedValue,
    VocMetric,
    confusion_matrix,
    error_breakdown,
)
from ignite_imgtools.recipes import load_recipe
from tests.distributed.spawn import run_processes
from tests.faults.resume import RECIPES
from tests.metrics.coco.cases import Case, box_case, keypoint_case, mask_case
from tests.metrics.coco.reference import coco_of

__all__ = ["METRICS", "Comparison", "compare_metrics", "compare_recipe", "table"]

_TOLERANCE = 1e-12
_BATCH_SIZE = 8
Values = dict[str, Any]


class Comparison:
    """The numbers of one metric, on every process of every number of them.

    Attributes:
        name: of the metric.
        count: how many numbers are compared.
        differences: by the number of images, the largest difference.
        faults: what differs and must not.
    """

    def __init__(self, name: str):
        self.name = name
        self.count = 0
        self.differences: dict[int, float] = {}
        self.faults: list[str] = []

    def add(self, images: int, expected: Values, found: Sequence[Values], *, exact: bool) -> None:
        """Compare what several processes ``found`` with what one alone ``expected``."""
        self.count = max(self.count, sum(np.size(value) for value in _leaves(expected).values()))
        self.differences.setdefault(images, 0.0)
        for rank, values in enumerate(found):
            where = f"{self.name}, {images} images, rank {rank} of {len(found)}"
            for key, (difference, is_integer) in _difference(expected, values, where, self.faults).items():
                self.differences[images] = max(self.differences[images], difference)
                if not difference <= (0 if exact or is_integer else _TOLERANCE):
                    self.faults.append(f"{where}: {key} differs by {difference:g}")


def _leaves(values: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists by their place: numbers, texts, arrays."""
    if isinstance(values, Mapping):
        return {k: v for key, item in values.items() for k, v in _leaves(item, f"{name}/{key}").items()}
    if isinstance(values, list | tuple):
        return {k: v for key, item in enumerate(values) for k, v in _leaves(item, f"{name}[{key}]").items()}
    return {name: values}


def _difference(expected: Values, found: Values, where: str, faults: list[str]) -> dict[str, tuple[float, bool]]:
    """By name the largest difference, and whether it is one of integers (or of texts, 0 or infinite)."""
    one, other = _leaves(expected), _leaves(found)
    if one.keys() != other.keys():
        faults.append(f"{where}: {len(one)} values, not {len(other)}: {sorted(one.keys() ^ other.keys())[:3]}")
        return {}
    differences = {}
    for key, value in one.items():
        a, b = np.asarray(value), np.asarray(other[key])
        floats = a.dtype.kind == b.dtype.kind == "f" and a.shape == b.shape
        same = np.array_equal(a, b, equal_nan=floats)
        differences[key] = (0.0 if same else _largest_difference(a, b) if floats else math.inf, not floats)
    return differences


def _largest_difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return math.inf
    return float(np.abs(a[finite] - b[finite]).max())


class _Images:
    """The numbers of the images, as a data set."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        return index


def _run(count: int, metrics: Mapping[str, Metric], answer: Callable[[list[int]], Any]) -> Engine:
    """Evaluate the images of this process, ``answer(batch)`` being what a step puts out."""
    loader = create_loader(_Images(count), _BATCH_SIZE, collate_fn=list)  # type: ignore[arg-type]
    evaluator = create_evaluator(lambda engine, batch: answer(batch), torch.nn.Identity(), metrics)
    evaluator.run(loader)
    return evaluator


def _generator(index: int) -> torch.Generator:
    return torch.Generator().manual_seed(index)


# Every metric by its name: from a number of images to what it says of them.


def _classification(count: int) -> Values:
    metric = ClassificationMetric(7, per_class=True)

    def answer(batch: list[int]) -> Any:
        logits = [torch.randn(7, generator=_generator(i)).round(decimals=1) for i in batch]  # some are equal
        labels = [int(torch.randint(0, 6, (), generator=_generator(i))) for i in batch]  # class 6 is absent
        return torch.stack(logits) if batch else torch.zeros(0, 0), torch.tensor(labels, dtype=torch.int64)

    evaluator = _run(count, {"classification": metric}, answer)
    return {**evaluator.state.metrics, "matrix": metric.matrix(), "absent": metric.absent_classes()}


def _map_of(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = _generator(index)
    height, width = (int(size) for size in torch.randint(5, 40, (2,), generator=generator))
    logits = torch.randn(1, 4, height, width, generator=generator)
    truth = torch.randint(0, 3, (1, height, width), generator=generator)  # class 3 is absent
    truth[torch.rand(truth.shape, generator=generator) < 0.1] = 255
    return logits, truth


def _maps_of(batch: list[int]) -> Any:
    return [list(column) for column in zip(*map(_map_of, batch), strict=True)] or [[], []]


def _segmentation(count: int) -> Values:
    metric = SegmentationMetric(4, per_class=True)
    evaluator = _run(count, {"segmentation": metric}, _maps_of)
    return {**evaluator.state.metrics, "matrix": metric.matrix(), "absent": metric.absent_classes()}


def _dice(count: int) -> Values:
    return dict(_run(count, {"dice": DiceMetric(4)}, _maps_of).state.metrics)


def _saliency(count: int) -> Values:
    metric = SaliencyMetric()

    def answer(batch: list[int]) -> Any:
        logits, truth = _maps_of(batch)
        return [image[:, :1].sigmoid() for image in logits], [(image == 1).float() for image in truth]

    evaluator = _run(count, {"saliency": metric}, answer)
    return {**evaluator.state.metrics, "curves": metric.curves()}


def _landmarks(normaliser: Any, count: int) -> Values:
    metric = LandmarkMetric(normaliser)

    def answer(batch: list[int]) -> Any:
        if not batch:
            return torch.zeros(0, 0, 2), torch.zeros(0, 0, 2)
        truth = torch.stack([torch.rand(68, 2, generator=_generator(i)) * 100 for i in batch])
        noise = torch.stack([torch.randn(68, 2, generator=_generator(i + 100)) for i in batch])
        truth[[i == 5 for i in batch]] = 7.0  # a face of no length
        found = truth + noise * torch.tensor([i % 9 for i in batch])[:, None, None]
        boxes = torch.tensor([[0, 0, 90 + i, 80] for i in batch]).reshape(-1, 4).float()
        return found, {"points": truth, "boxes": boxes, "image_id": batch}

    evaluator = _run(count, {"landmarks": metric}, answer)
    ids, errors = metric.faces()
    return {**evaluator.state.metrics, "ids": ids, "errors": errors, "left out": metric.left_out()}


def _joined(make: Callable[[int], Case], count: int) -> Case:
    """One data set of many small ones, whose categories become one another's, with so many images to evaluate."""
    dataset: dict[str, list[Any]] = {"images": [], "annotations": []}
    predictions: dict[int, Any] = {}
    for seed in range(40, 1000):
        case = make(seed)
        categories = {category["id"]: place for place, category in enumerate(case.dataset["categories"])}
        for place, image in enumerate(case.dataset["images"]):
            if image["id"] not in case.predictions:
                continue
            new = 100 * seed + place
            dataset["images"].append({**image, "id": new})
            for annotation in case.dataset["annotations"]:
                if annotation["image_id"] == image["id"]:
                    own = {"id": len(dataset["annotations"]), "image_id": new}
                    category = {"category_id": categories[annotation["category_id"]]}
                    dataset["annotations"].append({**annotation, **own, **category})
            prediction = case.predictions[image["id"]]
            labels = prediction["labels"].clone().apply_(lambda label, known=categories: known.get(label, 77))
            predictions[new] = {**prediction, "labels": labels}
            if "boxes" in prediction:
                truth = [annotation for annotation in dataset["annotations"] if annotation["image_id"] == new]
                predictions[new] = _with_good_boxes(predictions[new], truth)
            if len(predictions) == count:
                names = [{"id": number, "name": f"thing {number}"} for number in range(3)]
                return Case({**dataset, "categories": names}, predictions)
    raise AssertionError("too few images")


def _with_good_boxes(prediction: Values, truth: Sequence[Mapping[str, Any]]) -> Values:
    """The prediction, and for every second object one that is near to it; with scores of which some are equal."""
    near = truth[::2]
    boxes = torch.tensor([annotation["bbox"] for annotation in near], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2] + torch.tensor([number % 3 for number in range(len(near))])[:, None]
    added = {
        "boxes": boxes,
        "labels": torch.tensor([annotation["category_id"] for annotation in near], dtype=torch.int64),
        "scores": torch.tensor([0.5 + annotation["id"] % 5 / 10 for annotation in near], dtype=torch.float64),
    }
    return {name: torch.cat([values, prediction[name].to(values.dtype)]) for name, values in added.items()}


def _answer_of(case: Case) -> Callable[[list[int]], Any]:
    ids = list(case.predictions)
    return lambda batch: ([case.predictions[ids[i]] for i in batch], [{"image_id": ids[i]} for i in batch])


def _coco(iou_type: str, make: Callable[[int], Case], count: int) -> Values:
    case = _joined(make, count)
    index = coco_of(case.dataset)
    metric = CocoMetric(index, (iou_type,), per_class=True, keep_results=True, chunk_images=5)
    evaluator = _run(count, {"coco": metric}, _answer_of(case))
    detections, ids = metric.detections(iou_type), list(case.predictions)
    return {
        **evaluator.state.metrics,
        "arrays": metric.arrays(iou_type),
        "results": sorted(map(repr, metric.results(iou_type))),
        "confusion": confusion_matrix(index, detections, iou_type, image_ids=ids),
        "errors": error_breakdown(index, detections, iou_type, image_ids=ids).to_dict(),
    }


def _voc(count: int) -> Values:
    case = _joined(box_case, count)
    numbers: Values = {}
    for inclusive in (False, True):
        metric = VocMetric(coco_of(case.dataset), inclusive=inclusive, per_class=True, chunk_images=5)
        evaluator = _run(count, {"voc": metric}, _answer_of(case))
        numbers[f"inclusive {inclusive}"] = {**evaluator.state.metrics, "curves": metric.curves()}
    return numbers


def _losses_of(batch: list[int]) -> dict[str, torch.Tensor]:
    values = torch.tensor([[math.exp(math.sin(i)), 1e3 * math.cos(i)] for i in batch]).reshape(-1, 2)
    return {"one": values[:, 0], "other": values[:, 1]}


def _mean_losses(count: int) -> Values:
    answer = lambda batch: {"losses": _losses_of(batch), "y": [{"image_id": i} for i in batch]}  # noqa: E731
    return dict(_run(count, {"losses": MeanLosses()}, answer).state.metrics)


def _mean_dense_losses(count: int) -> Values:
    def answer(batch: list[int]) -> Any:
        losses = _losses_of(batch)
        losses["other"][[i % 5 == 0 for i in batch]] = math.nan  # nothing to learn from
        return {"losses": losses if batch else {}}

    return dict(_run(count, {"losses": MeanDenseLosses()}, answer).state.metrics)


def _meters(count: int) -> Values:
    bank, value = MeterBank(), SmoothedValue()
    single: dict[str, Metric] = {"global_avg": value}

    def answer(batch: list[int]) -> Any:
        losses = _losses_of(batch)
        means = {name: terms.double().mean() for name, terms in losses.items()}  # a step rounds them itself
        bank.append(means, len(batch))
        return means["one"], len(batch)

    return {**_run(count, single, answer).state.metrics, **bank.means()}


METRICS: dict[str, Callable[[int], Values]] = {
    "classification": _classification,
    "segmentation": _segmentation,
    "dice": _dice,
    "saliency": _saliency,
    "landmarks, inter_ocular": lambda count: _landmarks("inter_ocular", count),
    "landmarks, inter_pupil": lambda count: _landmarks("inter_pupil", count),
    "landmarks, box": lambda count: _landmarks("box", count),
    "COCO, bbox": lambda count: _coco("bbox", box_case, count),
    "COCO, segm": lambda count: _coco("segm", mask_case, count),
    "COCO, keypoints": lambda count: _coco("keypoints", keypoint_case, count),
    "VOC": _voc,
    "losses by image": _mean_losses,
    "losses of dense tasks": _mean_dense_losses,
    "meters of training": _meters,
}
"""Every metric by its name: from a number of images to what it says of them, on every process."""

# Their sums of floats are in the order of the processes; everything else is of integers, or in one order.
_INEXACT = ("meters of training",)


def _all_metrics(images: Sequence[int]) -> dict[int, dict[str, Values]]:
    return {count: {name: metric(count) for name, metric in METRICS.items()} for count in images}


def compare_metrics(images: Sequence[int], processes: Sequence[int]) -> list[Comparison]:
    """Every metric on each number of images, on one process and on each other number of them."""
    (expected,) = run_processes(_all_metrics, 1, images)
    comparisons = {name: Comparison(name) for name in METRICS}
    for world_size in processes:
        found = run_processes(_all_metrics, world_size, images, timeout=600)
        for count in images:
            for name, comparison in comparisons.items():
                own = [values[count][name] for values in found]
                comparison.add(count, expected[count][name], own, exact=name not in _INEXACT)
    return list(comparisons.values())


def _call(commands: Sequence[Sequence[str]], log: str) -> None:
    """Commands that must succeed, on processes that have been joined already."""
    distributed.launch = lambda function, *args, **_: function(0, *args)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for arguments in commands:
        if status := command(list(arguments)):
            raise RuntimeError(f"{' '.join(arguments)} ended with {status}: {Path(log).read_text()[-2000:]}")


def _written(folder: Path) -> Values:
    """What an evaluation has left in ``eval/``; lists, which are of results, in one order."""
    found: Values = {}
    for path in sorted((folder / "eval").iterdir()):
        content = json.loads(path.read_text()) if path.suffix == ".json" else path.read_text()
        found[path.name] = sorted(map(repr, content)) if isinstance(content, list) else content
    assert "metrics.json" in found, sorted(found)
    return found


def compare_recipe(recipe: str, images: Sequence[int], processes: Sequence[int], folder: Path) -> Comparison:
    """The evaluation of a recipe on each number of images, on one process and on each other number of them."""
    comparison = Comparison(recipe)
    options = [*RECIPES[recipe].flags.split(), "--batch-size", "4", "--device", "cpu"]
    for count in images:
        sizes = {"num_train": 8, "num_val": count, "image_size": 64}
        make_data(RECIPES[recipe].data_format, folder / f"data-{count}", **sizes)
    run = folder / "run"
    data = ["--data", str(folder / f"data-{images[0]}"), "--output-dir", str(run)]
    train = ["train", recipe, *data, "--max-iterations", "10", "--epochs", "5", "--eval-every", "5", *options]
    options += ["--checkpoint", str(run / "checkpoints" / "last.pt")]
    evaluate = ["evaluate", recipe, *options]
    for world_size in (1, *(number for number in processes if number > 1)):
        outputs = {count: folder / f"{count}-{world_size}" for count in images}
        commands = [
            [*evaluate, "--data", str(folder / f"data-{count}"), "--output-dir", str(output)]
            for count, output in outputs.items()
        ]
        log = str(folder / "log.txt")
        run_processes(_call, world_size, [train, *commands] if world_size == 1 else commands, log, timeout=3600)
        for count, output in outputs.items():
            comparison.add(count, _written(folder / f"{count}-1"), [_written(output)], exact=False)
    return comparison


def table(comparisons: Sequence[Comparison]) -> str:
    """A line for each metric: how many values, and the largest difference for each number of images."""
    images = sorted({count for comparison in comparisons for count in comparison.differences})
    head = f"{'':24} {'values':>8}" + "".join(f"{f'{count} images':>12}" for count in images)
    lines = [
        f"{each.name:24} {each.count:8}" + "".join(f"{each.differences[count]:12.2g}" for count in images)
        for each in comparisons
    ]
    return "\n".join([head, *lines])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("metrics", "recipes"), default=["metrics", "recipes"])
    parser.add_argument("--images", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    options = parser.parse_args()
    comparisons = compare_metrics(options.images, options.processes) if "metrics" in options.parts else []
    if "recipes" in options.parts:
        for name in options.recipes:
            load_recipe(name)  # before any process is forked
        for name in options.recipes:
            with tempfile.TemporaryDirectory() as folder:
                comparisons.append(compare_recipe(name, options.images, options.processes, Path(folder)))
    print(table(comparisons))
    faults = [fault for comparison in comparisons for fault in comparison.faults]
    print("\n".join(faults[:20]) or "all equal: integers, average precision and results exactly, other floats to 1e-12")
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
