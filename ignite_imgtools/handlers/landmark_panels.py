"""Pictures of where a model of points sees those of faces, beside the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from ignite_imgtools.distributed import is_main_process, keyed_seed
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.chosen_images import ChosenImages
from ignite_imgtools.handlers.drawing import beside, image_to_array, rows_picture
from ignite_imgtools.handlers.figures import array_to_png
from ignite_imgtools.handlers.landmark_drawing import TRUTH, draw_landmarks
from ignite_imgtools.handlers.run_files import WriteGuard, write_atomically
from ignite_imgtools.metrics.landmarks import Normaliser, normalised_errors

__all__ = ["LandmarkPanels"]

# The id, the crop [H, W, 3], the predicted and the true points in it [K, 2], and the error.
_Content = tuple[int, np.ndarray, np.ndarray, np.ndarray, float]

# Errors in whole numbers, above which the key of a face has bits of its id; none is counted above the largest.
_ONE, _LARGEST = 2**20, 2.0**8


class LandmarkPanels:
    """Draws two panels of faces in each evaluation: some of all, and those with the largest errors.

    Each face is drawn twice: with its predicted points, from which thin lines lead to the true ones, and with the true
    ones. The panels are ``predictions`` and ``worst`` in ``evaluator.state.images``, where ``attach_tensorboard`` finds
    them, and ``<output_dir>/plots/{predictions,worst}.png``. Which faces the first one has is a matter of their ids
    alone. Both are the same at any number of processes, batch size and order. Attach it on every process.

    It needs crops in the batch, and the output of a :func:`~ignite_imgtools.engines.landmark_evaluation_step`.

    Args:
        output_dir: the run folder; ``None`` for no files.
        normaliser: of the errors that are shown, as of :class:`~ignite_imgtools.metrics.LandmarkMetric`.
        num_images: how many faces each panel has.
        height: of each crop in the picture, in pixels.

    Raises:
        ValueError: ``num_images`` or ``height`` is below 1.
    """

    def __init__(
        self,
        output_dir: str | Path | None = None,
        normaliser: Normaliser = "inter_ocular",
        *,
        num_images: int = 12,
        height: int = 260,
    ):
        for name, value in (("num_images", num_images), ("height", height)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._folder = None if output_dir is None else Path(output_dir) / "plots"
        self._normaliser: Normaliser = normaliser
        self._height = height
        self._guard = WriteGuard(f"pictures in {self._folder}")
        self._attachments = Attachments()
        self._panels: dict[str, ChosenImages[_Content]] = {
            name: ChosenImages(num_images) for name in ("predictions", "worst")
        }

    def attach(self, evaluator: Engine) -> LandmarkPanels:
        """Draw the evaluations of ``evaluator``; to others it may be attached as well."""
        self._attachments.add(evaluator, Events.EPOCH_STARTED, self._forget)
        self._attachments.add(evaluator, Events.ITERATION_COMPLETED, self._collect)
        self._attachments.add(evaluator, Events.EPOCH_COMPLETED, self._publish)
        return self

    def detach(self) -> None:
        """Stop drawing."""
        self._attachments.detach()

    def _forget(self) -> None:
        for chosen in self._panels.values():
            chosen.clear()

    def _collect(self, evaluator: Engine) -> None:
        state: Any = evaluator.state
        images, output = state.batch[0], state.output
        if not len(images):
            return
        y: Mapping[str, Any] = output["y"]
        found, truth, in_crop, true_in_crop = (
            points.detach().double().cpu().numpy()
            for points in (output["y_pred"], y["points"], output["crop_points"], y["crop_points"])
        )
        boxes = y["boxes"].double().cpu().numpy() if "boxes" in y else None
        errors = normalised_errors(found, truth, self._normaliser, boxes).tolist()
        for i, (image_id, error) in enumerate(zip(y["image_id"], errors, strict=True)):
            # A face of no length counts as found.
            known = 0.0 if math.isnan(error) else min(error, _LARGEST)
            by_id = keyed_seed(0, image_id)
            keys = {"predictions": by_id, "worst": (round((_LARGEST - known) * _ONE) << 32) + (by_id >> 31)}
            for name, key in keys.items():
                if self._panels[name].wants(key):
                    order = key if name == "worst" else image_id
                    content = (image_id, image_to_array(images[i]), in_crop[i], true_in_crop[i], error)
                    self._panels[name].add(key, order, content)

    def _publish(self, evaluator: Engine) -> None:
        for name, chosen in self._panels.items():
            pictures = chosen.gather(self._draw)
            if pictures and is_main_process():
                self._show(evaluator, name, rows_picture(pictures))

    def _show(self, evaluator: Engine, name: str, picture: np.ndarray) -> None:
        state: Any = evaluator.state
        state.images = {**getattr(state, "images", {}), name: picture}
        if self._folder is not None and not self._guard.off:
            with self._guard:
                write_atomically(self._folder / f"{name}.png", array_to_png(picture))

    def _draw(self, content: _Content) -> np.ndarray:
        image_id, image, found, truth, error = content
        height, width = image.shape[:2]
        scale = min(self._height / height, 2.5 * self._height / width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        parts = [
            draw_landmarks(image, [found], truth=[truth], size=size),
            draw_landmarks(image, [truth], color=TRUTH, size=size),
        ]
        return beside(parts, [f"predicted, error {error:.3f}", f"truth, face {image_id}"])
