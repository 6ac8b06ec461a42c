from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ignite_imgtools.data import check_dataset, face_flip_permutation, make_data, open_landmark_data
from ignite_imgtools.data import shapes_faces as faces
from ignite_imgtools.data.shapes_faces import IBUG_OF_WFLW, create_face_image
from ignite_imgtools.metrics import face_length

_STRAIGHT = faces._Expression(
    chin=1.3, jaw=0.1, eye_gap=0.44, opening=0.08, brow=(0.0, 0.0), mouth=0.35, smile=0.1, parted=0.1, gaze=(0.0, 0.0)
)


def test_an_image_is_a_function_of_seed_and_index() -> None:
    one, again, other = create_face_image(3, 5), create_face_image(3, 5), create_face_image(3, 6)
    assert np.array_equal(one.image, again.image)
    assert np.array_equal(one.points, again.points)
    assert one.points.shape == (98, 2)
    assert one.image.shape != other.image.shape or not np.array_equal(one.image, other.image)
    # To a sixty-fourth of a pixel, so that the last bit of a sine does not matter.
    assert np.array_equal(one.points * 64, np.round(one.points * 64))


def test_points_are_in_the_image_and_eyes_apart() -> None:
    for index in range(60):
        face = create_face_image(1, index, 96)
        height, width = face.image.shape[:2]
        assert ((face.points >= -0.5) & (face.points <= (width - 0.5, height - 0.5))).mean() > 0.98
        for points in (face.points, face.points[list(IBUG_OF_WFLW)]):
            for normaliser in ("inter_ocular", "inter_pupil"):
                assert face_length(points[None], normaliser)[0] > 8  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [98, 68])
def test_a_straight_face_is_its_own_mirror_image(count: int) -> None:
    mask, depth, _ = faces._mask(_STRAIGHT)
    chosen = list(range(98)) if count == 98 else list(IBUG_OF_WFLW)
    points, order = mask[chosen], list(face_flip_permutation(count))
    assert np.allclose(points[order], points * (-1, 1))
    assert np.allclose(depth[chosen][order], depth[chosen])
    # Points in no pair lie on the axis.
    alone = [number for number in range(count) if order[number] == number]
    assert np.allclose(points[alone, 0], 0)


def test_the_68_points_are_ordered_as_those_of_ibug() -> None:
    points = faces._mask(_STRAIGHT)[0][list(IBUG_OF_WFLW)]
    x, y = points.T
    assert len(points) == 68
    assert (np.diff(x[:17]) > 0).all()
    assert y[8] == y.max()  # the chin
    for brow in (slice(17, 22), slice(22, 27), slice(31, 36)):
        assert (np.diff(x[brow]) > 0).all()
    assert (np.diff(y[27:31]) > 0).all()  # down the nose
    assert x[36] < x[37] < x[38] < x[39] < x[42] < x[43] < x[44] < x[45]
    assert y[37] < y[41]
    assert y[38] < y[40]
    assert x[41] < x[40]
    assert x[48] == x[48:60].min()
    assert x[54] == x[48:60].max()
    assert y[51] < y[62] < y[66] < y[57]  # from the upper lip to the lower one


def test_what_is_drawn_is_where_its_points_are() -> None:
    """Pupils are dark, beside the iris the eye is bright, and what is between parted lips is dark."""
    seen = 0
    for index in range(40):
        face = create_face_image(2, index, 256)
        points, image = face.points, face.image.astype(int).sum(axis=2)

        def at(place: np.ndarray, image: np.ndarray = image) -> int:
            x, y = np.round(place).astype(int)
            return int(image[y, x])

        height = np.linalg.norm(points[62] - points[66])
        if height > 8:
            seen += 1
            assert at(points[96]) < 200
            assert at(points[60] * 0.25 + points[96] * 0.75) < at(points[96]) + 450
        if np.linalg.norm(points[90] - points[94]) > 8:
            seen += 1
            assert at((points[90] + points[94]) / 2) < 230
    assert seen > 10


@pytest.mark.parametrize(("data_format", "count"), [("wflw", 98), ("pts", 68), ("points_csv", 68)])
def test_all_formats_tell_the_same(data_format: str, count: int, tmp_path: Path) -> None:
    folder = make_data(data_format, tmp_path / "data", num_train=4, num_val=3, seed=2, image_size=80)
    assert check_dataset(data_format, folder) == []
    parts: Any = open_landmark_data(folder)
    assert list(map(len, parts)) == [4, 3]
    for part, index in ((0, 3), (1, 2)):
        seed = faces.keyed_seed(2, part)
        expected = create_face_image(seed, index, 80)
        points = expected.points if count == 98 else expected.points[list(IBUG_OF_WFLW)]
        image, target = parts[part][index]
        assert np.abs(target["points"].numpy() - points).max() < 1e-5
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected.image).mean() < 6
        assert target["box"][0] <= points[:, 0].min() + 0.5
        assert target["box"][3] >= points[:, 1].max()
