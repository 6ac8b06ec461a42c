"""Keypoints ``[N, K, 3]`` on their way through transforms that know ``[N, K, 2]`` alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import tv_tensors

__all__ = ["checked_permutation", "flip_permutation", "join_keypoints", "split_keypoints"]

_SIDES = {"left": "right", "right": "left"}


def flip_permutation(names: Sequence[str]) -> tuple[int, ...]:
    """Which keypoint takes the place of each when an image is mirrored: a left ear then is a right ear.

    Args:
        names: of the keypoints in order; words of a name are separated by ``_``, a space or ``-``.

    Returns:
        For each keypoint the number of its counterpart, its own where it has none.

    Raises:
        ValueError: a keypoint of one side has no counterpart on the other.

    >>> flip_permutation(["nose", "left_eye", "right_eye"])
    (0, 2, 1)
    """
    words = [tuple(name.lower().replace("-", "_").replace(" ", "_").split("_")) for name in names]
    numbers = {name: number for number, name in enumerate(words)}
    permutation = []
    for name, text in zip(words, names, strict=True):
        mirrored = tuple(_SIDES.get(word, word) for word in name)
        if mirrored not in numbers:
            raise ValueError(f"keypoint {text!r} has no counterpart {'_'.join(mirrored)!r} among {list(names)}")
        permutation.append(numbers[mirrored])
    return checked_permutation(permutation)


def checked_permutation(permutation: Sequence[int]) -> tuple[int, ...]:
    """``permutation``, certain to hold each of its numbers once and to be undone by itself."""
    numbers = tuple(int(number) for number in permutation)
    if sorted(numbers) != list(range(len(numbers))) or any(numbers[n] != i for i, n in enumerate(numbers)):
        raise ValueError(f"keypoint_flip must exchange keypoints in pairs, got {list(permutation)}")
    return numbers


def split_keypoints(keypoints: Tensor, canvas_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Places of keypoints ``[N, K, 3]`` as tv_tensors.KeyPoints ``[N, K, 2]``, and their visibility ``[N, K]``."""
    if not hasattr(tv_tensors, "KeyPoints"):
        raise ImportError("transforms of keypoints need torchvision 0.23 or newer")
    places = tv_tensors.KeyPoints(keypoints[..., :2].contiguous(), canvas_size=canvas_size)
    return places, keypoints[..., 2].clone()


def join_keypoints(places: Tensor, visibility: Tensor, canvas_size: tuple[int, int]) -> Tensor:
    """Keypoints ``[N, K, 3]`` again. What lies outside the image counts as not annotated: all three numbers 0."""
    height, width = canvas_size
    x, y = places.as_subclass(Tensor).unbind(-1)
    # Places are of pixels: -1 and the width are the first ones outside.
    seen = (visibility > 0) & (x > -1) & (x < width) & (y > -1) & (y < height)
    return torch.stack((x, y, visibility), dim=-1) * seen[..., None]
