"""The built-in people: figures with COCO's 17 keypoints, in any pose, seen from the front or from behind.

As in :mod:`ignite_imgtools.data.shapes`, an image is a pure function of (seed, index), the same on every platform.
What is annotated is the visible part of a figure: its pixels, the box that just holds them, and its keypoints. Their
visibility is 2; or 1 where something covers them: another figure, a board, the figure's own arm or trunk, or its head
when it is seen from behind; or 0 (with x = y = 0) where they lie outside of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ignite_imgtools.distributed import keyed_seed

from .shapes import MIN_VISIBLE, ShapeObject, ShapesImage
from .shapes_drawing import Random, background, coverage, hsv_to_rgb, paint, regular_polygon

__all__ = ["PERSON_KEYPOINTS", "PERSON_SKELETON", "create_people_image"]

PERSON_KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
)
"""COCO's names, in COCO's order. A person's left is at the right of an image that shows it from the front."""
PERSON_SKELETON = (
    *((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9), (8, 10), (9, 11)),
    *((2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7)),
)
"""Lines between keypoints, counted from 1."""

# Parts of a body; a joint is seen where the uppermost part is one that it belongs to.
_HEAD, _TRUNK, _UPPER_ARM, _FOREARM, _THIGH, _SHIN = range(6)
_JOINT_PARTS = (
    *[{_HEAD}] * 5,
    *[{_TRUNK, _UPPER_ARM}] * 2,
    *[{_UPPER_ARM, _FOREARM}] * 2,
    *[{_FOREARM}] * 2,
    *[{_TRUNK, _THIGH}] * 2,
    *[{_THIGH, _SHIN}] * 2,
    *[{_SHIN}] * 2,
)
# Of each limb: part, joints at its ends for the left side, half its width there, in heights of a figure.
_LIMBS = (
    (_THIGH, 11, 13, 0.045, 0.036),
    (_SHIN, 13, 15, 0.036, 0.026),
    (_UPPER_ARM, 5, 7, 0.033, 0.028),
    (_FOREARM, 7, 9, 0.028, 0.021),
)
_HEAD_RADIUS = 0.075
_FEWEST_INSIDE = 11  # joints of a figure that must lie in the image
_PARTS = 16  # an owner's number is that of its item times this, plus that of its part and side
_CROWD_CHANCE, _BOARD_CHANCE, _BACK_CHANCE = 0.08, 0.25, 0.2


@dataclass(frozen=True, eq=False)
class _Body:
    """A figure to be drawn: places of its joints, ``[17, 2]`` (x, y) in pixels, and whether it shows its face."""

    joints: np.ndarray
    head: np.ndarray
    height: float
    front: bool

    def outlines(self, arms_in_front: tuple[bool, bool]) -> list[tuple[int, int, np.ndarray]]:
        """Part, side (0 is left) and outline of all parts, in the order in which they are drawn."""
        legs = [self._limb(*limb, side) for limb in _LIMBS[:2] for side in (0, 1)]
        arms = [[self._limb(*limb, side) for limb in _LIMBS[2:]] for side in (0, 1)]
        behind, before = (
            [part for side in (0, 1) if arms_in_front[side] is on for part in arms[side]] for on in (False, True)
        )
        head = (_HEAD, 0, _on_grid(regular_polygon(24) * (0.85, 1.0) * (_HEAD_RADIUS * self.height) + self.head))
        return [*behind, *legs, (_TRUNK, 0, self._trunk()), head, *before]

    def _limb(
        self, part: int, start: int, end: int, wide: float, narrow: float, side: int
    ) -> tuple[int, int, np.ndarray]:
        ends = self.joints[start + side], self.joints[end + side]
        return part, side, _capsule(*ends, wide * self.height, narrow * self.height)

    def _trunk(self) -> np.ndarray:
        shoulders, hips = self.joints[5:7], self.joints[11:13]
        neck, bottom = (2 * shoulders.mean(0) + self.head) / 3, hips.mean(0) + (hips.mean(0) - shoulders.mean(0)) * 0.12
        wide = [pair.mean(0) + (pair - pair.mean(0)) * factor for pair, factor in ((shoulders, 1.2), (hips, 1.5))]
        return _on_grid(np.array([neck, wide[0][0], wide[1][0], bottom, wide[1][1], wide[0][1]]))


def create_people_image(seed: int, index: int, image_size: int = 160) -> ShapesImage:
    """Draw image ``index`` of the endless set of people that ``seed`` names; all objects have the label 1.

    Args:
        image_size: the longer side of an image measures 70 % to 100 % of it, in pixels; the sides are to each other
            as 2 to 3 at most.
    """
    random = Random(keyed_seed(seed, index, 17))
    longer = image_size * random.uniform(0.7, 1.0)
    shorter = longer / random.uniform(1.0, 1.5)
    height, width = (int(longer), int(shorter)) if random.uniform() < 0.5 else (int(shorter), int(longer))
    scene = _Scene(random, height, width)
    if random.uniform() < _CROWD_CHANCE:
        scene.add_crowd()
    for _ in range(random.integer(1, 3)):
        scene.add_person()
    if random.uniform() < _BOARD_CHANCE:
        scene.add_board()
    return ShapesImage(scene.image, scene.objects())


class _Scene:
    def __init__(self, random: Random, height: int, width: int):
        self.random = random
        self.image = background(random, height, width)
        # What is seen in a pixel: the item's number times _PARTS plus that of the part; -1 for the background.
        self.owner = np.full((height, width), -1, dtype=np.int64)
        self.bodies: list[list[_Body]] = []  # of each item; of a board none
        self.areas: list[int] = []

    def add_person(self) -> None:
        """Add a person where it fits; none if there is no such place after some tries."""
        height, width = self.owner.shape
        for attempt in range(12):
            size = max(height * self.random.uniform(0.45, 1.05) * 0.95**attempt, 40.0)
            place = np.array([self.random.uniform(0.1, 0.9) * width, self.random.uniform(0.25, 0.75) * height])
            body = _create_body(self.random, size, place)
            parts = body.outlines((self.random.uniform() < 0.7, self.random.uniform() < 0.7))
            inside = ((body.joints >= 0) & (body.joints < (width, height))).all(axis=1).sum()
            if inside >= _FEWEST_INSIDE and self._fits([outline for _, _, outline in parts]):
                self._begin([body])
                self._paint_body(body, parts)
                self.areas[-1] = self._seen(len(self.bodies) - 1)
                return

    def add_crowd(self) -> None:
        """Add a crowd of small people, annotated as one."""
        height, width = self.owner.shape
        middle = np.array([self.random.uniform(0.2, 0.8) * width, self.random.uniform(0.2, 0.6) * height])
        self._begin([])
        for _ in range(self.random.integer(5, 8)):
            offset = np.array([self.random.uniform(-0.2, 0.2) * width, self.random.uniform(-0.05, 0.05) * height])
            body = _create_body(self.random, max(0.2 * height, 20.0), middle + offset)
            self.bodies[-1].append(body)
            self._paint_body(body, body.outlines((True, True)))
        self.areas[-1] = self._seen(len(self.bodies) - 1)

    def add_board(self) -> None:
        """Add a board that hides a part of a person, if it leaves enough to be seen."""
        height, width = self.owner.shape
        x, y = self.random.uniform(0, width), self.random.uniform(0, height)
        across, down = self.random.uniform(0.05, 0.4) * width, self.random.uniform(0.05, 0.2) * height
        outline = _on_grid(np.array([[x, y], [x + across, y], [x + across, y + down], [x, y + down]]))
        if self._fits([outline]):
            self._begin([])
            self._paint(outline, self._colour(self.random.uniform(0.0, 0.4)), 0)

    def objects(self) -> list[ShapeObject]:
        found = []
        for number, bodies in enumerate(self.bodies):
            mask = self.owner // _PARTS == number
            if bodies and mask.any():
                keypoints = self._keypoints(bodies[0], number) if len(bodies) == 1 else np.zeros((17, 3))
                share = int(mask.sum()) / self.areas[number]
                found.append(ShapeObject(1, mask, keypoints, len(bodies) > 1, share))
        return found

    def _begin(self, bodies: list[_Body]) -> None:
        self.bodies.append(bodies)
        self.areas.append(0)

    def _seen(self, number: int) -> int:
        return int((self.owner // _PARTS == number).sum())

    def _fits(self, outlines: list[np.ndarray]) -> bool:
        """Whether enough of all persons stays visible below something."""
        covered = np.zeros(self.owner.shape, dtype=bool)
        for outline in outlines:
            part = coverage(outline, *self.owner.shape)
            covered[part.window] |= part.mask
        left = np.bincount(self.owner[~covered] // _PARTS + 1, minlength=len(self.bodies) + 1)[1:].tolist()
        return all(
            seen >= MIN_VISIBLE * area
            for seen, area, bodies in zip(left, self.areas, self.bodies, strict=True)
            if bodies
        )

    def _paint_body(self, body: _Body, parts: list[tuple[int, int, np.ndarray]]) -> None:
        skin = hsv_to_rgb(
            self.random.uniform(0.04, 0.1), self.random.uniform(0.25, 0.7), self.random.uniform(0.35, 1.0)
        )
        shirt, trousers, hair = (self._colour(self.random.uniform(0.2, 0.9)) for _ in range(3))
        sleeves, legs = (self.random.uniform() < 0.5 for _ in range(2))
        colours = (skin, shirt, shirt, shirt if sleeves else skin, trousers, trousers if legs else skin)
        for part, side, outline in parts:
            # A limb that nothing sets apart from the trunk would be a guess.
            shade = {_UPPER_ARM: 0.85, _FOREARM: 0.95, _SHIN: 0.9}.get(part, 1.0)
            self._paint(outline, np.floor(colours[part] * shade).astype(np.int64), 2 * part + side)
            if part == _HEAD:
                self._paint_face(body, hair)

    def _paint_face(self, body: _Body, hair: np.ndarray) -> None:
        radius, owner = _HEAD_RADIUS * body.height, 2 * _HEAD
        if not body.front:
            self._paint(_on_grid(regular_polygon(20) * (0.8 * radius) + body.head), hair // 2, owner)
            return
        up = body.head - body.joints[11:13].mean(0)
        top = body.head + up / math.sqrt(float(up @ up)) * (0.7 * radius)
        self._paint(_on_grid(regular_polygon(16) * (0.62 * radius, 0.4 * radius) + top), hair // 2, owner)
        for joint, size, colour in ((0, 0.13, (150, 60, 50)), (1, 0.17, (20, 20, 30)), (2, 0.17, (20, 20, 30))):
            dot = _on_grid(regular_polygon(8) * max(size * radius, 0.8) + body.joints[joint])
            self._paint(dot, np.array(colour), owner)

    def _paint(self, outline: np.ndarray, colour: np.ndarray, part: int) -> None:
        """Paint a part of the newest item."""
        covered = coverage(outline, *self.owner.shape)
        paint(self.random, self.image, covered, colour)
        self.owner[covered.window][covered.mask] = (len(self.bodies) - 1) * _PARTS + part

    def _colour(self, saturation: float) -> np.ndarray:
        return hsv_to_rgb(self.random.uniform(), saturation, self.random.uniform(0.3, 1.0))

    def _keypoints(self, body: _Body, number: int) -> np.ndarray:
        keypoints = np.zeros((len(PERSON_KEYPOINTS), 3))
        height, width = self.owner.shape
        for joint, (x, y) in enumerate(body.joints.tolist()):
            if 0 <= x < width and 0 <= y < height:
                item, part = divmod(int(self.owner[int(y), int(x)]), _PARTS)
                seen = item == number and part // 2 in _JOINT_PARTS[joint] and (body.front or joint > 2)
                # Two arms may cross: the part must be of the joint's own side, where parts have sides.
                own_side = part // 2 in (_HEAD, _TRUNK) or part % 2 == 1 - joint % 2
                keypoints[joint] = round(x, 2), round(y, 2), 2 if seen and own_side else 1
        return keypoints


def _create_body(random: Random, height: float, place: np.ndarray) -> _Body:
    """A figure of this height in a random pose, the middle of its hips at ``place``."""
    front = random.uniform() >= _BACK_CHANCE
    lean = random.uniform(-0.3, 0.3)
    up, across = _direction(math.pi + lean), _direction(math.pi / 2 + lean)
    # The person's left is on the right side of the image where it shows its face.
    sides = (1, -1) if front else (-1, 1)
    joints = np.zeros((17, 2))
    head = up * 0.425
    turned = random.uniform(-0.022, 0.022)
    joints[0] = head + across * turned * 1.3 - up * 0.012
    for number, side in enumerate(sides):
        joints[1 + number] = head + across * (turned + 0.028 * side) + up * 0.014
        joints[3 + number] = head + across * (0.055 * side + 0.3 * turned)
        joints[5 + number] = up * 0.3 + across * (0.105 * side)
        joints[11 + number] = across * (0.065 * side)
        raised = random.uniform(-0.25, 2.7)
        bent = raised + random.uniform(-1.6, 1.6)
        joints[7 + number] = joints[5 + number] + _direction(side * raised + lean) * 0.165
        joints[9 + number] = joints[7 + number] + _direction(side * bent + lean) * 0.15
        spread = random.uniform(-0.12, 0.9)
        joints[13 + number] = joints[11 + number] + _direction(side * spread) * 0.23
        joints[15 + number] = joints[13 + number] + _direction(side * (spread - random.uniform(-0.15, 1.0))) * 0.22
    turn = random.uniform(-0.2, 0.2)
    turns = np.array([_direction(math.pi / 2 - turn), _direction(-turn)])
    return _Body(_on_grid(joints @ turns * height + place), _on_grid(head @ turns * height + place), height, front)


def _direction(angle: float) -> np.ndarray:
    """Of length 1: downwards for the angle 0, to the right of the image for a quarter of a turn."""
    return np.array([math.sin(angle), math.cos(angle)])


def _capsule(start: np.ndarray, end: np.ndarray, wide: float, narrow: float) -> np.ndarray:
    """Outline of a limb with round ends, ``wide`` and ``narrow`` being half its widths."""
    along = end - start
    angle = math.atan2(along[0], along[1])
    halves = [
        centre + np.array([_direction(angle + first + step * math.pi / 6) for step in range(7)]) * radius
        for centre, radius, first in ((end, narrow, -math.pi / 2), (start, wide, math.pi / 2))
    ]
    return _on_grid(np.concatenate(halves))


def _on_grid(points: np.ndarray) -> np.ndarray:
    """Points on a grid of 1/64 pixel: sines differ between platforms in their last bit, what is drawn does not."""
    rounded: np.ndarray = np.round(points * 64) / 64
    return rounded
