"""Pictures of what a classifier takes images for, and of those it takes for something else with most confidence."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from PIL import Image

from ignite_imgtools.distributed import is_main_process, keyed_seed
from ignite_imgtools.handlers.attachments import Attachments
from ignite_imgtools.handlers.chosen_images import ChosenImages, prediction_and_truth
from ignite_imgtools.handlers.drawing import beside, class_name, image_to_array, rows_picture
from ignite_imgtools.handlers.figures import array_to_png
from ignite_imgtools.handlers.run_files import WriteGuard, write_atomically

__all__ = ["ClassPanels"]

# The image [H, W, 3], the true class, the predicted one, and the probabilities of both.
_Content = tuple[np.ndarray, int, int, float, float]

_WIDTH = 1640
# Probabilities in whole numbers, above which the key of an image has 32 bits of its pixels.
_ONE = 2**30


class ClassPanels:
    """Draws two panels of images in each evaluation: some of all, and those that were misclassified most confidently.

    Above each image stands what it was taken for, with its probability, and where that is wrong, what it is. The
    panels are ``predictions`` and ``misclassified`` in ``evaluator.state.images``, where ``attach_tensorboard`` finds
    them, and ``<output_dir>/plots/{predictions,misclassified}.png``. The images of the first one are a matter of their
    content alone: the same ones in every evaluation. Both are the same at any number of processes, batch size and
    order. Attach it on every process.

    It needs images ``[3, H, W]`` in the batch, and in the step's output ``y_pred`` (logits ``[B, C]``) and ``y``
    (labels ``[B]``).

    Args:
        output_dir: the run folder; ``None`` for no files.
        class_names: by label.
        num_images: how many images each panel has.
        height: of each image in the picture, in pixels.

    Raises:
        ValueError: ``num_images`` or ``height`` is below 1.
    """

    def __init__(
        self,
        output_dir: str | Path | None = None,
        class_names: Sequence[str] | Mapping[int, str] | None = None,
        *,
        num_images: int = 24,
        height: int = 180,
    ):
        for name, value in (("num_images", num_images), ("height", height)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._folder = None if output_dir is None else Path(output_dir) / "plots"
        self._class_names, self._height = class_names, height
        self._guard = WriteGuard(f"pictures in {self._folder}")
        self._attachments = Attachments()
        self._some: ChosenImages[_Content] = ChosenImages(num_images)
        self._wrong: ChosenImages[_Content] = ChosenImages(num_images)

    def attach(self, evaluator: Engine) -> ClassPanels:
        """Draw the evaluations of ``evaluator``; to others it may be attached as well."""
        self._attachments.add(evaluator, Events.EPOCH_STARTED, self._forget)
        self._attachments.add(evaluator, Events.ITERATION_COMPLETED, self._collect)
        self._attachments.add(evaluator, Events.EPOCH_COMPLETED, self._publish)
        return self

    def detach(self) -> None:
        """Stop drawing."""
        self._attachments.detach()

    def _forget(self) -> None:
        self._some.clear()
        self._wrong.clear()

    def _collect(self, evaluator: Engine) -> None:
        state: Any = evaluator.state
        images = state.batch[0]
        if not len(images):
            return
        y_pred, y = prediction_and_truth(state.output)
        # One transfer for all images of the batch.
        all_probs = y_pred.detach().float().softmax(dim=1).cpu().numpy()
        for image, probs, label in zip(images, all_probs, y.tolist(), strict=True):
            # Images carry no id, so one is known by its pixels.
            pixels = zlib.crc32(image.detach().cpu().contiguous().numpy())
            found = int(probs.argmax())
            confidence = float(np.nan_to_num(probs[found]))
            content = (image, label, found, confidence, float(probs[label]))
            self._offer(self._some, keyed_seed(0, pixels), content)
            if found != label:
                self._offer(self._wrong, (round((1 - confidence) * _ONE) << 32) | pixels, content)

    @staticmethod
    def _offer(chosen: ChosenImages[_Content], key: int, content: tuple[Any, int, int, float, float]) -> None:
        if chosen.wants(key):
            chosen.add(key, key, (image_to_array(content[0]), *content[1:]))

    def _publish(self, evaluator: Engine) -> None:
        for name, chosen in (("predictions", self._some), ("misclassified", self._wrong)):
            pictures = chosen.gather(self._draw)
            if is_main_process():
                self._show(evaluator, name, pictures)

    def _show(self, evaluator: Engine, name: str, pictures: list[np.ndarray]) -> None:
        if not pictures:
            # Else the images of an earlier evaluation would stay.
            text = "nothing was misclassified" if name == "misclassified" else "there were no images"
            pictures = [beside([Image.new("RGB", (320, 40), "white")], [text])]
        picture = rows_picture(pictures, width=_WIDTH)
        state: Any = evaluator.state
        state.images = {**getattr(state, "images", {}), name: picture}
        if self._folder is not None and not self._guard.off:
            with self._guard:
                write_atomically(self._folder / f"{name}.png", array_to_png(picture))

    def _draw(self, content: _Content) -> np.ndarray:
        image, label, found, confidence, of_truth = content
        height, width = image.shape[:2]
        scale = min(self._height / height, 2.5 * self._height / width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = Image.fromarray(image)
        picture = picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)
        name, truth = (class_name(number, self._class_names) for number in (found, label))
        if found == label:
            return beside([picture], [f"{confidence:.2f} {name}"])
        # Two lines of text: the strip above a picture of one line, and the picture with its own.
        above = beside([Image.new("RGB", (size[0], 1))], [f"truth {of_truth:.2f} {truth}"])
        return np.concatenate([above[:-1], beside([picture], [f"found {confidence:.2f} {name}"])])
