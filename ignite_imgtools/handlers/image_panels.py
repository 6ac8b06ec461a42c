"""Pictures of what a detector finds, beside what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torchvision.ops import box_iou

from ignite_imgtools.distributed import is_main_process, keyed_seed
from ignite_imgtools.formats import DataError
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.chosen_images import ChosenImages, prediction_and_truth
from ignite_imgtools.handlers.drawing import (
    beside,
    image_to_array,
    prediction_picture,
    rows_picture,
    truth_picture,
)
from ignite_imgtools.handlers.figures import array_to_png
from ignite_imgtools.handlers.run_files import WriteGuard, write_atomically

__all__ = ["BestImagePanels", "ImagePanels", "WorstImagePanels", "count_missed"]

_MOST_MISSED = 1000
_OF_PREDICTIONS, _OF_TARGETS = ("boxes", "labels", "scores"), ("image_id", "boxes", "labels")
_DRAWN = ("boxes", "labels", "scores", "iscrowd", "masks", "keypoints")

# Image id, image, prediction, target.
_Content = tuple[int, np.ndarray, dict[str, Any], dict[str, Any]]


class ImagePanels:
    """Draws a few images of each evaluation twice: with the predictions, and with the truth.

    Which images is a matter of their ids alone, spread over the data set: the same ones in every evaluation, at any
    number of processes, batch size and order. The picture goes to ``evaluator.state.images["predictions"]``, where
    ``attach_tensorboard`` finds it, and to ``<output_dir>/plots/predictions.png``. Attach it on every process.

    It needs detection batches and an evaluation step's output with ``y_pred`` and ``y``, as a dict or a pair: for each
    image ``boxes``, ``labels`` and ``scores``, and ``image_id``, ``boxes`` and ``labels``; else ``DataError``.

    Args:
        output_dir: the run folder; ``None`` for no file.
        class_names: by label, so that a list begins with the background.
        num_images: how many images to draw.
        score_threshold: predictions less sure than this are not drawn.
        height: of each image in the picture, in pixels.

    Raises:
        ValueError: ``num_images`` or ``height`` is below 1.
    """

    name = "predictions"

    def __init__(
        self,
        output_dir: str | Path | None = None,
        class_names: Sequence[str] | Mapping[int, str] | None = None,
        num_images: int = 8,
        score_threshold: float = 0.5,
        *,
        height: int = 300,
    ):
        for name, value in (("num_images", num_images), ("height", height)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._path = None if output_dir is None else Path(output_dir) / "plots" / f"{self.name}.png"
        self._class_names = class_names
        self._score_threshold = score_threshold
        self._height = height
        self._guard = WriteGuard(f"{self._path}")
        self._attachments = Attachments()
        self._chosen: ChosenImages[_Content] = ChosenImages(num_images)

    def attach(self, evaluator: Engine) -> ImagePanels:
        """Draw the evaluations of ``evaluator``; to others it may be attached as well."""
        self._attachments.add(evaluator, Events.EPOCH_STARTED, self._forget)
        self._attachments.add(evaluator, Events.ITERATION_COMPLETED, self._collect)
        self._attachments.add(evaluator, Events.EPOCH_COMPLETED, self._publish)
        return self

    def detach(self) -> None:
        """Stop drawing."""
        self._attachments.detach()

    def _forget(self) -> None:
        self._chosen.clear()

    def _collect(self, evaluator: Engine) -> None:
        state: Any = evaluator.state
        images = state.batch[0]
        for image, prediction, target in zip(images, *prediction_and_truth(state.output), strict=True):
            for name, value, needed in (("prediction", prediction, _OF_PREDICTIONS), ("target", target, _OF_TARGETS)):
                if missing := [key for key in needed if key not in value]:
                    raise DataError(f"to draw it, a {name} needs {missing[0]!r}, got only {sorted(value)}")
            image_id = int(target["image_id"])
            key = self._key(image_id, prediction, target)
            if self._chosen.wants(key):
                content = (image_id, image_to_array(image), self._surest(prediction), _on_host(target))
                self._chosen.add(key, image_id, content)

    def _key(self, image_id: int, prediction: Mapping[str, Any], target: Mapping[str, Any]) -> int:
        """A number from 0 below 2**63; the images of the smallest ones are drawn."""
        return keyed_seed(0, image_id)

    def _publish(self, evaluator: Engine) -> None:
        pictures = self._chosen.gather(self._draw)
        if not pictures or not is_main_process():
            return
        picture = rows_picture(pictures)
        state: Any = evaluator.state
        state.images = {**getattr(state, "images", {}), self.name: picture}
        if self._path is not None and not self._guard.off:
            with self._guard:
                write_atomically(self._path, array_to_png(picture))

    def _surest(self, prediction: Mapping[str, Any]) -> dict[str, Any]:
        """What is sure enough to be drawn, or else the surest alone: the masks of the others would fill the memory."""
        scores = prediction["scores"]
        rows = (scores >= self._score_threshold).nonzero()[:, 0]
        if not len(rows) and len(scores):
            rows = scores.argmax()[None]
        return _on_host({key: value[rows] for key, value in prediction.items() if key in _DRAWN})

    def _draw(self, content: _Content) -> np.ndarray:
        image_id, image, prediction, target = content
        height, width = image.shape[:2]
        # A very wide image is made lower instead, so that two of them fit side by side.
        scale = min(self._height / height, 2.5 * self._height / width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        found = prediction_picture(
            image, prediction, self._class_names, score_threshold=self._score_threshold, size=size
        )
        best = max(prediction["scores"].tolist(), default=None)
        title = f"predicted, score {self._score_threshold:g} or more"
        if best is None:
            title = "nothing predicted"
        elif best < self._score_threshold:
            title = f"predicted: best score {best:.2f}"
        truth = truth_picture(image, target, self._class_names, size=size)
        return beside([found, truth], [title, self._truth_title(image_id, prediction, target)])

    def _truth_title(self, image_id: int, prediction: Mapping[str, Any], target: Mapping[str, Any]) -> str:
        return f"truth, image {image_id}"


class WorstImagePanels(ImagePanels):
    """Draws the images of each evaluation in which most objects were missed: ``plots/worst.png``, ``images["worst"]``.

    As :class:`ImagePanels` otherwise. Of images with equally many, which are drawn is a matter of their ids alone.
    Each prediction is looked at on the host.
    """

    name = "worst"

    def _key(self, image_id: int, prediction: Mapping[str, Any], target: Mapping[str, Any]) -> int:
        missed = min(count_missed(prediction, target, self._score_threshold), _MOST_MISSED)
        return ((_MOST_MISSED - missed) << 40) + (keyed_seed(0, image_id) >> 23)

    def _truth_title(self, image_id: int, prediction: Mapping[str, Any], target: Mapping[str, Any]) -> str:
        missed = count_missed(prediction, target, self._score_threshold)
        return f"truth, image {image_id}: {missed} missed"


class BestImagePanels(ImagePanels):
    """Draws the images of each evaluation in which no objects were missed, or the fewest: ``plots/best.png``,
    ``images["best"]``.

    As :class:`ImagePanels` otherwise. Of images with equally many missed those with more objects are drawn, of those
    which is a matter of their ids alone. Each prediction is looked at on the host.
    """

    name = "best"

    def _key(self, image_id: int, prediction: Mapping[str, Any], target: Mapping[str, Any]) -> int:
        missed = min(count_missed(prediction, target, self._score_threshold), _MOST_MISSED)
        objects = min(len(target["labels"]), _MOST_MISSED)
        return (missed << 50) + ((_MOST_MISSED - objects) << 40) + (keyed_seed(0, image_id) >> 23)


def count_missed(
    prediction: Mapping[str, Any], target: Mapping[str, Any], score_threshold: float = 0.5, iou_threshold: float = 0.5
) -> int:
    """How many objects of an image no prediction of their class overlaps; crowds do not count.

    Args:
        prediction: ``boxes`` ``[N, 4]`` xyxy, ``labels`` ``[N]``, ``scores`` ``[N]``.
        target: ``boxes`` ``[M, 4]`` xyxy, ``labels`` ``[M]``, optionally ``iscrowd`` ``[M]``.
        score_threshold: predictions less sure than this find nothing.
        iou_threshold: the overlap needed.
    """
    prediction, target = (
        _on_host({key: value for key, value in values.items() if key not in ("masks", "keypoints")})
        for values in (prediction, target)
    )
    sure = prediction["scores"] >= score_threshold
    boxes, labels = prediction["boxes"][sure].float(), prediction["labels"][sure]
    objects = torch.ones(len(target["labels"]), dtype=torch.bool)
    if "iscrowd" in target:
        objects = ~target["iscrowd"].bool()
    overlap = box_iou(target["boxes"][objects].as_subclass(Tensor).float(), boxes)
    found = (overlap >= iou_threshold) & (target["labels"][objects][:, None] == labels)
    return int(objects.sum()) - int(found.any(dim=1).sum())


def _on_host(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.detach().cpu() if isinstance(value, Tensor) else value
        for key, value in values.items()
        if key in _DRAWN
    }
