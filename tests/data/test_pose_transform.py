from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ignite_imgtools.data.transforms import PoseTransform, flip_permutation, pose_eval, pose_train

_NAMES = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle"
).split()
_PERMUTATION = flip_permutation(_NAMES)


def _person(dtype: torch.dtype = torch.float32, **more: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    places = torch.rand(17, 2, generator=generator, dtype=dtype) * torch.tensor([120.0, 300.0], dtype=dtype)
    keypoints = torch.cat((places + torch.tensor([200.0, 80.0], dtype=dtype), torch.ones(17, 1, dtype=dtype)), dim=1)
    return {"keypoints": keypoints, "box": torch.tensor([200.0, 80.0, 320.0, 380.0]), "image_id": 7, **more}


def _back(target: dict[str, Any]) -> Tensor:
    places = target["keypoints"][:, :2].double()
    to_image = target["to_image"]
    return torch.stack([to_image[:, :2] @ place + to_image[:, 2] for place in places])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_forward_and_back_is_the_identity(dtype: torch.dtype, tolerance: float) -> None:
    image = torch.zeros(3, 480, 640, dtype=torch.uint8)
    transform = pose_train(flip_permutation=_PERMUTATION, half_body_probability=0.5)
    person = _person(dtype)
    mirrored = 0
    for seed in range(40):
        torch.manual_seed(seed)
        crop, target = transform(image, person)
        assert crop.shape == (3, 256, 192)
        assert crop.dtype == torch.uint8
        assert target["keypoints"].dtype == dtype
        assert target["to_image"].dtype == torch.float64
        flipped = bool(torch.linalg.det(target["to_image"][:, :2]) < 0)
        order = list(_PERMUTATION) if flipped else list(range(17))
        mirrored += flipped
        assert (_back(target) - person["keypoints"][order, :2]).abs().max() < tolerance
    assert 10 < mirrored < 30


def test_image_and_keypoints_go_to_the_same_place() -> None:
    rows, columns = torch.arange(200.0)[:, None], torch.arange(160.0)
    x, y = 77.25, 96.5
    blob = torch.exp(((columns - x) ** 2 + (rows - y) ** 2) / (-2 * 3.0**2)) * 255
    image = blob.round().to(torch.uint8).expand(3, -1, -1)
    person = {"keypoints": torch.tensor([[x, y, 2.0]]), "box": torch.tensor([30.0, 40.0, 110.0, 150.0])}
    transform = PoseTransform((128, 96), scale=0.3, degrees=180, flip_probability=0.5, flip_permutation=(0,))
    for seed in range(20):
        torch.manual_seed(seed)
        crop, target = transform(image, person)
        weights = crop[0].double()
        centroid = [
            float((weights.sum(dim=1 - axis) * torch.arange(weights.shape[axis])).sum() / weights.sum())
            for axis in (1, 0)
        ]
        found = target["keypoints"][0, :2].tolist()
        assert max(abs(a - b) for a, b in zip(centroid, found, strict=True)) < 0.02


def test_a_box_of_the_crops_shape_is_copied() -> None:
    image = torch.randint(0, 256, (3, 70, 60), dtype=torch.uint8)
    person = {"keypoints": torch.tensor([[12.0, 30.5, 1.0]]), "box": torch.tensor([10.0, 20.0, 40.0, 60.0])}
    crop, target = PoseTransform((40, 30), padding=1)(image, person)
    assert torch.equal(crop, image[:, 20:60, 10:40])
    assert target["keypoints"].tolist() == [[2.0, 10.5, 1.0]]
    assert target["to_image"].tolist() == [[1, 0, 10], [0, 1, 20]]


@pytest.mark.parametrize("box", [[10.0, 20.0, 12.0, 90.0], [10.0, 20.0, 90.0, 22.0]])
def test_evaluation_shows_the_box_a_quarter_larger(box: list[float]) -> None:
    person = {"keypoints": torch.zeros(0, 3), "box": torch.tensor(box)}
    _, target = pose_eval((64, 48))(torch.zeros(3, 100, 100, dtype=torch.uint8), person)
    linear = target["to_image"][:, :2]
    zoom = float(linear[0, 0])
    assert linear.tolist() == [[zoom, 0], [0, zoom]]
    width, height = box[2] - box[0], box[3] - box[1]
    assert zoom == pytest.approx(1.25 * max(width / 48, height / 64), rel=1e-12)
    centre = linear @ torch.tensor([23.5, 31.5], dtype=torch.float64) + target["to_image"][:, 2] + 0.5
    assert centre.tolist() == pytest.approx([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


def test_half_of_the_body_is_shown() -> None:
    person = _person()
    person["keypoints"][:11, 1] -= 200  # the upper half is far above the lower
    image = torch.zeros(3, 480, 640, dtype=torch.uint8)
    transform = PoseTransform(half_body_probability=1)
    shown = set()
    for seed in range(12):
        torch.manual_seed(seed)
        _, target = transform(image, person)
        x, y, _ = target["keypoints"].unbind(1)
        inside = (x >= 0) & (x < 192) & (y >= 0) & (y < 256)
        halves = (bool(inside[:11].all()), bool(inside[11:].all()))
        assert any(halves)
        shown.add(halves)
    assert shown >= {(True, False), (False, True)}
    # Two annotated joints are too few to be a half: the whole box is taken.
    person["keypoints"][:, 2] = 0
    person["keypoints"][[3, 4, 12, 13], 2] = 2
    _, target = transform(image, person)
    assert torch.equal(target["to_image"], pose_eval()(image, person)[1]["to_image"])


def test_what_is_drawn() -> None:
    person, image = _person(), torch.zeros(3, 480, 640, dtype=torch.uint8)
    transform = pose_train(flip_permutation=None, half_body_probability=0)
    zooms, turns = [], []
    for seed in range(300):
        torch.manual_seed(seed)
        linear = transform(image[:, :2, :2], person)[1]["to_image"][:, :2]
        assert torch.linalg.det(linear) > 0
        zooms.append(float(torch.linalg.det(linear).sqrt()))
        turns.append(math.degrees(math.atan2(float(linear[1, 0]), float(linear[0, 0]))))
    whole = 1.25 * 300 / 256
    assert 0.65 * whole <= min(zooms) < 0.7 * whole
    assert 1.3 * whole < max(zooms) <= 1.35 * whole
    assert 0.3 < sum(abs(turn) < 1e-9 for turn in turns) / 300 < 0.5
    assert 40 < max(turns) <= 45
    assert -45 <= min(turns) < -40
    assert torch.equal(person["keypoints"], _person()["keypoints"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (0, 192)}, "size and padding"),
        ({"scale": 1.0}, "scale must be"),
        ({"degrees": -1.0}, "degrees from 0"),
        ({"flip_probability": 0.5}, "needs flip_permutation"),
        ({"rotate_probability": 1.5}, "rotate_probability must be from 0 to 1"),
        ({"flip_permutation": (1, 2, 0)}, "in pairs"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PoseTransform(**arguments)


def test_a_permutation_of_other_keypoints_is_refused() -> None:
    transform = PoseTransform(flip_probability=1, flip_permutation=(0, 2, 1))
    with pytest.raises(ValueError, match="flip_permutation has 3 keypoints, the person has 17"):
        transform(torch.zeros(3, 8, 8, dtype=torch.uint8), _person())
