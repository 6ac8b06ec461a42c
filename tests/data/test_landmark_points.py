from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ignite_imgtools.data import FACE_FLIPS, face_flip_permutation, read_pts, read_wflw_list


@pytest.mark.parametrize("count", [68, 98])
def test_mirrored_twice_is_the_same(count: int) -> None:
    flip = np.array(face_flip_permutation(count))
    assert sorted(flip.tolist()) == list(range(count))
    assert np.array_equal(flip[flip], np.arange(count))
    # The chin; the ridge and the base of the nose; the middles of four edges of lips.
    assert (flip == np.arange(count)).sum() == 1 + 5 + 4
    assert tuple(flip) == FACE_FLIPS[count]


def _asymmetry(points: np.ndarray, order: np.ndarray) -> np.ndarray:
    """How far each point is from the mirror image of its counterpart, in parts of the face's width.

    The mirror image is laid over the face as well as a similarity can (Umeyama 1991).
    """
    mirrored = (points * (-1, 1))[order]
    one, other = points - points.mean(0), mirrored - mirrored.mean(0)
    u, scales, v = np.linalg.svd(other.T @ one)
    turn = u @ np.diag((1, np.sign(np.linalg.det(u @ v)))) @ v
    laid = other @ turn * (scales * (1, np.sign(np.linalg.det(u @ v)))).sum() / (other**2).sum()
    width: float = np.ptp(one[:, 0])
    distance: np.ndarray = np.linalg.norm(laid - one, axis=1) / width
    return distance


@pytest.mark.data
def test_real_faces_of_68_points_look_the_same_in_the_mirror(real_data: Path) -> None:
    files = sorted((real_data / "ibug68_pts").rglob("*.pts"))
    assert len(files) == 60
    flip = np.array(face_flip_permutation(68))
    found = np.median([_asymmetry(read_pts(path), flip) for path in files], axis=0)
    assert found.max() < 0.15  # faces are turned
    assert np.median([_asymmetry(read_pts(path), np.arange(68)) for path in files], axis=0).max() > 0.3


@pytest.mark.data
def test_real_faces_of_98_points_look_the_same_in_the_mirror(real_data: Path) -> None:
    lists = sorted((real_data / "wflw_98" / "WFLW_annotations").rglob("*.txt"))
    faces = [face for path in lists for face in read_wflw_list(path)[0]]
    assert len(faces) == 5
    flip = np.array(face_flip_permutation(98))
    found = np.median([_asymmetry(face.points, flip) for face in faces], axis=0)
    assert found.max() < 0.12
    # No other exchange of two neighbouring points fits as well on the whole.
    for point in (33, 38, 60, 65, 76, 83, 88, 93):
        wrong = flip.copy()
        wrong[[point, point + 1]] = wrong[[point + 1, point]]
        worse = np.median([_asymmetry(face.points, wrong) for face in faces], axis=0)
        assert worse[[point, point + 1]].sum() > found[[point, point + 1]].sum(), point


def test_other_numbers_are_not_known() -> None:
    with pytest.raises(ValueError, match="the mirrored order is known of 68 or 98 points, got 5: give a permutation"):
        face_flip_permutation(5)
