"""The speed of CocoMetric beside that of other evaluations, in one run.

Every system gets the same images and per-image tensors and is asked for COCO's numbers; each measurement has a process
of its own, and the systems take turns, so that a busy machine troubles all of them alike. Times are CPU seconds,
medians over the rounds: ``total`` from the first batch to the numbers, ``end`` what remains after the last batch.
Building the ground truth from a dict is left out, except CocoMetric's columns of it, which its total includes.
``memory`` is what the process grew by, its largest size less its size with all inputs loaded.

    python benchmarks/coco.py --workload boxes --rounds 5
    python benchmarks/coco.py --workload masks --systems CocoMetric hotcoco
    python benchmarks/coco.py --gather

Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import importlib.util
import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coco_workloads import Workload, box_workload, draw_masks, keypoint_workload, mask_workload

Answer = tuple[list[float], dict[str, Any]]
"""COCO's numbers, and the arrays ``precision``, ``recall`` and ``scores`` if there are any."""

_BATCH = 16
_TYPES = {"boxes": "bbox", "keypoints": "keypoints", "masks": "segm", "run-lengths": "segm"}
_IMAGES = {"boxes": 5000, "keypoints": 2700, "masks": 500, "run-lengths": 500}


class Stopwatch:
    """CPU seconds of the process, all its threads together, from the first batch on and after the last."""

    def start(self) -> None:
        self._start, self._paused = time.process_time(), 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        start = time.process_time()
        yield
        self._paused += time.process_time() - start

    def last_batch_is_done(self) -> None:
        self._last = time.process_time()

    def stop(self) -> None:
        now = time.process_time()
        self.times = {"total": now - self._start - self._paused, "end": now - self._last}


def _batches(workload: Workload, watch: Stopwatch) -> Iterator[tuple[list[int], list[dict[str, Any]]]]:
    """Image ids and predictions.

    Bitmaps are drawn while the clock stands still, since all together would not fit, and always into the same memory:
    to get and to free it is no part of an evaluation.
    """
    images = workload.dataset["images"]
    memory: list[torch.Tensor] = []
    for start in range(0, len(images), _BATCH):
        own, predictions = images[start : start + _BATCH], workload.predictions[start : start + _BATCH]
        if "masks" not in predictions[0] and "segmentation" in workload.dataset["annotations"][0]:
            with watch.paused():
                memory = memory or [torch.empty(100 * 640 * 480, dtype=torch.bool) for _ in range(_BATCH)]
                drawn = zip(own, predictions, memory, strict=False)
                predictions = [p | {"masks": draw_masks(i, p, m)} for i, p, m in drawn]
        yield [image["id"] for image in own], predictions


def _results(image_id: int, prediction: dict[str, Any], iou_type: str, encode: Callable[[Any], Any]) -> list[Any]:
    """Predictions of an image as COCO results, in the way of torchvision's reference evaluation."""
    common = [
        {"image_id": image_id, "category_id": label, "score": score}
        for label, score in zip(prediction["labels"].tolist(), prediction["scores"].tolist(), strict=True)
    ]
    if iou_type == "bbox":
        x1, y1, x2, y2 = prediction["boxes"].unbind(1)
        return [
            r | {"bbox": box}
            for r, box in zip(common, torch.stack([x1, y1, x2 - x1, y2 - y1], 1).tolist(), strict=True)
        ]
    if iou_type == "keypoints":
        return [r | {"keypoints": k} for r, k in zip(common, prediction["keypoints"].flatten(1).tolist(), strict=True)]
    masks = prediction["masks"]
    if isinstance(masks, torch.Tensor):
        masks = [encode(np.asfortranarray(mask[0].numpy().view(np.uint8))) for mask in masks]
    return [r | {"segmentation": mask} for r, mask in zip(common, masks, strict=True)]


def _coco_metric(workload: Workload, iou_type: str, watch: Stopwatch) -> Answer:
    from pycocotools.coco import COCO

    from ignite_imgtools.metrics import CocoMetric

    coco = COCO()
    coco.dataset = workload.dataset
    coco.createIndex()
    watch.start()
    metric = CocoMetric(coco, (iou_type,))
    for ids, predictions in _batches(workload, watch):
        metric.update((predictions, [{"image_id": id_} for id_ in ids]))
    watch.last_batch_is_done()
    numbers = list(metric.compute().values())
    watch.stop()
    return numbers, metric.arrays(iou_type)


def _pycocotools(workload: Workload, iou_type: str, watch: Stopwatch) -> Answer:
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    coco.dataset = workload.dataset
    coco.createIndex()
    watch.start()
    results = []
    for ids, predictions in _batches(workload, watch):
        for id_, prediction in zip(ids, predictions, strict=True):
            results += _results(id_, prediction, iou_type, coco_mask.encode)
    watch.last_batch_is_done()
    evaluation = COCOeval(coco, coco.loadRes(results), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    watch.stop()
    return evaluation.stats.tolist(), evaluation.eval


def _faster_coco_eval(workload: Workload, iou_type: str, watch: Stopwatch) -> Answer:
    from faster_coco_eval import COCO, COCOeval_faster
    from faster_coco_eval import mask as faster_mask

    coco = COCO(workload.dataset)
    watch.start()
    results = []
    for ids, predictions in _batches(workload, watch):
        for id_, prediction in zip(ids, predictions, strict=True):
            results += _results(id_, prediction, iou_type, faster_mask.encode)
    watch.last_batch_is_done()
    evaluation = COCOeval_faster(coco, coco.loadRes(results), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    watch.stop()
    return np.asarray(evaluation.stats)[: 10 if iou_type == "keypoints" else 12].tolist(), evaluation.eval


def _hotcoco(workload: Workload, iou_type: str, watch: Stopwatch) -> Answer:
    import hotcoco

    coco = hotcoco.COCO(workload.dataset)
    watch.start()
    results = []
    for ids, predictions in _batches(workload, watch):
        for id_, prediction in zip(ids, predictions, strict=True):
            results += _results(id_, prediction, iou_type, hotcoco.mask.encode)
    watch.last_batch_is_done()
    evaluation = hotcoco.COCOeval(coco, coco.load_res(results), iou_type)
    evaluation.run()
    watch.stop()
    return list(evaluation.stats), evaluation.eval


def _rows(image_id: int, prediction: dict[str, Any]) -> np.ndarray:
    """Boxes as the array ``[N, 7]`` that hotcoco reads: image, x, y, width, height, score, category."""
    boxes = prediction["boxes"].numpy()
    rows = np.empty((len(boxes), 7))
    rows[:, 0] = image_id
    rows[:, 1:3] = boxes[:, :2]
    rows[:, 3:5] = boxes[:, 2:] - boxes[:, :2]
    rows[:, 5] = prediction["scores"].numpy()
    rows[:, 6] = prediction["labels"].numpy()
    return rows


def _hotcoco_arrays(workload: Workload, iou_type: str, watch: Stopwatch) -> Answer:
    import hotcoco

    coco = hotcoco.COCO(workload.dataset)
    watch.start()
    rows = []
    for ids, predictions in _batches(workload, watch):
        rows += [_rows(id_, prediction) for id_, prediction in zip(ids, predictions, strict=True)]
    watch.last_batch_is_done()
    evaluation = hotcoco.COCOeval(coco, coco.load_res(np.concatenate(rows)), iou_type)
    evaluation.run()
    watch.stop()
    return list(evaluation.stats), evaluation.eval


def _hotcoco_streaming(workload: Workload, iou_type: str, watch: Stopwatch) -> Answer:
    import hotcoco

    truth: dict[int, list[Any]] = {id_: [] for id_ in workload.image_ids}
    for annotation in workload.dataset["annotations"]:
        truth[annotation["image_id"]].append(annotation)
    images = {image["id"]: image for image in workload.dataset["images"]}
    watch.start()
    streaming = hotcoco.StreamingEval(workload.dataset["categories"], iou_type)
    for ids, predictions in _batches(workload, watch):
        rows = [_rows(id_, prediction) for id_, prediction in zip(ids, predictions, strict=True)]
        own = [annotation for id_ in ids for annotation in truth[id_]]
        streaming.update([images[id_] for id_ in ids], own, np.concatenate(rows))
    watch.last_batch_is_done()
    evaluation = streaming.finalize()
    evaluation.accumulate()
    evaluation.summarize()
    watch.stop()
    return list(evaluation.stats), evaluation.eval


def _torchmetrics(workload: Workload, iou_type: str, watch: Stopwatch, backend: Any = "pycocotools") -> Answer:
    from torchmetrics.detection import MeanAveragePrecision

    truth: dict[int, list[Any]] = {id_: [] for id_ in workload.image_ids}
    for annotation in workload.dataset["annotations"]:
        truth[annotation["image_id"]].append(annotation)
    targets = {
        id_: _torchmetrics_target(truth[id_], image, iou_type)
        for id_, image in zip(truth, workload.dataset["images"], strict=True)
    }
    watch.start()
    metric = MeanAveragePrecision(iou_type=iou_type, backend=backend)
    for ids, predictions in _batches(workload, watch):
        if iou_type == "segm":
            predictions = [{**p, "masks": p["masks"][:, 0]} for p in predictions]
        metric.update(predictions, [targets[id_] for id_ in ids])
    watch.last_batch_is_done()
    numbers = metric.compute()
    watch.stop()
    keys = "map map_50 map_75 map_small map_medium map_large mar_1 mar_10 mar_100 mar_small mar_medium mar_large"
    return [float(numbers[key]) for key in keys.split()], {}


def _torchmetrics_target(annotations: list[Any], image: Any, iou_type: str) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    target = {
        "labels": torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64),
        "iscrowd": torch.tensor([a["iscrowd"] for a in annotations], dtype=torch.int64),
        "area": torch.tensor([a["area"] for a in annotations], dtype=torch.float64),
    }
    boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float64).reshape(-1, 4)
    target["boxes"] = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
    if iou_type == "segm":
        size = image["height"], image["width"]
        masks = [
            coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(a["segmentation"], *size))) for a in annotations
        ]
        target["masks"] = (
            torch.from_numpy(np.stack(masks)).bool() if masks else torch.zeros((0, *size), dtype=torch.bool)
        )
    return target


def _torchmetrics_faster(workload: Workload, iou_type: str, watch: Stopwatch) -> Answer:
    return _torchmetrics(workload, iou_type, watch, "faster_coco_eval")


_SYSTEMS: dict[str, tuple[Callable[[Workload, str, Stopwatch], Answer], str, tuple[str, ...]]] = {
    "CocoMetric": (_coco_metric, "pycocotools", tuple(_TYPES)),
    "pycocotools": (_pycocotools, "pycocotools", tuple(_TYPES)),
    "faster-coco-eval": (_faster_coco_eval, "faster_coco_eval", tuple(_TYPES)),
    "hotcoco": (_hotcoco, "hotcoco", tuple(_TYPES)),
    "hotcoco arrays": (_hotcoco_arrays, "hotcoco", ("boxes",)),
    "hotcoco streaming": (_hotcoco_streaming, "hotcoco", ("boxes",)),
    "torchmetrics": (_torchmetrics, "torchmetrics", ("boxes", "masks")),
    "torchmetrics faster": (_torchmetrics_faster, "torchmetrics", ("boxes", "masks")),
}


def _workload(kind: str, images: int) -> Workload:
    if kind == "boxes":
        return box_workload(images)
    if kind == "keypoints":
        return keypoint_workload(images)
    workload = mask_workload(images)
    if kind == "run-lengths":
        from pycocotools import mask as coco_mask

        for image, prediction in zip(workload.dataset["images"], workload.predictions, strict=True):
            masks = draw_masks(image, prediction)[:, 0].numpy()
            prediction["masks"] = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).view(np.uint8)))
    return workload


def measure(system: str, kind: str, images: int) -> dict[str, Any]:
    """One measurement, in this process."""
    torch.set_num_threads(1)
    workload, warm, watch = _workload(kind, images), _workload(kind, 20), Stopwatch()
    run = _SYSTEMS[system][0]
    with contextlib.redirect_stdout(io.StringIO()):
        run(warm, _TYPES[kind], watch)
        gc.collect()
        gc.freeze()  # collections look at what is made from here on, not at all of torch
        before = _restart_peak()
        numbers, arrays = run(workload, _TYPES[kind], watch)
        memory = _status("VmHWM") - before
    return {**watch.times, "memory": memory, "numbers": numbers, "arrays": _digest(arrays)}


def _digest(arrays: dict[str, Any]) -> str:
    """Equal for equal arrays; adding 0 makes the two zeros one."""
    if not arrays:
        return ""
    parts = [np.ascontiguousarray(np.asarray(arrays[name]) + 0.0) for name in ("precision", "recall", "scores")]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def _restart_peak() -> float:
    """Let the kernel forget the largest size of this process so far; its size now, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1e3


def compare(kind: str, systems: list[str], rounds: int, images: int) -> None:
    """Measure the systems by turns and print a table."""
    found: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    for _ in range(rounds):
        for system in systems:
            command = [sys.executable, __file__, "--measure", system, "--workload", kind, "--images", str(images)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{system} failed:\n{done.stderr}")
            found[system].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        system: {key: statistics.median(one[key] for one in results) for key in ("total", "end", "memory")}
        for system, results in found.items()
    }
    first = systems[0]
    numbers = found[first][0]["numbers"]
    print(f"{kind}: {images} images, {rounds} rounds, medians of CPU seconds; AP {numbers[0]:.4f}")
    print(f"{'':22}{'total':>10}{'end':>10}{'memory':>11}{'':4}times {first}'s total and end; largest difference")
    for system, own in medians.items():
        ratios = f"{own['total'] / medians[first]['total']:8.1f}{own['end'] / medians[first]['end']:9.1f}"
        apart = max(abs(a - b) for a, b in zip(found[system][0]["numbers"], numbers, strict=True))
        difference = "equal" if apart == 0 else f"{apart:.0e}"
        if apart == 0 and found[system][0]["arrays"]:
            same = found[system][0]["arrays"] == found[first][0]["arrays"]
            difference += ", arrays too" if same else ", arrays differ"
        print(f"{system:22}{own['total']:10.3f}{own['end']:10.3f}{own['memory']:8.0f} MB{ratios}   {difference}")


def _metric(workload: Workload, iou_type: str = "bbox") -> Any:
    from pycocotools.coco import COCO

    from ignite_imgtools.metrics import CocoMetric

    coco = COCO()
    coco.dataset = workload.dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return CocoMetric(coco, (iou_type,))


def updates(images: int, rounds: int) -> None:
    """Print what an update costs, and how many bytes a detection takes to gather."""
    torch.set_num_threads(1)
    workload = box_workload(images)
    metric = _metric(workload)
    targets = [{"image_id": id_} for id_ in workload.image_ids]
    for batch in (1, 8, 32):
        means, slowest = [], []
        for _ in range(rounds):
            metric.reset()
            times = []
            for start in range(0, images, batch):
                output = workload.predictions[start : start + batch], targets[start : start + batch]
                before = time.process_time()
                metric.update(output)
                times.append(time.process_time() - before)
            means.append(statistics.mean(times) * 1e3)
            slowest.append(max(times) * 1e3)
        mean, most = statistics.median(means), statistics.median(slowest)
        print(f"an update of {batch} images: {mean:.2f} ms of CPU on average, {most:.1f} ms at most")
    arrays = metric.record("bbox").to_arrays()
    size = sum(array.nbytes for array in arrays.values())
    print(f"to gather: {size / 1e6:.2f} MB, {size / len(arrays['category']):.1f} bytes for each detection")


def _gather_on_rank(local_rank: int, images: int, rounds: int) -> None:
    from ignite_imgtools.distributed import all_gather_arrays

    workload = box_workload(images)
    metric = _metric(workload)
    for id_, prediction in list(zip(workload.image_ids, workload.predictions, strict=True))[local_rank::2]:
        metric.update(([prediction], [{"image_id": id_}]))
    arrays = metric._own_record("bbox").to_arrays()
    times = []
    for _ in range(rounds):
        torch.distributed.barrier()
        start = time.perf_counter()
        all_gather_arrays(arrays)
        times.append(time.perf_counter() - start)
    if local_rank == 0:
        print(f"two gloo processes gather the state of {images} images in {statistics.median(times) * 1e3:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=_TYPES, default="boxes")
    parser.add_argument("--systems", nargs="+", choices=_SYSTEMS, help="by default all that are installed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, help="by default 5000 for boxes, 2700 for keypoints, 500 for masks")
    parser.add_argument("--updates", action="store_true", help="instead: what an update costs")
    parser.add_argument("--gather", action="store_true", help="instead: what it takes two processes to gather")
    parser.add_argument("--measure", choices=_SYSTEMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    kind, images = arguments.workload, arguments.images or _IMAGES[arguments.workload]
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, kind, images)))
    elif arguments.updates:
        updates(images, arguments.rounds)
    elif arguments.gather:
        from ignite_imgtools.distributed import launch

        launch(_gather_on_rank, arguments.images or 500, 50, nproc_per_node=2, backend="gloo")
    else:
        installed = [
            system
            for system, (_, package, kinds) in _SYSTEMS.items()
            if kind in kinds and importlib.util.find_spec(package) is not None
        ]
        compare(kind, arguments.systems or installed, arguments.rounds, images)


if __name__ == "__main__":
    main()
