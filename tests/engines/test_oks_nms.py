from __future__ import annotations

import math

import pytest
import torch

from ignite_imgtools.engines.oks_nms import COCO_KEYPOINT_SIGMAS, keypoint_similarity, oks_nms


def _loop(keypoints, scores, areas, groups, threshold, sigmas):
    def similarity(a, b):
        area = (areas[a] + areas[b]) / 2
        total = 0.0
        for joint, sigma in enumerate(sigmas):
            dx, dy = (keypoints[a, joint, axis] - keypoints[b, joint, axis] for axis in (0, 1))
            total += math.exp(-(dx * dx + dy * dy) / (2 * area * (2 * sigma) ** 2))
        return total / len(sigmas)

    kept = []
    for pose in sorted(range(len(scores)), key=lambda pose: -scores[pose]):
        if all(groups[pose] != groups[other] or similarity(pose, other) <= threshold for other in kept):
            kept.append(pose)
    return kept


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.9])
def test_as_a_loop(threshold):
    torch.manual_seed(0)
    people = torch.rand(6, 17, 2) * 100
    keypoints = torch.cat(
        [people[torch.arange(40) % 6] + torch.randn(40, 17, 2) * 4 * torch.rand(40, 1, 1), torch.rand(40, 17, 1)], dim=2
    )
    scores = (torch.rand(40) * 8).round() / 8  # many are equal
    areas, groups = 4000 + 4000 * torch.rand(40), torch.arange(40) // 20
    kept = oks_nms(keypoints, scores, areas, groups, threshold=threshold)
    expected = _loop(keypoints.double(), scores, areas.double(), groups, threshold, COCO_KEYPOINT_SIGMAS)
    assert kept.nonzero()[:, 0].tolist() == sorted(expected)
    assert 12 <= len(expected) < 40


def test_similarity():
    keypoints = torch.zeros(2, 1, 3)
    keypoints[1, 0, 0] = 2.0
    similarity = keypoint_similarity(keypoints, torch.tensor([100.0, 300.0]), torch.tensor([0.05]))
    torch.testing.assert_close(similarity, torch.tensor([[1, math.exp(-1)], [math.exp(-1), 1]]))


def test_no_poses_and_refusals():
    nothing = torch.zeros(0)
    assert oks_nms(torch.zeros(0, 17, 3), nothing, nothing, nothing.long()).shape == (0,)
    with pytest.raises(ValueError, match="one for each of 5 keypoints, got 17"):
        oks_nms(torch.zeros(1, 5, 3), torch.zeros(1), torch.ones(1), torch.zeros(1))
