"""What ``predict`` does with a model of points: pictures, and the points as json and csv."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ignite_imgtools.data.transforms import LandmarkTransform
from ignite_imgtools.engines import crop_to_image
from ignite_imgtools.handlers import draw_landmarks
from ignite_imgtools.handlers.drawing import image_to_array
from ignite_imgtools.recipes.box_files import GivenBox, read_boxes
from ignite_imgtools.recipes.prediction_files import PredictionEntries, find_images, named_images

__all__ = ["predict_landmarks"]

_logger = logging.getLogger(__name__)


def predict_landmarks(
    predict: Callable[[Tensor], Tensor],
    cut_out: LandmarkTransform,
    paths: Sequence[Path],
    output_dir: Path,
    boxes: Path | None,
) -> None:
    """Write the points of the faces in each image.

    ``output_dir`` gets ``NAME.png`` for each image; ``predictions.json``, a list with an entry ``{"file", "width",
    "height", "faces": [{"box", "points"}]}`` for each image, boxes xyxy and points ``[[x, y], ...]`` in its pixels; and
    ``points.csv``, a row for each face: the image's path, and x and y of each point.

    Args:
        predict: from crops ``[1, 3, h, w]`` to points in them, ``[1, K, 2]``.
        boxes: a file of :func:`~ignite_imgtools.recipes.box_files.read_boxes`; without it each image is the box of a
            face.

    Raises:
        DataError: ``boxes`` cannot be read; or some images could not be, the others being written.
    """
    found = find_images(paths)
    given = None if boxes is None else read_boxes(boxes, found)
    rows: list[list[Any]] = []
    with PredictionEntries(output_dir) as entries:
        try:
            for path, name, image in named_images(found):
                whole = GivenBox((0.0, 0.0, float(image.shape[2]), float(image.shape[1])))
                places = [whole.box] if given is None else [box.box for box in given[path]]
                faces = [_points(predict, cut_out, image, box) for box in places]
                pixels = image_to_array(image)
                arrays = [points.double().numpy() for points in faces]
                draw_landmarks(pixels, arrays, boxes=places if given else ()).save(output_dir / name)
                listed = [points.tolist() for points in faces]
                outcome = [{"box": list(box), "points": points} for box, points in zip(places, listed, strict=True)]
                entries.add(path, image, {"faces": outcome})
                rows += [[path, *(value for point in points for value in point)] for points in listed]
                _logger.info("%s: %d faces, drawn in %s", path, len(faces), output_dir / name)
        finally:
            _write_csv(output_dir / "points.csv", rows)


def _points(
    predict: Callable[[Tensor], Tensor], cut_out: LandmarkTransform, image: Tensor, box: Sequence[float]
) -> Tensor:
    """Points of the face in a box, float32 ``[K, 2]`` in pixels of the image, on the host."""
    crop, target = cut_out(image, {"box": torch.tensor(box), "points": torch.zeros(0, 2)})
    return crop_to_image(predict(crop[None]), target["to_image"][None])[0].cpu()


def _write_csv(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    count = (max(map(len, rows), default=1) - 1) // 2
    header = ["image_name", *(f"part_{number}_{axis}" for number in range(count) for axis in "xy")]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
