"""Pictures of poses: skeletons as they were found beside the truth, and heat-maps over persons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from PIL import Image
from torch import Tensor

from ignite_imgtools.distributed import is_main_process, keyed_seed
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.chosen_images import ChosenImages
from ignite_imgtools.handlers.drawing import beside, image_to_array, rows_picture
from ignite_imgtools.handlers.figures import array_to_png
from ignite_imgtools.handlers.pose_drawing import draw_skeletons, heatmap_overlay
from ignite_imgtools.handlers.run_files import WriteGuard, write_atomically

__all__ = ["PosePanels"]

# Image id and what was found in it; image id and the crop of its first person.
_Found = tuple[int, dict[str, np.ndarray]]
_Crop = tuple[int, Tensor]


class PosePanels:
    """Draws a few images of each evaluation, with the skeletons that were found and with the truth, and persons of
    other images under their heat-maps.

    Which images is a matter of their ids alone: the same ones in every evaluation, at any number of processes, batch
    size and order. The pictures are ``predictions`` and ``heatmaps`` in ``evaluator.state.images``, where
    ``attach_tensorboard`` finds them, and ``<output_dir>/plots/{predictions,heatmaps}.png``. Attach it on every
    process.

    It needs batches of crops and an output as those of ``engines.pose_evaluation_step``. Hidden joints of the truth
    are rings.

    Args:
        output_dir: the run folder; ``None`` for no files.
        read: called with an image id, gives the image, ``[3, H, W]``, and the annotated keypoints of its persons,
            ``[n, K, 3]``, as ``data.PersonImages.annotated`` does.
        heatmaps_of: from crops ``[n, 3, h, w]`` to heat-maps ``[n, K, h', w']``; ``None`` for no such picture.
        skeleton: pairs of keypoints, counted from 1, to draw lines between.
        names: of the keypoints.
        num_images: how many images to draw.
        score_threshold: persons of a lower score are not drawn, but for the best.
        joint_threshold: nor are joints whose heat-map is lower.
        height: of each image in the picture, in pixels.

    Raises:
        ValueError: ``num_images`` or ``height`` is below 1.
    """

    def __init__(
        self,
        output_dir: str | Path | None,
        read: Callable[[int], tuple[Tensor, Tensor]],
        heatmaps_of: Callable[[Tensor], Tensor] | None = None,
        *,
        skeleton: Sequence[Sequence[int]] = (),
        names: Sequence[str] = (),
        num_images: int = 8,
        score_threshold: float = 0.2,
        joint_threshold: float = 0.2,
        height: int = 300,
    ):
        for name, value in (("num_images", num_images), ("height", height)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._folder = None if output_dir is None else Path(output_dir) / "plots"
        self._read, self._heatmaps_of = read, heatmaps_of
        self._skeleton, self._names, self._height = skeleton, names, height
        self._score_threshold, self._joint_threshold = score_threshold, joint_threshold
        self._guard = WriteGuard(f"pictures in {self._folder}")
        self._attachments = Attachments()
        self._found: ChosenImages[_Found] = ChosenImages(num_images)
        self._crops: ChosenImages[_Crop] = ChosenImages(2 * num_images)

    def attach(self, evaluator: Engine) -> PosePanels:
        """Draw the evaluations of ``evaluator``; to others it may be attached as well."""
        self._attachments.add(evaluator, Events.EPOCH_STARTED, self._forget)
        self._attachments.add(evaluator, Events.ITERATION_COMPLETED, self._collect)
        self._attachments.add(evaluator, Events.EPOCH_COMPLETED, self._publish)
        return self

    def detach(self) -> None:
        """Stop drawing."""
        self._attachments.detach()

    def _forget(self) -> None:
        self._found.clear()
        self._crops.clear()

    def _collect(self, evaluator: Engine) -> None:
        state: Any = evaluator.state
        crops, first = state.batch[0], 0
        for prediction, target in zip(state.output["y_pred"], state.output["y"], strict=True):
            image_id, count = int(target["image_id"]), len(target["scores"])
            # Nothing is to be seen where no person is.
            if count:
                key = keyed_seed(0, image_id)
                if self._found.wants(key):
                    self._found.add(key, image_id, (image_id, _on_host(prediction)))
                if self._heatmaps_of is not None and self._crops.wants(key):
                    self._crops.add(key, image_id, (image_id, crops[first].clone()))
            first += count

    def _publish(self, evaluator: Engine) -> None:
        self._show(evaluator, "predictions", self._found.gather(self._draw_found))
        if self._heatmaps_of is not None:
            self._show(evaluator, "heatmaps", self._crops.gather(self._draw_heatmaps))

    def _show(self, evaluator: Engine, name: str, pictures: list[np.ndarray]) -> None:
        if not pictures or not is_main_process():
            return
        picture = rows_picture(pictures)
        state: Any = evaluator.state
        state.images = {**getattr(state, "images", {}), name: picture}
        if self._folder is not None and not self._guard.off:
            with self._guard:
                write_atomically(self._folder / f"{name}.png", array_to_png(picture))

    def _draw_found(self, content: _Found) -> np.ndarray:
        image_id, found = content
        read, truth = self._read(image_id)
        image = image_to_array(read)
        height, width = image.shape[:2]
        scale = min(self._height / height, 2.5 * self._height / width)
        options: dict[str, Any] = {"size": (max(1, round(width * scale)), max(1, round(height * scale)))}
        scores = found["scores"]
        sure = scores >= min(self._score_threshold, scores.max(initial=0.0))
        keypoints, boxes = found["keypoints"][sure], found["boxes"][sure]
        shown = keypoints[..., 2] >= self._joint_threshold
        drawn = draw_skeletons(image, keypoints, self._skeleton, self._names, shown=shown, boxes_xyxy=boxes, **options)
        flags = truth.cpu().numpy()[..., 2]
        beside_it = draw_skeletons(
            image, truth.cpu().numpy(), self._skeleton, self._names, shown=flags > 0, hollow=flags == 1, **options
        )
        title = f"predicted, best score {scores.max():.2f}" if len(scores) else "nothing predicted"
        return beside([drawn, beside_it], [title, f"truth, image {image_id}"])

    def _draw_heatmaps(self, content: _Crop) -> np.ndarray:
        image_id, crop = content
        assert self._heatmaps_of is not None
        heatmaps = self._heatmaps_of(crop[None])[0].float().cpu().numpy()
        pixels = image_to_array(crop)
        scale = self._height / pixels.shape[0]
        size = (max(1, round(pixels.shape[1] * scale)), self._height)
        overlay = heatmap_overlay(pixels, heatmaps, self._names)
        pictures = [part.resize(size, Image.Resampling.BICUBIC) for part in (Image.fromarray(pixels), overlay)]
        return beside(pictures, [f"image {image_id}", f"heat-maps up to {heatmaps.max():.2f}"])


def _on_host(prediction: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {key: prediction[key].detach().float().cpu().numpy() for key in ("keypoints", "scores", "boxes")}
