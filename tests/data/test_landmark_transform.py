from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ignite_imgtools.data import FACE_FLIPS, face_flip_permutation
from ignite_imgtools.data.shapes_faces import IBUG_OF_WFLW, create_face_image
from ignite_imgtools.data.transforms import LandmarkTransform, PoseTransform, landmark_eval, landmark_train


def _target(count: int = 68, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    points = 40 + 60 * torch.rand(count, 2, generator=generator)
    box = torch.cat((points.amin(dim=0), points.amax(dim=0)))
    return {"points": points, "box": box, "image_id": 7}


def _image(height: int = 150, width: int = 170) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


@pytest.mark.parametrize("size", [24, (40, 64), 256])
def test_forward_and_back_is_the_identity(size: Any) -> None:
    transform = landmark_train(size, flip_permutation=face_flip_permutation(68))
    back = []
    for seed in range(40):
        torch.manual_seed(seed)
        target = _target(seed=seed)
        crop, mapped = transform(_image(), target)
        assert crop.shape[1:] == ((size, size) if isinstance(size, int) else size)
        assert mapped["image_id"] == 7
        assert torch.equal(mapped["image_points"], target["points"])
        homogeneous = torch.cat((mapped["points"].double(), torch.ones(68, 1, dtype=torch.float64)), dim=1)
        there = homogeneous @ mapped["to_image"].T
        order = list(face_flip_permutation(68)) if torch.linalg.det(mapped["to_image"][:, :2]) < 0 else range(68)
        back.append((there - target["points"][list(order)]).abs().max())
    assert max(back) < 1e-4


@pytest.mark.parametrize("scale", [1, 3, 11])
def test_pixels_go_where_points_go(scale: int) -> None:
    """A blob is found where its point is mapped to, also in faces that are shrunk first."""
    height, width = 40 * scale, 50 * scale
    at = np.array([31.0 * scale, 17.0 * scale])
    rows, columns = np.mgrid[:height, :width]
    blob = 255 * np.exp(-((columns - at[0]) ** 2 + (rows - at[1]) ** 2) / (2 * (2.0 * scale) ** 2))
    image = torch.from_numpy(np.broadcast_to(blob, (3, height, width)).astype(np.uint8).copy())
    box = torch.tensor([12.0, 5.0, 40.0, 33.0]) * scale
    transform = landmark_train(
        48, flip_permutation=(0,), degrees=40, rotate_probability=1.0, shift=0.1, shift_probability=1.0, scale=0.2
    )
    for seed in range(12):
        torch.manual_seed(seed)
        crop, mapped = transform(image, {"points": torch.from_numpy(at)[None].float(), "box": box})
        weights = crop[0].double()
        places = torch.stack(
            (
                (weights.sum(0) * torch.arange(48)).sum() / weights.sum(),
                (weights.sum(1) * torch.arange(48)).sum() / weights.sum(),
            )
        )
        assert (places - mapped["points"][0].double()).abs().max() < 0.06


def test_only_what_is_seen_is_looked_at() -> None:
    """The part of a large image that is cut out first changes nothing."""
    image, target = _image(600, 700), _target()
    target["box"] = torch.tensor([310.0, 240.0, 350.0, 290.0])
    target["points"] = target["points"] + torch.tensor([230.0, 180.0])
    transform = landmark_train(48, flip_permutation=face_flip_permutation(68))
    for seed in range(10):
        torch.manual_seed(seed)
        near, mapped = transform(image, target)
        torch.manual_seed(seed)
        whole = _WholeImage(transform.pose, transform.shift, transform.shift_probability)
        far, expected = whole(image, target)
        assert (near.int() - far.int()).abs().max() <= 1
        torch.testing.assert_close(mapped["points"], expected["points"], rtol=0, atol=1e-4)
        torch.testing.assert_close(mapped["to_image"], expected["to_image"])


class _WholeImage(LandmarkTransform):
    def _near(self, image: Tensor, box: tuple[float, float, float, float]) -> tuple[Tensor, int, int, int]:
        return image, 0, 0, 1


def test_evaluation_is_the_enlarged_box() -> None:
    target = _target()
    target["box"] = torch.tensor([40.0, 60.0, 80.0, 80.0])
    crop, mapped = landmark_eval(50, padding=1.25)(_image(), target)
    assert crop.shape == (3, 50, 50)
    # 40 x 20 pixels, as a square of 50, one for one, around (60, 70).
    assert mapped["to_image"].tolist() == [[1, 0, 35], [0, 1, 45]]
    assert torch.equal(crop, _image()[:, 45:95, 35:85])


def test_a_box_beside_the_image_is_black() -> None:
    target = {"points": torch.zeros(0, 2), "box": torch.tensor([-90.0, 5.0, -50.0, 45.0])}
    crop, _ = landmark_eval(16)(_image(), target)
    assert not crop.any()


@pytest.mark.parametrize("count", [68, 98])
def test_a_mirrored_face_has_its_points_in_place(count: int) -> None:
    """Drawn: the colours under the points of a face are those under the points of its mirror image."""
    face = create_face_image(0, 1, 160)
    points = face.points if count == 98 else face.points[list(IBUG_OF_WFLW)]
    image = torch.from_numpy(face.image).permute(2, 0, 1)
    (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    target = {"points": torch.from_numpy(points).float(), "box": torch.tensor([x1, y1, x2, y2])}
    plain, as_it_is = landmark_eval(96)(image, target)
    pose = dataclasses.replace(
        landmark_eval(96).pose, flip_probability=1.0, flip_permutation=face_flip_permutation(count)
    )
    mirrored, found = LandmarkTransform(pose)(image, target)
    assert (mirrored.flip(-1).int() - plain.int()).abs().max() <= 1
    expected = as_it_is["points"][list(face_flip_permutation(count))]
    assert torch.allclose(found["points"][:, 0], 95 - expected[:, 0], atol=1e-3)
    assert torch.allclose(found["points"][:, 1], expected[:, 1], atol=1e-3)
    # In an image the outline runs from left to right, mirrored or not, and so do the corners of the eyes.
    left, right = (60, 72) if count == 98 else (36, 45)
    for shown in (as_it_is, found):
        assert (shown["points"][1:17, 0] >= shown["points"][:16, 0] - 3).all()
        assert shown["points"][left, 0] < shown["points"][right, 0]


def test_known_flips_undo_themselves() -> None:
    for count, order in FACE_FLIPS.items():
        assert sorted(order) == list(range(count))
        assert [order[number] for number in order] == list(range(count))


def test_bad_arguments() -> None:
    for options in ({"shift": 1.0}, {"shift": -0.1}, {"shift_probability": 1.5}):
        with pytest.raises(ValueError, match="shift must be at least 0 and below 1, shift_probability from 0 to 1"):
            LandmarkTransform(PoseTransform((8, 8)), **options)
    with pytest.raises(ValueError, match="size and padding must be positive"):
        landmark_eval(0)
    with pytest.raises(ValueError, match="flip_permutation has 68 keypoints, the person has 5"):
        landmark_train(8, flip_permutation=face_flip_permutation(68), flip_probability=1.0)(_image(), _target(5))
    assert math.isclose(landmark_train(8, flip_permutation=None).pose.flip_probability, 0.0)
