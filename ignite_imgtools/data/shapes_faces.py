"""The built-in faces: drawn heads with WFLW's 98 points, or with the 68 of iBUG, which are among them.

As in :mod:`ignite_imgtools.data.shapes`, an image is a pure function of (seed, index), the same on every platform.
A face is a mask of points in space that is bent by its expression, turned about all three axes, and drawn through its
points: they lie on what is seen, to the last sixty-fourth of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ignite_imgtools.distributed import keyed_seed

from .shapes_drawing import Random, background, coverage, hsv_to_rgb, paint, regular_polygon

__all__ = ["IBUG_OF_WFLW", "FaceImage", "create_face_image"]

IBUG_OF_WFLW = (
    *range(0, 33, 2),  # every other point of the outline
    *range(33, 38),  # upper edges of the eyebrows
    *range(42, 47),
    *range(51, 60),  # nose
    *(60, 61, 63, 64, 65, 67),  # four of the points between the corners of each eye
    *(68, 69, 71, 72, 73, 75),
    *range(76, 96),  # lips
)
"""For each of iBUG's 68 points the number of the one of WFLW's 98 that stands for it."""

_LEFT_BROW, _RIGHT_BROW = range(33, 42), range(42, 51)
_LEFT_EYE, _RIGHT_EYE = range(60, 68), range(68, 76)
_OUTER_LIPS, _INNER_LIPS = range(76, 88), range(88, 96)
_BRIDGE, _NOSTRILS, _TIP = (51, 52, 53, 54), range(55, 60), 54
# In halves of a face's width; so near to the features' that these stay inside of the outline when a face turns aside.
_OUTLINE_DEPTH = 0.45


@dataclass(frozen=True, eq=False)
class FaceImage:
    """An image, uint8 ``[H, W, 3]``, and its face.

    Args:
        points: float64 ``[98, 2]``, x and y in pixels, in WFLW's order; (0, 0) is the centre of the first pixel.
    """

    image: np.ndarray
    points: np.ndarray


@dataclass(frozen=True)
class _Expression:
    """What a face does, and how it is made; lengths are in halves of its width."""

    chin: float  # how far the chin lies below the ears
    jaw: float  # how narrow the face gets there
    eye_gap: float  # from the middle of the face to that of an eye
    opening: float  # half the height of the eyes
    brow: tuple[float, float]  # how far the eyebrows are raised
    mouth: float  # half the width of the mouth
    smile: float  # how far its corners are raised
    parted: float  # half the height of what is between the lips
    gaze: tuple[float, float]  # where the pupils are in their eyes


def create_face_image(seed: int, index: int, image_size: int = 160) -> FaceImage:
    """Draw image ``index`` of the endless set that ``seed`` names.

    Args:
        image_size: the longer side of an image measures 70 % to 100 % of it, in pixels; the sides are to each other
            as 1 to 1.5 at most.
    """
    random = Random(keyed_seed(seed, index))
    longer = image_size * random.uniform(0.7, 1.0)
    shorter = longer / random.uniform(1.0, 1.5)
    height, width = (int(shorter), int(longer)) if random.uniform() < 0.4 else (int(longer), int(shorter))
    image = background(random, height, width)
    mask, depth, skull = _mask(_expression(random))
    turn = _rotation(random)
    # Half the width of the face: so large that little of it can lie outside of the image.
    radius = random.uniform(0.24, 0.36) * min(height, width)
    x, y = (side / 2 + random.uniform(-1, 1) * max(side / 2 - 1.45 * radius, 0) for side in (width, height))

    def project(places: np.ndarray, depths: np.ndarray) -> np.ndarray:
        turned = np.concatenate((places, depths[:, None]), axis=1) @ turn.T
        # Sines differ between platforms in their last bit; on a grid of 1/64 pixel the same face is drawn.
        return np.round((turned[:, :2] * radius + (x, y)) * 64) / 64

    points = project(mask, depth)
    head = project(skull, np.full(len(skull), _OUTLINE_DEPTH))
    _draw(random, image, points, head, radius)
    # The grid of a drawing begins at the edge of the first pixel, that of points at its centre.
    return FaceImage(image, points - 0.5)


def _expression(random: Random) -> _Expression:
    raised = random.uniform(-0.04, 0.1)
    return _Expression(
        chin=random.uniform(1.2, 1.45),
        jaw=random.uniform(0.0, 0.25),
        eye_gap=random.uniform(0.4, 0.48),
        opening=random.uniform(0.02, 0.1),
        brow=(raised + random.uniform(-0.04, 0.04), raised + random.uniform(-0.04, 0.04)),
        mouth=random.uniform(0.28, 0.42),
        smile=random.uniform(-0.06, 0.14),
        parted=max(random.uniform(-0.1, 0.16), 0.0),
        gaze=(random.uniform(-0.07, 0.07), random.uniform(-0.02, 0.02)),
    )


def _mask(look: _Expression) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A face that looks straight ahead: x and y ``[98, 2]`` and the depth ``[98]`` of its points, and the outline of
    the head ``[V, 2]``; the face is 2 wide, y runs down, depth towards the viewer."""
    angles = np.pi * np.arange(33) / 32
    sines = np.sin(angles)
    outline = np.stack((-np.cos(angles) * (1 - look.jaw * sines**3), -0.12 + look.chin * sines), axis=1)
    left, right = (_brow(raised) for raised in look.brow)
    eye = _eye(look)
    pupil = np.array([[look.gaze[0], look.gaze[1] * look.opening / 0.1]])
    lifts = np.linspace(0, 0.46, 4)
    nose = np.stack((np.zeros(4), -0.2 + lifts), axis=1)
    nostrils = np.array([[-0.2, 0.37], [-0.1, 0.42], [0.0, 0.45], [0.1, 0.42], [0.2, 0.37]])
    centres = np.array([[-look.eye_gap, -0.22], [look.eye_gap, -0.22]])
    mask = np.concatenate(
        (
            outline,
            left,
            # The right one is the left one in a mirror; its points are counted from the left all the same.
            _mirrored(right)[[4, 3, 2, 1, 0, 8, 7, 6, 5]],
            nose,
            nostrils,
            eye + centres[0],
            _mirrored(eye)[[4, 3, 2, 1, 0, 7, 6, 5]] + centres[1],
            _lips(look),
            pupil + centres[0],
            pupil + centres[1],
        )
    )
    depth = 0.85 * np.sqrt(np.clip(1.25 - 0.9 * mask[:, 0] ** 2 - 0.35 * mask[:, 1] ** 2, 0.01, None))
    depth[:33] = _OUTLINE_DEPTH
    depth[list(_BRIDGE)] += 0.1 + 0.5 * lifts
    depth[list(_NOSTRILS)] += (0.08, 0.14, 0.2, 0.14, 0.08)
    arc = np.pi * np.arange(1, 16) / 16
    skull = np.stack((np.cos(arc) * 1.04, -0.12 - 1.05 * np.sin(arc)), axis=1)
    return mask, depth, np.concatenate((outline, skull))


def _mirrored(points: np.ndarray) -> np.ndarray:
    mirrored: np.ndarray = points * (-1, 1)
    return mirrored


def _brow(raised: float) -> np.ndarray:
    """The left eyebrow: its upper edge from outside to inside, and its lower edge back."""
    x = np.array([-0.82, -0.68, -0.52, -0.34, -0.17])
    upper = np.stack((x, -0.5 - raised - 0.12 * (1 - ((x + 0.5) / 0.36) ** 2)), axis=1)
    inner = x[[4, 3, 2, 1]]
    thickness = np.array([0.09, 0.1, 0.09, 0.06])
    lower = np.stack((inner, upper[[4, 3, 2, 1], 1] + thickness), axis=1)
    return np.concatenate((upper, lower))


def _eye(look: _Expression) -> np.ndarray:
    """The left eye around its middle: outer corner, upper lid, inner corner, lower lid."""
    x = np.array([-0.21, -0.11, 0.0, 0.11, 0.21])
    lid = 1 - (x / 0.21) ** 2
    upper, lower = -1.25 * look.opening * lid, 0.75 * look.opening * lid[[3, 2, 1]]
    return np.concatenate((np.stack((x, upper), axis=1), np.stack((x[[3, 2, 1]], lower), axis=1)))


def _lips(look: _Expression) -> np.ndarray:
    """Outer lips and inner lips, each from the left corner over the upper lip, and back over the lower one."""
    x = np.linspace(-1, 1, 7)
    upper = np.array([0.0, -0.09, -0.13, -0.1, -0.13, -0.09, 0.0]) - look.parted * (1 - x**2)
    lower = 0.15 * (1 - x[[5, 4, 3, 2, 1]] ** 2) + look.parted * (1 - x[[5, 4, 3, 2, 1]] ** 2)
    outer = np.concatenate((np.stack((x, upper), axis=1), np.stack((x[[5, 4, 3, 2, 1]], lower), axis=1)))
    x = np.linspace(-0.8, 0.8, 5)
    bow = 1 - (x / 0.8) ** 2
    inner = np.concatenate(
        (
            np.stack((x, -(look.parted + 0.01) * bow), axis=1),
            np.stack((x[[3, 2, 1]], (look.parted + 0.01) * bow[[3, 2, 1]]), axis=1),
        )
    )
    lips = np.concatenate((outer, inner))
    corners = lips[:, :1] ** 2
    lips = np.concatenate((lips[:, :1] * look.mouth, 0.76 + lips[:, 1:] - look.smile * corners), axis=1)
    return lips


def _rotation(random: Random) -> np.ndarray:
    """Turned aside, nodded, and tilted: a rotation ``[3, 3]`` of x, y and depth."""
    yaw, pitch, roll = (math.radians(random.uniform(-1, 1) * degrees) for degrees in (26, 14, 22))
    (cy, sy), (cp, sp), (cr, sr) = ((math.cos(angle), math.sin(angle)) for angle in (yaw, pitch, roll))
    aside = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nodded = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    tilted = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return tilted @ nodded @ aside


def _draw(random: Random, image: np.ndarray, points: np.ndarray, head: np.ndarray, radius: float) -> None:
    """Draw a face through its points, which count from the edge of the image here."""

    def fill(outline: np.ndarray, colour: np.ndarray) -> None:
        paint(random, image, coverage(outline, *image.shape[:2]), colour)

    def of(numbers: Sequence[int]) -> np.ndarray:
        return points[list(numbers)]

    skin = hsv_to_rgb(random.uniform(0.03, 0.1), random.uniform(0.25, 0.6), random.uniform(0.4, 0.95))
    hair = hsv_to_rgb(random.uniform(0.0, 0.15), random.uniform(0.1, 0.7), random.uniform(0.08, 0.6))
    lips = hsv_to_rgb(random.uniform(0.95, 1.02) % 1, random.uniform(0.45, 0.75), random.uniform(0.4, 0.8))
    iris = hsv_to_rgb(random.uniform(0.05, 0.65), random.uniform(0.3, 0.8), random.uniform(0.15, 0.5))
    middle = head.mean(axis=0)
    fill(_on_grid(middle + (head[33:] - middle) * random.uniform(1.1, 1.3)), hair)
    fill(head, skin)
    for brow in (_LEFT_BROW, _RIGHT_BROW):
        fill(of(brow), hair * 3 // 4)
    for eye, pupil in ((_LEFT_EYE, 96), (_RIGHT_EYE, 97)):
        fill(of(eye), np.array([235, 235, 230]))
        _draw_iris(fill, of(eye), points[pupil], radius, iris)
    shadow = skin * 5 // 7
    fill(of((*_NOSTRILS, _TIP)), shadow)
    side = np.array([0.035 * radius, 0.0])
    fill(_on_grid(np.concatenate((of(_BRIDGE) - side, of(_BRIDGE)[::-1] + side))), np.minimum(skin * 8 // 7, 255))
    fill(of(_OUTER_LIPS), lips)
    fill(of(_INNER_LIPS), np.array([60, 15, 20]))


def _draw_iris(
    fill: Callable[[np.ndarray, np.ndarray], None],
    eye: np.ndarray,
    pupil: np.ndarray,
    radius: float,
    colour: np.ndarray,
) -> None:
    """The iris and the pupil in it, no higher than the eye is open."""
    corners = eye[4] - eye[0]
    across = corners / max(float(np.hypot(*corners)), 1e-9)
    down = np.array([-across[1], across[0]])
    # In a frame whose x runs from corner to corner lids are functions of x.
    lids = np.stack(((eye - eye[0]) @ across, (eye - eye[0]) @ down), axis=1)
    centre = np.array([(pupil - eye[0]) @ across, (pupil - eye[0]) @ down])
    for size, shade in ((0.105, colour), (0.045, np.array([12, 12, 12]))):
        disc = regular_polygon(16) * (size * radius) + centre
        upper = np.interp(disc[:, 0], lids[:5, 0], lids[:5, 1])
        lower = np.interp(disc[:, 0], lids[[0, 7, 6, 5, 4], 0], lids[[0, 7, 6, 5, 4], 1])
        disc[:, 1] = np.clip(disc[:, 1], upper, np.maximum(lower, upper))
        fill(_on_grid(eye[0] + disc[:, :1] * across + disc[:, 1:] * down), shade)


def _on_grid(points: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.round(points * 64) / 64
    return rounded
