"""What ``predict`` does with a detector: pictures, and one json file of all detections."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ignite_imgtools.formats import images_to_device
from ignite_imgtools.handlers import prediction_picture
from ignite_imgtools.handlers.drawing import image_to_array
from ignite_imgtools.recipes.prediction_files import PredictionEntries, named_images

__all__ = ["predict_images"]

_logger = logging.getLogger(__name__)


def predict_images(
    model: nn.Module, paths: Sequence[Path], output_dir: Path, class_names: Sequence[str], score_threshold: float
) -> None:
    """Draw the detections of ``model`` on each image, and write all of them to ``predictions.json``.

    ``output_dir`` gets ``NAME.png`` for each image (``NAME-2.png`` for a second one of that name) and
    ``predictions.json``: a list with an entry ``{"file", "width", "height", "detections": [{"label", "name", "score",
    "box"}]}`` for each image, where ``box`` is xyxy in pixels, best score first.

    Raises:
        DataError: some images could not be read; the others are written.
    """
    model.eval()
    device = next(model.parameters()).device
    with PredictionEntries(output_dir) as entries:
        for path, name, image in named_images(paths):
            with torch.inference_mode():
                (prediction,) = model(images_to_device([image], device))
            kept = {key: value[prediction["scores"] >= score_threshold].cpu() for key, value in prediction.items()}
            picture = prediction_picture(image_to_array(image), kept, class_names, score_threshold=score_threshold)
            picture.save(output_dir / name)
            entries.add(path, image, {"detections": _detections(kept, class_names)})
            _logger.info("%s: %d found, drawn in %s", path, len(kept["scores"]), output_dir / name)


def _detections(kept: dict[str, torch.Tensor], class_names: Sequence[str]) -> list[dict[str, Any]]:
    columns = zip(kept["labels"].tolist(), kept["scores"].tolist(), kept["boxes"].tolist(), strict=True)
    return [{"label": label, "name": class_names[label], "score": score, "box": box} for label, score, box in columns]
