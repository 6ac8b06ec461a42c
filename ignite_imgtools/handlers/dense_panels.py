"""Pictures of what a dense model says of a few images, beside the image and the truth."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from PIL import Image
from torch import Tensor

from ignite_imgtools.distributed import is_main_process, keyed_seed
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.chosen_images import ChosenImages, prediction_and_truth
from ignite_imgtools.handlers.drawing import beside, image_to_array, rows_picture
from ignite_imgtools.handlers.figures import array_to_png
from ignite_imgtools.handlers.mask_drawing import (
    ClassNames,
    background_label,
    legend_picture,
    mask_overlay,
    resize_labels,
)
from ignite_imgtools.handlers.run_files import WriteGuard, write_atomically

__all__ = ["DensePanels", "attach_mask_panels", "attach_saliency_panels"]

# The image [H, W, 3], the truth and the prediction [H, W], all uint8.
_Content = tuple[np.ndarray, np.ndarray, np.ndarray]
_Reader = Callable[[Tensor], Tensor]
_Drawer = Callable[[_Content, tuple[int, int]], np.ndarray]

_WIDTH = 2000


def attach_mask_panels(
    output_dir: str | Path | None,
    evaluator: Engine,
    class_names: ClassNames = None,
    *,
    num_images: int = 8,
    height: int = 240,
) -> DensePanels:
    """Draw a few images of each evaluation: the image, the truth and the prediction over it, and what colours mean.

    Which images is a matter of their content alone, spread over the data set: the same ones in every evaluation, at
    any number of processes, batch size and order. The picture goes to ``evaluator.state.images["predictions"]``, where
    ``attach_tensorboard`` finds it, and to ``<output_dir>/plots/predictions.png``. Call it on every process.

    It needs images ``[3, H, W]`` in the batch, and in the step's output ``y_pred`` (logits ``[C, H, W]`` or
    ``[1, C, H, W]``, or labels ``[H, W]``) and ``y`` (labels ``[H, W]`` or ``[1, H, W]``, 255 for ignored).

    Args:
        output_dir: the run folder; ``None`` for no file.
        class_names: by label; where the first is "background", it is not tinted.
        num_images: how many images to draw.
        height: of each image in the picture, in pixels.

    Returns:
        An object whose ``detach()`` ends this.

    Raises:
        ValueError: ``num_images`` or ``height`` is below 1.
    """
    background = background_label(class_names)

    def draw(content: _Content, size: tuple[int, int]) -> np.ndarray:
        image, truth, found = content
        small = _resize_image(image, size)
        parts = [small]
        parts += [
            Image.fromarray(mask_overlay(np.asarray(small), resize_labels(labels, size), background))
            for labels in (truth, found)
        ]
        seen = truth != 255
        right = float((resize_labels(found, truth.shape[::-1])[seen] == truth[seen]).mean()) if seen.any() else 0.0
        title = f"predicted, {100 * right:.1f} % right"
        panel = beside(parts, ["image", "truth", title])
        shown = sorted({*np.unique(truth).tolist(), *np.unique(found).tolist()} - {background})
        if not shown:
            return panel
        legend = np.asarray(legend_picture(shown, class_names, panel.shape[1]))
        return np.concatenate([panel, legend])

    return DensePanels(output_dir, _labels, _labels, draw, num_images=num_images, height=height).attach(evaluator)


def attach_saliency_panels(
    output_dir: str | Path | None,
    evaluator: Engine,
    *,
    from_logits: bool = True,
    num_images: int = 8,
    height: int = 240,
) -> DensePanels:
    """Draw a few images of each evaluation: the image, the truth, and the map that was predicted.

    As :func:`attach_mask_panels`, with ``y_pred`` and ``y`` of ``[1, H, W]`` or ``[1, 1, H, W]``.

    Args:
        from_logits: ``y_pred`` are logits; else probabilities.

    Raises:
        ValueError: ``num_images`` or ``height`` is below 1.
    """

    def draw(content: _Content, size: tuple[int, int]) -> np.ndarray:
        image, truth, found = content
        parts = [_resize_image(np.broadcast_to(part[..., None], (*part.shape, 3)), size) for part in (truth, found)]
        error = np.abs(found.astype(np.float64) - truth).mean() / 255
        titles = ["image", "truth", f"predicted, error {error:.3f}"]
        return beside([_resize_image(image, size), *parts], titles)

    def read(values: Tensor) -> Tensor:
        return _map_to_uint8(values.sigmoid() if from_logits else values)

    return DensePanels(output_dir, read, _map_to_uint8, draw, num_images=num_images, height=height).attach(evaluator)


class DensePanels:
    """What :func:`attach_mask_panels` and :func:`attach_saliency_panels` return: ``detach()`` ends the drawing.

    Args:
        read_prediction: from an entry of ``y_pred`` to uint8 ``[H, W]``.
        read_truth: from an entry of ``y`` to uint8 ``[H, W]``.
        draw: the picture of an image, its truth and prediction, given the width and height of each part.

    The other arguments are those of :func:`attach_mask_panels`.
    """

    def __init__(
        self,
        output_dir: str | Path | None,
        read_prediction: _Reader,
        read_truth: _Reader,
        draw: _Drawer,
        *,
        num_images: int,
        height: int,
    ):
        for name, value in (("num_images", num_images), ("height", height)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._path = None if output_dir is None else Path(output_dir) / "plots" / "predictions.png"
        self._read_prediction, self._read_truth, self._draw_parts = read_prediction, read_truth, draw
        self._height = height
        self._guard = WriteGuard(f"{self._path}")
        self._attachments = Attachments()
        self._chosen: ChosenImages[_Content] = ChosenImages(num_images)

    def attach(self, evaluator: Engine) -> DensePanels:
        """Draw the evaluations of ``evaluator``; to others it may be attached as well."""
        self._attachments.add(evaluator, Events.EPOCH_STARTED, self._chosen.clear)
        self._attachments.add(evaluator, Events.ITERATION_COMPLETED, self._collect)
        self._attachments.add(evaluator, Events.EPOCH_COMPLETED, self._publish)
        return self

    def detach(self) -> None:
        """Stop drawing."""
        self._attachments.detach()

    def _collect(self, evaluator: Engine) -> None:
        state: Any = evaluator.state
        images = state.batch[0]
        for image, prediction, target in zip(images, *prediction_and_truth(state.output), strict=True):
            # Dense targets carry no id, so an image is known by its pixels.
            pixels = image.detach().cpu().contiguous().numpy()
            key = keyed_seed(0, zlib.crc32(pixels))
            if self._chosen.wants(key):
                found, truth = self._read_prediction(prediction), self._read_truth(target)
                self._chosen.add(key, key, (image_to_array(image), truth.cpu().numpy(), found.cpu().numpy()))

    def _publish(self, evaluator: Engine) -> None:
        pictures = self._chosen.gather(self._draw)
        if not pictures or not is_main_process():
            return
        picture = rows_picture(pictures, width=_WIDTH)
        state: Any = evaluator.state
        state.images = {**getattr(state, "images", {}), "predictions": picture}
        if self._path is not None and not self._guard.off:
            with self._guard:
                write_atomically(self._path, array_to_png(picture))

    def _draw(self, content: _Content) -> np.ndarray:
        height, width = content[0].shape[:2]
        # A very wide image is made lower instead, so that three of them fit side by side.
        scale = min(self._height / height, 2.5 * self._height / width)
        return self._draw_parts(content, (max(1, round(width * scale)), max(1, round(height * scale))))


def _labels(values: Tensor) -> Tensor:
    """Labels uint8 ``[H, W]`` of logits or labels."""
    if values.is_floating_point():
        values = values.reshape(values.shape[-3:]).argmax(dim=0)
    return values.reshape(values.shape[-2:]).to(torch.uint8)


def _map_to_uint8(values: Tensor) -> Tensor:
    return values.reshape(values.shape[-2:]).float().mul(255).round().clamp(0, 255).to(torch.uint8)


def _resize_image(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(image))
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)
