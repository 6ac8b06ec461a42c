"""What ``predict`` does with a detector: pictures, and one json file of all detections."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ignite_imgtools.data import read_image
from ignite_imgtools.formats import DataError, images_to_device
from ignite_imgtools.handlers import prediction_picture
from ignite_imgtools.handlers.drawing import image_to_array
from ignite_imgtools.progress import waiting

_logger = logging.getLogger(__name__)

__all__ = ["find_images", "predict_images"]

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The image files among ``paths`` and, by their endings, in those that are folders.

    Raises:
        DataError: there is nothing at one of the paths, or no image in a folder.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder; correct the path")
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _ENDINGS) if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path}: no image in this folder; expected files ending in {' '.join(sorted(_ENDINGS))}")
        found += files
    return found


def predict_images(
    model: nn.Module, paths: Sequence[Path], output_dir: Path, class_names: Sequence[str], score_threshold: float
) -> None:
    """Draw the detections of ``model`` on each image, and write all of them to ``predictions.json``.

    ``output_dir`` gets ``NAME.png`` for each image (``NAME-2.png`` for a second one of that name) and
    ``predictions.json``: a list with an entry ``{"file", "width", "height", "detections": [{"label", "name", "score",
    "box"}]}`` for each image, where ``box`` is xyxy in pixels, best score first.

    Raises:
        DataError: an image cannot be read; what was predicted before is kept.
    """
    model.eval()
    device = next(model.parameters()).device
    images = find_images(paths)
    output_dir.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    names: dict[str, int] = {}
    try:
        for path in waiting("predicting", images):
            image = read_image(path)
            with torch.inference_mode():
                (prediction,) = model(images_to_device([image], device))
            kept = {key: value[prediction["scores"] >= score_threshold].cpu() for key, value in prediction.items()}
            number = names[path.stem] = names.get(path.stem, 0) + 1
            target = output_dir / (f"{path.stem}.png" if number == 1 else f"{path.stem}-{number}.png")
            picture = prediction_picture(image_to_array(image), kept, class_names, score_threshold=score_threshold)
            picture.save(target)
            entries.append(_entry(path, image, kept, class_names))
            _logger.info("%s: %d found, drawn in %s", path, len(kept["scores"]), target)
    finally:
        (output_dir / "predictions.json").write_text(json.dumps(entries, indent=1) + "\n")


def _entry(
    path: Path, image: torch.Tensor, kept: dict[str, torch.Tensor], class_names: Sequence[str]
) -> dict[str, Any]:
    columns = zip(kept["labels"].tolist(), kept["scores"].tolist(), kept["boxes"].tolist(), strict=True)
    detections = [
        {"label": label, "name": class_names[label], "score": score, "box": box} for label, score, box in columns
    ]
    return {"file": str(path), "width": image.shape[2], "height": image.shape[1], "detections": detections}
