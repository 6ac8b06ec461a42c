"""Mosaics of four images as samples to train a detector with."""

from __future__ import annotations

from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.transforms.v2 import functional as F

from ignite_imgtools.formats import DataError

from .faults import OnBadSample
from .subsets import class_names
from .transforms.affine import AffineRange, BoxAffine, paste

__all__ = ["MosaicDataset"]

_GREY = (114, 114, 114)


class MosaicDataset(Dataset[tuple[Any, dict[str, Any]]]):
    """Sample ``i`` shows image ``i`` beside three others, which are drawn: four parts around a point.

    Each image is scaled so that its longer side measures ``size``; the four meet in a point that is drawn from the
    middle half of a canvas twice as large. A window of ``size`` by ``size`` is cut from its middle, turned, scaled,
    sheared and moved as ``affine`` says.

    Everything is drawn from torch's generator, which :func:`~ignite_imgtools.data.create_loader` seeds by (seed,
    epoch, index) before each sample: so a mosaic does not depend on workers, or on where a run was resumed.

    Args:
        dataset: gives ``(image uint8 [3, H, W], target)``, boxes as tv_tensors or plain tensors.
        size: side of the samples in pixels.
        affine: by default nothing is turned, scaled, sheared or moved.
        transforms: of the mosaic, called as ``transforms(image, target)``.
        min_visible: least share of an object that must be seen.
        on_bad_sample: ``"skip"``: a drawn image that cannot be read leaves its part grey; when its own turn comes, its
            error is raised all the same, for the loader to count.

    Raises:
        ValueError: ``size`` is below 2, or the data set is empty.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        size: int,
        *,
        affine: AffineRange | None = None,
        transforms: Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]] | None = None,
        min_visible: float = 0.1,
        on_bad_sample: OnBadSample = "raise",
    ):
        if size < 2:
            raise ValueError(f"size must be at least 2 pixels, got {size}")
        if not len(cast(Sized, dataset)):
            raise ValueError("a mosaic needs at least one image, the data set has none")
        self.dataset, self.size = dataset, size
        self.affine = BoxAffine(affine or AffineRange(), size=(size, size), min_visible=min_visible, fill=_GREY)
        self.transforms = transforms
        self.on_bad_sample = on_bad_sample

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        """The mosaic, uint8 ``[3, size, size]``, and its target, with the ``image_id`` of image ``index``.

        Raises:
            DataError: an image is bad.
        """
        drawn = torch.randint(len(self), (3,)).tolist()
        x, y = (torch.randint(self.size // 2, self.size + self.size // 2 + 1, (2,))).tolist()
        samples = [self.dataset[index], *(self._partner(partner) for partner in drawn)]
        image, target = self._assemble(samples, x, y)
        image, target = self.affine(image, target)
        return (image, target) if self.transforms is None else self.transforms(image, target)

    def image_size(self, index: int) -> tuple[int, int]:
        """``(height, width)`` of a sample: the same of all."""
        return self.size, self.size

    def image_path(self, index: int) -> Path:
        """Path of the image that sample ``index`` shows first."""
        dataset: Any = self.dataset
        while isinstance(dataset, Subset):
            dataset, index = dataset.dataset, dataset.indices[index]
        path: Path = dataset.image_path(index)
        return path

    @property
    def class_names(self) -> list[str]:
        """Name of each label, of the data set inside."""
        return class_names(self.dataset)

    def _partner(self, index: int) -> tuple[Any, dict[str, Any]] | None:
        try:
            sample: tuple[Any, dict[str, Any]] = self.dataset[index]
            return sample
        except (DataError, OSError):
            if self.on_bad_sample == "raise":
                raise
            return None

    def _assemble(self, samples: list[Any], x: int, y: int) -> tuple[Tensor, dict[str, Any]]:
        """The four images around the point (x, y) of the canvas; boxes may reach out of it."""
        canvas = torch.tensor(_GREY, dtype=torch.uint8).view(3, 1, 1).repeat(1, 2 * self.size, 2 * self.size)
        parts: list[dict[str, Tensor]] = []
        for place, sample in enumerate(samples):
            if sample is None:
                continue
            image, target = sample
            small = _scale(image.as_subclass(Tensor), self.size)
            height, width = small.shape[1:]
            left, top = (x - width, x)[place % 2], (y - height, y)[place // 2]
            paste(canvas, small, top, left)
            parts.append(_moved(target, width / image.shape[2], height / image.shape[1], left, top))
        joined: dict[str, Any] = dict(samples[0][1])
        for key in parts[0]:
            joined[key] = torch.cat([part[key] for part in parts])
        return canvas, joined


def _scale(image: Tensor, size: int) -> Tensor:
    height, width = image.shape[1:]
    scale = size / max(height, width)
    wanted = [max(1, int(height * scale)), max(1, int(width * scale))]
    return image if wanted == [height, width] else F.resize(image, wanted, antialias=True)


def _moved(target: dict[str, Any], scale_x: float, scale_y: float, left: int, top: int) -> dict[str, Tensor]:
    """What a target says of its objects, on the canvas."""
    for key in ("masks", "keypoints"):
        if key in target:
            raise ValueError(f"a mosaic has no {key}: open the data without them")
    boxes = target["boxes"].as_subclass(Tensor)
    moved: dict[str, Tensor] = {key: target[key] for key in ("labels", "iscrowd") if key in target}
    moved["boxes"] = boxes * boxes.new_tensor([scale_x, scale_y] * 2) + boxes.new_tensor([left, top] * 2)
    if "area" in target:
        moved["area"] = target["area"] * (scale_x * scale_y)
    return moved
