"""What ``predict`` does with a model of persons' keypoints: pictures, and one json file of all poses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from torch import Tensor

from ignite_imgtools.data import collate_person_images
from ignite_imgtools.handlers import draw_skeletons
from ignite_imgtools.handlers.drawing import image_to_array
from ignite_imgtools.recipes.box_files import GivenBox, read_boxes
from ignite_imgtools.recipes.pose_run import KeypointSet
from ignite_imgtools.recipes.prediction_files import PredictionEntries, find_images, named_images

__all__ = ["predict_poses"]

_logger = logging.getLogger(__name__)


def predict_poses(
    step: Callable[[Engine, Any], dict[str, Any]],
    transform: Callable[[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]],
    paths: Sequence[Path],
    output_dir: Path,
    keypoints: KeypointSet,
    *,
    boxes: Path | None = None,
    score_threshold: float = 0.5,
    joint_threshold: float = 0.2,
) -> None:
    """Draw the poses of the persons in each image, and write all of them to ``predictions.json``.

    ``output_dir`` gets ``NAME.png`` for each image (``NAME-2.png`` for a second one of that name) and
    ``predictions.json``: a list with an entry ``{"file", "width", "height", "persons": [{"score", "box", "box_score",
    "keypoints": {NAME: [x, y, score]}}]}`` for each image, in pixels, ``box`` being xyxy, best score first.

    Args:
        step: of an evaluation, as of :func:`~ignite_imgtools.engines.pose_evaluation_step`.
        transform: cuts a person out.
        boxes: a file of :func:`~ignite_imgtools.recipes.box_files.read_boxes`; without it each image is the box of a
            person.
        score_threshold: boxes of a lower score are left out.
        joint_threshold: joints of a lower score are not drawn.

    Raises:
        DataError: ``boxes`` cannot be read; or some images could not be, the others being written.
    """
    images = find_images(paths)
    given = None if boxes is None else _given_boxes(boxes, images, keypoints, score_threshold)
    engine = Engine(step)
    with PredictionEntries(output_dir) as entries:
        for path, name, image in named_images(images):
            whole = GivenBox((0.0, 0.0, float(image.shape[2]), float(image.shape[1])))
            found = _poses(step, engine, transform, image, [whole] if given is None else given[path], len(keypoints))
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
    boxes: Sequence[GivenBox],
    count: int,
) -> dict[str, Tensor]:
    """Keypoints, boxes, scores and box scores of the persons of an image, the best score first."""
    height, width = image.shape[-2:]
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    crops, persons = [], []
    for number, given in enumerate(boxes):
        inside = torch.tensor(given.box, dtype=torch.float32).clamp(min=0).minimum(limits)
        if not bool((inside[2:] > inside[:2]).all()):
            continue
        # The label tells after the suppression whose box it was.
        person = {"box": inside, "keypoints": torch.zeros(count, 3), "score": given.score, "label": number}
        crop, target = transform(image, person)
        crops.append(crop)
        persons.append(target)
    batch = collate_person_images([(crops, {"image_id": 0, "persons": persons})])
    (found,) = step(engine, batch)["y_pred"]
    found = {key: value.cpu() for key, value in found.items()}
    if not crops:
        found["keypoints"] = torch.zeros(0, count, 3)
    found["box_scores"] = torch.tensor([given.score for given in boxes] or [0.0])[found["labels"]]
    order = found["scores"].argsort(descending=True, stable=True)
    return {key: value[order] for key, value in found.items()}


def _entry(found: dict[str, Tensor], names: Sequence[str]) -> list[dict[str, Any]]:
    columns = (found[key].tolist() for key in ("scores", "boxes", "box_scores", "keypoints"))
    return [
        {"score": score, "box": box, "box_score": box_score, "keypoints": dict(zip(names, points, strict=True))}
        for score, box, box_score, points in zip(*columns, strict=True)
    ]


def _given_boxes(
    file: Path, images: Sequence[Path], keypoints: KeypointSet, score_threshold: float
) -> dict[Path, list[GivenBox]]:
    """The boxes of persons, those of other categories and of low scores left out."""

    def counts(box: GivenBox) -> bool:
        of_persons = box.name in (None, keypoints.category) and box.category_id in (None, keypoints.category_id)
        return of_persons and box.score >= score_threshold

    return {path: [box for box in boxes if counts(box)] for path, boxes in read_boxes(file, images).items()}
