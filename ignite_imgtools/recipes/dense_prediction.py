"""What ``predict`` does with a dense model: masks, maps and pictures in the sizes of the images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ignite_imgtools.handlers import cut_out, mask_overlay, palette_image
from ignite_imgtools.handlers.drawing import image_to_array
from ignite_imgtools.handlers.mask_drawing import background_label, legend_picture
from ignite_imgtools.recipes.prediction_files import PredictionEntries, named_images

__all__ = ["predict_maps", "predict_masks"]

_logger = logging.getLogger(__name__)

Predict = Callable[[Tensor], Tensor]


def predict_masks(predict: Predict, paths: Sequence[Path], output_dir: Path, class_names: Sequence[str]) -> None:
    """Write the class of each pixel of each image.

    ``output_dir`` gets ``masks/NAME.png``, an indexed picture whose pixels are the classes, ``overlays/NAME.png``, the
    image tinted by class above a legend, both in the size of the image (``NAME-2.png`` for a second image of that
    name), and ``predictions.json``: a list with an entry ``{"file", "width", "height", "mask", "overlay", "classes"}``
    for each image, where ``classes`` has the share of the pixels of each class that was found.

    Args:
        predict: from an image uint8 ``[3, H, W]`` to logits ``[1, C, H, W]``.

    Raises:
        DataError: some images could not be read; the others are written.
    """
    background = background_label(class_names)
    with PredictionEntries(output_dir, "masks", "overlays") as entries:
        for path, name, image in named_images(paths):
            labels = predict(image)[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
            pixels = image_to_array(image)
            palette_image(labels, background).save(output_dir / "masks" / name)
            overlay = mask_overlay(pixels, labels, background)
            found, counts = np.unique(labels, return_counts=True)
            shown = [label for label in found.tolist() if label != background]
            legend = np.asarray(legend_picture(shown, class_names, overlay.shape[1]))
            Image.fromarray(np.concatenate([overlay, legend])).save(output_dir / "overlays" / name)
            shares = {class_names[i]: n / labels.size for i, n in zip(found.tolist(), counts.tolist(), strict=True)}
            entries.add(path, image, {"mask": f"masks/{name}", "overlay": f"overlays/{name}", "classes": shares})
            _logger.info("%s: %s, written to %s", path, ", ".join(shares), output_dir / "masks" / name)


def predict_maps(predict: Predict, paths: Sequence[Path], output_dir: Path) -> None:
    """Write how salient each pixel of each image is.

    ``output_dir`` gets ``maps/NAME.png``, grey of 8 bits, 255 for what is salient, ``cutouts/NAME.png``, the image
    with the map as its transparency, both in the size of the image, and ``predictions.json``: a list with an entry
    ``{"file", "width", "height", "map", "cutout"}`` for each image.

    Args:
        predict: from an image uint8 ``[3, H, W]`` to logits ``[1, 1, H, W]``.

    Raises:
        DataError: some images could not be read; the others are written.
    """
    with PredictionEntries(output_dir, "maps", "cutouts") as entries:
        for path, name, image in named_images(paths):
            saliency = predict(image)[0, 0].sigmoid().mul(255).round().to(torch.uint8).cpu().numpy()
            Image.fromarray(saliency).save(output_dir / "maps" / name)
            cut_out(image_to_array(image), saliency).save(output_dir / "cutouts" / name)
            entries.add(path, image, {"map": f"maps/{name}", "cutout": f"cutouts/{name}"})
            _logger.info("%s: written to %s", path, output_dir / "maps" / name)
