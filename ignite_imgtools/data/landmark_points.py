"""The points of faces as WFLW and iBUG number them: which is which in the mirror."""

from __future__ import annotations

from collections.abc import Iterable

from .transforms.keypoints import checked_permutation

__all__ = ["FACE_FLIPS", "face_flip_permutation"]

# Pairs of points on both sides of the face, counted from 0; those that are in no pair lie on its axis.
_IBUG_68 = (
    *((i, 16 - i) for i in range(8)),  # the outline from ear to ear, over the chin, 8
    *((17 + i, 26 - i) for i in range(5)),  # eyebrows
    *((31, 35), (32, 34)),  # below the nose
    *((36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),  # eyes
    *((48, 54), (49, 53), (50, 52), (55, 59), (56, 58)),  # outer lips
    *((60, 64), (61, 63), (65, 67)),  # inner lips
)
_WFLW_98 = (
    *((i, 32 - i) for i in range(16)),  # the outline from ear to ear, over the chin, 16
    *((33, 46), (34, 45), (35, 44), (36, 43), (37, 42)),  # upper edges of the eyebrows
    *((38, 50), (39, 49), (40, 48), (41, 47)),  # lower edges
    *((55, 59), (56, 58)),  # below the nose
    *((60, 72), (61, 71), (62, 70), (63, 69), (64, 68), (65, 75), (66, 74), (67, 73)),  # eyes
    *((76, 82), (77, 81), (78, 80), (83, 87), (84, 86)),  # outer lips
    *((88, 92), (89, 91), (93, 95)),  # inner lips
    (96, 97),  # pupils
)


def _permutation(count: int, pairs: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    order = list(range(count))
    for one, other in pairs:
        order[one], order[other] = other, one
    return checked_permutation(order)


FACE_FLIPS = {68: _permutation(68, _IBUG_68), 98: _permutation(98, _WFLW_98)}
"""By the number of points, for each point the number of the one that takes its place in a mirrored image."""


def face_flip_permutation(num_points: int) -> tuple[int, ...]:
    """Which point takes the place of each when an image is mirrored: the corner of the left eye then is that of the
    right one.

    Args:
        num_points: 98 (WFLW) or 68 (iBUG, 300W).

    Raises:
        ValueError: the points of no other number are known.
    """
    if num_points not in FACE_FLIPS:
        known = " or ".join(map(str, FACE_FLIPS))
        raise ValueError(f"the mirrored order is known of {known} points, got {num_points}: give a permutation")
    return FACE_FLIPS[num_points]
