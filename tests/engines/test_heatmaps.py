from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ignite_imgtools.engines.heatmaps import flip_heatmaps, heatmaps_to_keypoints, keypoints_to_heatmaps
from tests.engines.reads import CountReads


def _points(count, joints, height, width, margin=0.0, stride=4):
    """Points ``[count, joints, 3]`` anywhere in a heat-map of this size but near its border, all visible."""
    torch.manual_seed(1)
    share = torch.rand(count, joints, 2)
    limits = torch.tensor([width - 1.0, height - 1.0])
    places = (margin + share * (limits - 2 * margin)) * stride
    return torch.cat((places, torch.full((count, joints, 1), 2.0)), dim=-1)


def test_heatmaps_are_gaussians():
    keypoints = torch.tensor([[[13.0, 22.5, 2.0], [0.0, 0.0, 1.0], [8.0, 8.0, 0.0]]])
    heatmaps, visibility = keypoints_to_heatmaps(keypoints, (12, 9), stride=4, sigma=1.5)
    assert visibility.tolist() == [[2.0, 1.0, 0.0]]
    for joint, (x, y, flag) in enumerate(keypoints[0].tolist()):
        for row in range(12):
            for column in range(9):
                distance = (column - x / 4) ** 2 + (row - y / 4) ** 2
                expected = math.exp(-distance / (2 * 1.5**2)) if flag else 0.0
                assert abs(heatmaps[0, joint, row, column].item() - expected) < 1e-6


def test_points_far_outside_are_not_learned():
    keypoints = torch.tensor([[[-23.0, 8.0, 2.0], [-25.0, 8.0, 2.0], [8.0, 4 * 11 + 25.0, 2.0], [1e6, -1e6, 1.0]]])
    heatmaps, visibility = keypoints_to_heatmaps(keypoints, (12, 9), sigma=2.0)
    assert visibility.tolist() == [[2.0, 0.0, 0.0, 0.0]]
    assert [bool(heatmap.any()) for heatmap in heatmaps[0]] == [True, False, False, False]


def _quarter_loop(heatmaps, stride):
    count, joints, height, width = heatmaps.shape
    result = torch.zeros(count, joints, 3)
    for i in range(count):
        for j in range(joints):
            heatmap = heatmaps[i, j]
            place = int(heatmap.argmax())
            y, x = divmod(place, width)
            dx = dy = 0.0
            if 0 < x < width - 1:
                dx = 0.25 * float(torch.sign(heatmap[y, x + 1] - heatmap[y, x - 1]))
            if 0 < y < height - 1:
                dy = 0.25 * float(torch.sign(heatmap[y + 1, x] - heatmap[y - 1, x]))
            result[i, j] = torch.tensor([(x + dx) * stride, (y + dy) * stride, float(heatmap[y, x])])
    return result


def _dark_loop(heatmaps, stride, sigma):
    count, joints, height, width = heatmaps.shape
    radius = round(2.5 * sigma)
    axis = np.arange(-radius, radius + 1)
    kernel = np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    result = torch.zeros(count, joints, 3)
    for i in range(count):
        for j in range(joints):
            heatmap = heatmaps[i, j].double().numpy()
            y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
            offset = np.zeros(2)
            if 0 < x < width - 1 and 0 < y < height - 1:
                padded = np.pad(np.maximum(heatmap, 0), radius + 1)
                log = np.zeros((3, 3))
                for b in range(3):
                    for a in range(3):
                        patch = padded[y + b : y + b + 2 * radius + 1, x + a : x + a + 2 * radius + 1]
                        log[b, a] = np.log(max((patch * kernel).sum(), 1e-10))
                gradient = np.array([log[1, 2] - log[1, 0], log[2, 1] - log[0, 1]]) / 2
                cross = (log[2, 2] - log[2, 0] - log[0, 2] + log[0, 0]) / 4
                hessian = np.array(
                    [
                        [log[1, 2] - 2 * log[1, 1] + log[1, 0], cross],
                        [cross, log[2, 1] - 2 * log[1, 1] + log[0, 1]],
                    ]
                )
                if np.linalg.eigvalsh(hessian).max() < 0:
                    offset = np.clip(-np.linalg.solve(hessian, gradient), -1, 1)
            result[i, j] = torch.tensor([(x + offset[0]) * stride, (y + offset[1]) * stride, heatmap[y, x]])
    return result


def test_decoding_is_that_of_loops():
    torch.manual_seed(2)
    clean, _ = keypoints_to_heatmaps(_points(4, 3, 16, 12), (16, 12), sigma=1.0)
    for heatmaps in (
        clean,
        torch.randn(4, 3, 16, 12),
        torch.zeros(1, 1, 16, 12),
        clean + 0.1 * torch.randn_like(clean),
    ):
        with CountReads() as counter:
            none = heatmaps_to_keypoints(heatmaps, refine="none")
            quarter = heatmaps_to_keypoints(heatmaps)
            dark = heatmaps_to_keypoints(heatmaps, stride=2, refine="dark", sigma=1.0)
        assert not counter.reads
        assert (none[..., :2] % 4 == 0).all()
        torch.testing.assert_close(quarter, _quarter_loop(heatmaps, 4), rtol=0, atol=0)
        torch.testing.assert_close(dark, _dark_loop(heatmaps, 2, 1.0), rtol=0, atol=2e-3)


@pytest.mark.parametrize(("refine", "mean", "largest"), [("quarter", 0.02, 0.26), ("dark", 0.002, 0.02)])
def test_what_is_encoded_is_decoded(refine, mean, largest):
    keypoints = _points(200, 17, 64, 48, margin=8)
    heatmaps, _ = keypoints_to_heatmaps(keypoints, (64, 48))
    errors = (heatmaps_to_keypoints(heatmaps, refine=refine) - keypoints)[..., :2] / 4  # type: ignore[arg-type]
    assert errors.mean(dim=(0, 1)).abs().max() < mean
    assert errors.abs().max() < largest


def test_dark_has_no_bias_over_the_whole_heatmap_either():
    keypoints = _points(200, 17, 64, 48)
    heatmaps, _ = keypoints_to_heatmaps(keypoints, (64, 48))
    errors = (heatmaps_to_keypoints(heatmaps, refine="dark") - keypoints)[..., :2] / 4
    assert errors.mean(dim=(0, 1)).abs().max() < 0.02
    # What is smoothed near the border lacks its outer half, which draws points there inwards.
    assert errors.abs().max() < 1


def test_half_precision_is_decoded_in_float32():
    heatmaps, _ = keypoints_to_heatmaps(_points(2, 3, 16, 12, margin=3), (16, 12))
    keypoints = heatmaps_to_keypoints(heatmaps.bfloat16(), refine="dark")
    assert keypoints.dtype == torch.float32
    assert torch.isfinite(keypoints).all()


def test_no_persons():
    assert heatmaps_to_keypoints(torch.zeros(0, 17, 64, 48), refine="dark").shape == (0, 17, 3)
    heatmaps, visibility = keypoints_to_heatmaps(torch.zeros(0, 17, 3), (64, 48))
    assert heatmaps.shape == (0, 17, 64, 48)
    assert visibility.shape == (0, 17)


def test_a_mirrored_image_says_the_same():
    keypoints = _points(3, 3, 32, 24, margin=9)
    permutation = torch.tensor([0, 2, 1])
    mirrored = keypoints[:, permutation].clone()
    mirrored[..., 0] = 4 * 24 - 1 - mirrored[..., 0]
    from_mirror, _ = keypoints_to_heatmaps(mirrored, (32, 24))
    back = heatmaps_to_keypoints(flip_heatmaps(from_mirror, permutation), refine="dark")
    # 3/4 of a pixel too far to the left without a shift, 1/4 too far to the right with one.
    torch.testing.assert_close((back - keypoints)[..., 0], torch.ones(3, 3), atol=0.1, rtol=0)
    torch.testing.assert_close(back[..., 1], keypoints[..., 1], atol=0.1, rtol=0)
    unshifted = heatmaps_to_keypoints(flip_heatmaps(from_mirror, permutation, shift=0), refine="dark")
    torch.testing.assert_close((unshifted - keypoints)[..., 0], torch.full((3, 3), -3.0), atol=0.1, rtol=0)
    maps = torch.rand(1, 3, 2, 5)
    expected = maps.clone()
    for joint, source in enumerate((0, 2, 1)):
        for x in range(5):
            expected[0, joint, :, x] = maps[0, source, :, 4 - max(x - 1, 0)]
    assert torch.equal(flip_heatmaps(maps, permutation), expected)


def test_refusals():
    with pytest.raises(ValueError, match="refine must be"):
        heatmaps_to_keypoints(torch.zeros(1, 1, 4, 4), refine="darkpose")  # type: ignore[arg-type]
