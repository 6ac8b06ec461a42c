"""DeepPose (Toshev and Szegedy 2014): points as the output of a classifier's network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ignite_imgtools.models.classification import classifier
from ignite_imgtools.models.weights import load_weights, read_weights

__all__ = ["DeepPose", "begin_at_points", "deep_pose"]


class DeepPose(nn.Module):
    """A network whose last layer gives the coordinates of points.

    From images ``[B, 3, H, W]`` to points ``[B, K, 2]``, x and y as shares of the image's width and height: 0 to 1
    within the image, and not bounded.

    Args:
        backbone: from images to ``[B, 2 K]``, x and y of each point in turns.
    """

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        coordinates: Tensor = self.backbone(images)
        return coordinates.unflatten(1, (-1, 2))


def deep_pose(
    num_points: int, backbone: str = "resnet50", *, weights: str | Path = "none", image_size: int | None = None
) -> DeepPose:
    """DeepPose over any classifier of torchvision, the last layer of which is new.

    Args:
        num_points: ``K``.
        backbone: a name that :func:`~ignite_imgtools.models.classifier` knows.
        weights: ``"none"`` for random ones; ``"default"`` for torchvision's classifier, trained on ImageNet; or a file
            of such a classifier or of a DeepPose. The part that fits is loaded.
        image_size: see :func:`~ignite_imgtools.models.classifier`.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
        FileNotFoundError: there is no such file.
    """
    if num_points < 1:
        raise ValueError(f"num_points must be at least 1, got {num_points}")
    if weights in ("none", "default"):
        return DeepPose(classifier(backbone, 2 * num_points, weights=weights, image_size=image_size))
    model = DeepPose(classifier(backbone, 2 * num_points, image_size=image_size))
    state = read_weights(weights)
    try:
        load_weights(model, state, prefixes=("", "backbone."), source=weights)
    except ValueError as error:
        raise ValueError(f"weights {weights}: {error}") from error
    return model


def begin_at_points(model: nn.Module, points: Tensor) -> bool:
    """Let an untrained ``model`` answer nearly with ``points``, such as the mean face, whatever it is shown.

    From there a short training comes further than from the corner of the image, where a network with random weights
    sees all points. The bias of the last layer becomes ``points``, its weights a tenth of what they were.

    Args:
        points: ``[K, 2]``, as the model returns them.

    Returns:
        Whether there is such a layer, with a bias for as many points; otherwise nothing is changed.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    last = layers[-1] if layers else None
    if last is None or last.bias is None or last.bias.shape != (points.numel(),):
        return False
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.copy_(points.flatten())
    return True
