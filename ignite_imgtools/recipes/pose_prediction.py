"""What ``predict`` does with a model of persons' keypoints: pictures, and one json file of all poses."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor

from ignite_imgtools.data import collate_person_images
from ignite_imgtools.formats import DataError
from ignite_imgtools.handlers import draw_skeletons
from ignite_imgtools.handlers.drawing import image_to_array
from ignite_imgtools.recipes.config import ConfigError
from ignite_imgtools.recipes.pose_run import KeypointSet
from ignite_imgtools.recipes.prediction_files import PredictionEntries, named_images

__all__ = ["predict_poses"]

_logger = logging.getLogger(__name__)

# Boxes xyxy, and the score of each.
_Boxes = list[tuple[list[float], float]]


def predict_poses(
    step: Callable[[Engine, Any], dict[str, Any]],
    transform: Callable[[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]],
    paths: Sequence[Path],
    output_dir: Path,
    keypoints: KeypointSet,
    *,
    detections: Path | None = None,
    boxes: Sequence[float] = (),
    score_threshold: float = 0.5,
    joint_threshold: float = 0.2,
) -> None:
    """Draw the poses of the persons in each image, and write all of them to ``predictions.json``.

    ``output_dir`` gets ``NAME.png`` for each image (``NAME-2.png`` for a second one of that name) and
    ``predictions.json``: a list with an entry ``{"file", "width", "height", "persons": [{"score", "box", "box_score",
    "keypoints": {NAME: [x, y, score]}}]}`` for each image, in pixels, ``box`` being xyxy, best score first.

    Where persons are is said by ``detections``, or by ``boxes``; else there is one, as large as the image.

    Args:
        step: of an evaluation, as of :func:`~ignite_imgtools.engines.pose_evaluation_step`.
        transform: cuts a person out.
        detections: a file that ``predict`` of a detector wrote, whose images are found by their names; or COCO
            results, whose ``image_id`` are the numbers that the images' files are named by.
        boxes: four numbers for each person, xyxy in pixels, of every image.
        score_threshold: detections of a lower score are left out.
        joint_threshold: joints of a lower score are not drawn.

    Raises:
        DataError: an image or ``detections`` cannot be read; what was predicted before is kept.
        ConfigError: both ``detections`` and ``boxes`` are given, or these are no boxes.
    """
    boxes_of = _box_source(detections, boxes, keypoints, score_threshold)
    engine = Engine(step)
    with PredictionEntries(output_dir) as entries:
        for path, name, image in named_images(paths):
            found = _poses(step, engine, transform, image, boxes_of(path, image), len(keypoints))
            picture = draw_skeletons(
                image_to_array(image),
                found["keypoints"].numpy(),
                keypoints.skeleton,
                keypoints.names,
                shown=(found["keypoints"][..., 2] >= joint_threshold).numpy(),
                boxes_xyxy=found["boxes"].numpy(),
            )
            picture.save(output_dir / name)
            entries.add(path, image, {"persons": _entry(found, keypoints.names)})
            _logger.info("%s: %d persons, drawn in %s", path, len(found["scores"]), output_dir / name)


def _poses(
    step: Callable[[Engine, Any], dict[str, Any]],
    engine: Engine,
    transform: Callable[[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]],
    image: Tensor,
    boxes: _Boxes,
    count: int,
) -> dict[str, Tensor]:
    """Keypoints, boxes, scores and box scores of the persons of an image, the best score first."""
    height, width = image.shape[-2:]
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    crops, persons = [], []
    for number, (box, score) in enumerate(boxes):
        inside = torch.tensor(box, dtype=torch.float32).clamp(min=0).minimum(limits)
        if not bool((inside[2:] > inside[:2]).all()):
            continue
        # The label tells after the suppression whose box it was.
        person = {"box": inside, "keypoints": torch.zeros(count, 3), "score": score, "label": number}
        crop, target = transform(image, person)
        crops.append(crop)
        persons.append(target)
    batch = collate_person_images([(crops, {"image_id": 0, "persons": persons})])
    (found,) = step(engine, batch)["y_pred"]
    found = {key: value.cpu() for key, value in found.items()}
    if not crops:
        found["keypoints"] = torch.zeros(0, count, 3)
    found["box_scores"] = torch.tensor([score for _, score in boxes] or [0.0])[found["labels"]]
    order = found["scores"].argsort(descending=True, stable=True)
    return {key: value[order] for key, value in found.items()}


def _entry(found: dict[str, Tensor], names: Sequence[str]) -> list[dict[str, Any]]:
    columns = (found[key].tolist() for key in ("scores", "boxes", "box_scores", "keypoints"))
    return [
        {"score": score, "box": box, "box_score": box_score, "keypoints": dict(zip(names, points, strict=True))}
        for score, box, box_score, points in zip(*columns, strict=True)
    ]


def _box_source(
    detections: Path | None, boxes: Sequence[float], keypoints: KeypointSet, score_threshold: float
) -> Callable[[Path, Tensor], _Boxes]:
    if detections is not None and boxes:
        raise ConfigError("--detections and --boxes both say where persons are; give one of them")
    if detections is not None:
        known = _read_boxes(detections, keypoints, score_threshold)
        return lambda path, image: _boxes_of(known, path)
    if boxes:
        fours = [list(map(float, boxes[start : start + 4])) for start in range(0, len(boxes), 4)]
        if len(fours[-1]) < 4 or any(not (x1 < x2 and y1 < y2) for x1, y1, x2, y2 in fours):
            shown = " ".join(f"{number:g}" for number in boxes)
            raise ConfigError(f"--boxes must be x1 y1 x2 y2 of each person, x1 below x2 and y1 below y2, got {shown}")
        return lambda path, image: [(box, 1.0) for box in fours]
    return lambda path, image: [([0.0, 0.0, float(image.shape[2]), float(image.shape[1])], 1.0)]


def _read_boxes(file: Path, keypoints: KeypointSet, score_threshold: float) -> dict[str | int, _Boxes]:
    """Boxes by the name of an image's file, or by its id."""
    expected = "a json list of COCO results, or what predict of a detector writes"
    try:
        rows = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: expected {expected}, got {error}; correct the path, or write it anew") from error
    if not isinstance(rows, list):
        raise DataError(f"{file}: expected {expected}, got a {type(rows).__name__}; write it anew")
    known: dict[str | int, _Boxes] = {}
    for number, row in enumerate(rows):
        try:
            if "detections" in row:
                found = [entry for entry in row["detections"] if entry["name"] == keypoints.category]
                held = known.setdefault(Path(row["file"]).name, [])
                held += [([float(v) for v in entry["box"]], float(entry["score"])) for entry in found]
            elif row["category_id"] == keypoints.category_id:
                x, y, width, height = (float(value) for value in row["bbox"])
                known.setdefault(int(row["image_id"]), []).append(([x, y, x + width, y + height], float(row["score"])))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file}: entry {number}: expected {expected}; it lacks or garbles {error}") from error
    return {key: [pair for pair in pairs if pair[1] >= score_threshold] for key, pairs in known.items()}


def _boxes_of(known: dict[str | int, _Boxes], path: Path) -> _Boxes:
    found = known.get(path.name)
    if found is None and path.stem.isdecimal():
        found = known.get(int(path.stem))
    return found or []
