from __future__ import annotations

import pytest
import torch

from ignite_imgtools.losses import COCO_JOINT_WEIGHTS, HeatmapLoss
from tests.engines.reads import CountReads


def _loop(heatmaps, targets, weights):
    total = 0.0
    for person in range(heatmaps.shape[0]):
        for joint in range(heatmaps.shape[1]):
            squares = [
                (heatmaps[person, joint, y, x] - targets[person, joint, y, x]) ** 2
                for y in range(heatmaps.shape[2])
                for x in range(heatmaps.shape[3])
            ]
            total += weights[person][joint] * sum(squares) / len(squares)
    return total / heatmaps.shape[0]


@pytest.mark.parametrize("visibility", ["equal", "graded"])
@pytest.mark.parametrize("joint_weights", [None, (1.0, 1.5, 0.5)])
def test_as_a_loop(visibility, joint_weights):
    torch.manual_seed(0)
    heatmaps, targets = torch.rand(2, 2, 3, 4, 5).unbind(0)
    flags = torch.tensor([[0.0, 1.0, 2.0], [2.0, 2.0, 1.0]])
    weights = [
        [
            (flag if visibility == "graded" else min(flag, 1)) * weight
            for flag, weight in zip(row, joint_weights or [1] * 3, strict=True)
        ]
        for row in flags.tolist()
    ]
    loss_fn = HeatmapLoss(joint_weights, visibility)
    with CountReads() as counter:
        terms = loss_fn(heatmaps, targets, flags)
    assert not counter.reads
    assert list(terms) == ["loss_heatmap"]
    torch.testing.assert_close(terms["loss_heatmap"], torch.as_tensor(_loop(heatmaps, targets, weights)))


def test_joints_that_are_not_annotated_have_no_gradient():
    heatmaps = torch.rand(1, 3, 4, 4, requires_grad=True)
    HeatmapLoss()(heatmaps, torch.zeros(1, 3, 4, 4), torch.tensor([[0.0, 1.0, 2.0]]))["loss_heatmap"].backward()
    assert heatmaps.grad is not None
    assert [bool(grad.any()) for grad in heatmaps.grad[0]] == [False, True, True]


def test_coco_weights_and_refusals():
    assert len(COCO_JOINT_WEIGHTS) == 17
    # Elbows, wrists, knees and ankles in COCO's order.
    assert [i for i, weight in enumerate(COCO_JOINT_WEIGHTS) if weight == 1.2] == [7, 8, 13, 14]
    assert [i for i, weight in enumerate(COCO_JOINT_WEIGHTS) if weight == 1.5] == [9, 10, 15, 16]
    maps = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="one for each of 3 joints, got 17"):
        HeatmapLoss(COCO_JOINT_WEIGHTS)(maps, maps, torch.ones(1, 3))
    with pytest.raises(ValueError, match="must not be negative"):
        HeatmapLoss((-1.0, 1.0))
    with pytest.raises(ValueError, match="'equal' or 'graded'"):
        HeatmapLoss(visibility="tutorial")  # type: ignore[arg-type]
