"""Transforms of an image together with its detection target: what a detector is trained and evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ignite_imgtools.data.transforms.keypoints import checked_permutation, join_keypoints, split_keypoints

__all__ = ["DetectionTransform", "detection_eval", "detection_train"]

_PER_OBJECT = ("boxes", "labels", "area", "iscrowd", "masks", "keypoints")

# Mean colour of ImageNet in 0..255: what detectors subtract, so that padding is nothing to them.
_FILL = (124, 116, 104)


class DetectionTransform:
    """Transforms of torchvision v2, applied to all of a detection target.

    Beyond what they do by themselves: keypoints follow too, and a mirrored person's left hand becomes the right one;
    areas change as the boxes' areas do (exact where an image is scaled, a guess where an object is cut); objects that
    are no more than a sliver afterwards are removed from all fields of the target. Images of uint8 stay uint8.

    Args:
        transforms: called one after the other as ``transform(image, target)``.
        hflip: probability of mirroring, after the transforms.
        keypoint_flip: number of each keypoint's counterpart in the mirror, see
            :func:`~ignite_imgtools.data.transforms.flip_permutation`; needed to mirror targets that have keypoints.
        min_box_size: smallest width and height of a box that is kept, in pixels.

    Raises:
        ValueError: ``hflip`` is not a probability, ``keypoint_flip`` does not exchange pairs, or ``min_box_size`` is
            negative.
    """

    def __init__(
        self,
        transforms: Sequence[Callable[..., Any]] = (),
        *,
        hflip: float = 0.0,
        keypoint_flip: Sequence[int] | None = None,
        min_box_size: float = 1.0,
    ):
        if not 0 <= hflip <= 1:
            raise ValueError(f"hflip must be a probability from 0 to 1, got {hflip}")
        if min_box_size < 0:
            raise ValueError(f"min_box_size must be 0 or more, got {min_box_size}")
        self.transforms = tuple(transforms)
        self.hflip, self.min_box_size = hflip, min_box_size
        self.keypoint_flip = None if keypoint_flip is None else checked_permutation(keypoint_flip)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({list(self.transforms)}, hflip={self.hflip}, keypoint_flip={self.keypoint_flip}, "
            f"min_box_size={self.min_box_size})"
        )

    def __call__(self, image: Any, target: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Transform an image and its target, which are left as they are.

        Args:
            image: tensor ``[3, H, W]`` or PIL image.
            target: see :class:`~ignite_imgtools.formats.DetectionTarget`; plain tensors will do.

        Returns:
            The image as tv_tensors.Image, and its target.

        Raises:
            ValueError: the target has keypoints, the image may be mirrored, and ``keypoint_flip`` does not fit.
        """
        image, changed = _with_tv_tensors(image, target)
        visibility = None
        if "keypoints" in changed:
            self._check_keypoints(changed["keypoints"])
            changed["keypoints"], visibility = split_keypoints(changed["keypoints"], _canvas_size(image))

        if self.transforms:
            extents = _box_areas(changed)
            for transform in self.transforms:
                image, changed = transform(image, changed)
            if "area" in changed:
                changed["area"] = changed["area"] * (_box_areas(changed) / extents.clamp(min=1e-6))
        if self.hflip and torch.rand(()) < self.hflip:
            image, changed = _mirror(image, changed)
            if visibility is not None:
                order = list(self.keypoint_flip or ())
                changed["keypoints"], visibility = changed["keypoints"][:, order], visibility[:, order]

        if visibility is not None:
            changed["keypoints"] = join_keypoints(changed["keypoints"], visibility, _canvas_size(image))
        return image, self._without_slivers(changed)

    def _check_keypoints(self, keypoints: Tensor) -> None:
        count = keypoints.shape[1]
        if self.hflip and (self.keypoint_flip is None or len(self.keypoint_flip) != count):
            raise ValueError(
                f"mirroring targets with {count} keypoints needs keypoint_flip, {count} numbers, got "
                f"{self.keypoint_flip}: take flip_permutation(names of the keypoints), or hflip=0"
            )

    def _without_slivers(self, target: dict[str, Any]) -> dict[str, Any]:
        # Arithmetic of NumPy, here and below: for a few boxes an operation of torch costs five times as much, and a
        # function of v2 as much as all of it.
        boxes = target["boxes"]
        height, width = boxes.canvas_size
        corners = boxes.numpy(force=True)
        clipped = np.clip(corners, 0, np.array((width, height, width, height), corners.dtype))
        sides = clipped[:, 2:] - clipped[:, :2]
        slivers = (sides <= 0) | (sides < self.min_box_size)
        target["boxes"] = _boxes_like(boxes, clipped)
        if slivers.any():
            kept = torch.from_numpy(~slivers.any(axis=1)).to(boxes.device)
            for key in _PER_OBJECT:
                if key in target:
                    value = target[key]
                    rest = value.as_subclass(Tensor)[kept]
                    is_tv_tensor = isinstance(value, tv_tensors.TVTensor)
                    target[key] = tv_tensors.wrap(rest, like=value) if is_tv_tensor else rest
        return target


def detection_train(
    hflip: float = 0.5,
    *,
    photometric: bool = False,
    iou_crop: bool = False,
    jitter_size: tuple[int, int] | None = None,
    jitter_range: tuple[float, float] = (0.1, 2.0),
    keypoint_flip: Sequence[int] | None = None,
) -> DetectionTransform:
    """Augmentation to train a detector with.

    Args:
        hflip: probability of mirroring.
        photometric: whether to change brightness, contrast, saturation, hue and the order of the channels at random.
        iou_crop: whether to crop as SSD does, by the overlap of the crop with the objects.
        jitter_size: ``(height, width)`` in pixels to crop or pad all images to, after they were scaled at random so
            that they fit into ``jitter_range`` times that size ("large-scale jitter", arXiv:2012.07177).
        jitter_range: smallest and largest scale.
        keypoint_flip: see :class:`DetectionTransform`.
    """
    transforms: list[Callable[..., Any]] = []
    if photometric:
        transforms.append(v2.RandomPhotometricDistort())
    if iou_crop:
        transforms.append(_IoUCrop())
    if jitter_size is not None:
        fill = {tv_tensors.Image: _FILL, "others": 0}
        transforms.append(v2.ScaleJitter(jitter_size, jitter_range))
        transforms.append(v2.RandomCrop(jitter_size, pad_if_needed=True, fill=fill))
    return DetectionTransform(transforms, hflip=hflip, keypoint_flip=keypoint_flip)


class _IoUCrop:
    """``v2.RandomIoUCrop``; but images that are too small to cut, where it divides by zero, stay as they are."""

    def __init__(self) -> None:
        self.crop = v2.RandomIoUCrop()

    def __repr__(self) -> str:
        return repr(self.crop)

    def __call__(self, image: Tensor, target: dict[str, Any]) -> Any:
        return self.crop(image, target) if min(image.shape[-2:]) >= 4 else (image, target)


def detection_eval() -> DetectionTransform:
    """What a detector is evaluated on: images as they are, as tensors, with all objects whose box is not empty."""
    return DetectionTransform(min_box_size=0)


def _with_tv_tensors(image: Any, target: Mapping[str, Any]) -> tuple[tv_tensors.Image, dict[str, Any]]:
    # v2 passes by what it does not recognise: plain boxes would stay where they are while the image is mirrored.
    image = image if type(image) is tv_tensors.Image else F.to_image(image)
    changed = dict(target)
    boxes = changed["boxes"]
    if not isinstance(boxes, tv_tensors.BoundingBoxes):
        boxes = tv_tensors.BoundingBoxes(
            boxes.reshape(-1, 4), format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=_canvas_size(image)
        )
    elif boxes.format != tv_tensors.BoundingBoxFormat.XYXY:
        boxes = F.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
    changed["boxes"] = boxes
    if "masks" in changed:
        changed["masks"] = tv_tensors.Mask(changed["masks"])
    return image, changed


def _canvas_size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _box_areas(target: dict[str, Any]) -> Tensor:
    boxes = target["boxes"].as_subclass(Tensor)
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _mirror(image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    mirrored = {
        key: F.horizontal_flip(value) if isinstance(value, tv_tensors.Mask | tv_tensors.KeyPoints) else value
        for key, value in target.items()
    }
    boxes = target["boxes"]
    corners = boxes.numpy(force=True)
    turned = corners.copy()
    turned[:, 0], turned[:, 2] = boxes.canvas_size[1] - corners[:, 2], boxes.canvas_size[1] - corners[:, 0]
    mirrored["boxes"] = _boxes_like(boxes, turned)
    return tv_tensors.wrap(image.as_subclass(Tensor).flip(-1), like=image), mirrored


def _boxes_like(boxes: tv_tensors.BoundingBoxes, corners: np.ndarray) -> tv_tensors.BoundingBoxes:
    return tv_tensors.wrap(torch.from_numpy(corners).to(boxes.device), like=boxes)
