"""FCN, DeepLabV3 and LR-ASPP of torchvision with any number of classes, and all weights that fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import MobileNet_V3_Large_Weights, segmentation
from torchvision.models.segmentation import (
    LRASPP,
    DeepLabV3,
    DeepLabV3_MobileNet_V3_Large_Weights,
    DeepLabV3_ResNet50_Weights,
    DeepLabV3_ResNet101_Weights,
    FCN_ResNet50_Weights,
    FCN_ResNet101_Weights,
    LRASPP_MobileNet_V3_Large_Weights,
)
from torchvision.models.segmentation.deeplabv3 import ASPPPooling
from torchvision.models.segmentation.fcn import FCN, FCNHead

from ignite_imgtools.models.weights import default_weights, load_weights, read_weights

__all__ = ["deeplab_v3", "fcn", "lraspp"]

_Builders = dict[str, tuple[Callable[..., nn.Module], Any]]


def _fcn_mobilenet_v3_large(num_classes: int, **options: Any) -> FCN:
    """FCN over the backbone that torchvision's DeepLabV3 has, which keeps stride 16."""
    other = segmentation.deeplabv3_mobilenet_v3_large(num_classes=num_classes, **options)
    return FCN(other.backbone, FCNHead(960, num_classes), other.aux_classifier)


_FCN: _Builders = {
    "resnet50": (segmentation.fcn_resnet50, FCN_ResNet50_Weights.DEFAULT),
    "resnet101": (segmentation.fcn_resnet101, FCN_ResNet101_Weights.DEFAULT),
    "mobilenet_v3_large": (_fcn_mobilenet_v3_large, MobileNet_V3_Large_Weights.DEFAULT),
}
_DEEPLAB: _Builders = {
    "resnet50": (segmentation.deeplabv3_resnet50, DeepLabV3_ResNet50_Weights.DEFAULT),
    "resnet101": (segmentation.deeplabv3_resnet101, DeepLabV3_ResNet101_Weights.DEFAULT),
    "mobilenet_v3_large": (segmentation.deeplabv3_mobilenet_v3_large, DeepLabV3_MobileNet_V3_Large_Weights.DEFAULT),
}
_LRASPP: _Builders = {
    "mobilenet_v3_large": (segmentation.lraspp_mobilenet_v3_large, LRASPP_MobileNet_V3_Large_Weights.DEFAULT)
}


def fcn(num_classes: int, backbone: str = "resnet50", aux: bool = True, *, weights: str | Path = "none") -> FCN:
    """FCN (Long et al. 2015) over a network that keeps stride 8, or 16 with MobileNetV3.

    Args:
        num_classes: the background counts as one.
        backbone: ``"resnet50"``, ``"resnet101"`` or ``"mobilenet_v3_large"``: 35.3, 54.3 or 5.1 million parameters
            with 21 classes and ``aux``.
        aux: a second head on an earlier layer; it gives ``"aux"``, for the loss.
        weights: ``"none"`` for random ones; ``"default"`` for torchvision's, trained on COCO with the 21 classes of
            VOC, or for MobileNetV3 the classifier of ImageNet; or a file of such a model or classifier. The part that
            fits is loaded: with another number of classes all but the last layer of each head.

    Returns:
        A model from images ``[B, 3, H, W]`` to ``{"out": logits [B, num_classes, H, W]}`` and ``"aux"`` of the same
        shape.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
        FileNotFoundError: there is no such file.
    """
    model: FCN = _create(_FCN, backbone, num_classes, weights, aux_loss=aux)
    return model


def deeplab_v3(
    num_classes: int, backbone: str = "resnet50", aux: bool = True, *, weights: str | Path = "none"
) -> DeepLabV3:
    """DeepLabV3 (Chen et al. 2017) over a network that keeps stride 8, or 16 with MobileNetV3.

    It can be trained with one image on a process: the pooled branch, which then has a single value in each channel,
    is normalised by the running statistics.

    Args:
        num_classes: the background counts as one.
        backbone: ``"resnet50"``, ``"resnet101"`` or ``"mobilenet_v3_large"``: 42.0, 61.0 or 11.0 million parameters
            with 21 classes and ``aux``.
        aux: a second head on an earlier layer; it gives ``"aux"``, for the loss.
        weights: as for :func:`fcn`.

    Returns:
        As :func:`fcn`.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
        FileNotFoundError: there is no such file.
    """
    model: DeepLabV3 = _create(_DEEPLAB, backbone, num_classes, weights, aux_loss=aux)
    for module in model.modules():
        if isinstance(module, ASPPPooling):
            normalisation = module[2]
            module[2] = _PooledBatchNorm(normalisation.num_features)
            module[2].load_state_dict(normalisation.state_dict())
    return model


def lraspp(num_classes: int, backbone: str = "mobilenet_v3_large", *, weights: str | Path = "none") -> LRASPP:
    """LR-ASPP (Howard et al. 2019) over MobileNetV3-Large: 3.22 million parameters with 21 classes.

    Args:
        num_classes: the background counts as one.
        backbone: ``"mobilenet_v3_large"``.
        weights: as for :func:`fcn`.

    Returns:
        As :func:`fcn`, without ``"aux"``.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
        FileNotFoundError: there is no such file.
    """
    model: LRASPP = _create(_LRASPP, backbone, num_classes, weights)
    return model


class _PooledBatchNorm(nn.BatchNorm2d):
    """Normalises by the running statistics where a batch has a single value in each channel."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def _create(builders: _Builders, backbone: str, num_classes: int, weights: str | Path, **options: Any) -> Any:
    if backbone not in builders:
        raise ValueError(f"backbone must be one of {', '.join(builders)}, got {backbone!r}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    build, published = builders[backbone]
    model = build(weights=None, weights_backbone=None, num_classes=num_classes, **options)
    if weights == "default":
        _load_state(model, default_weights(published))
    elif weights != "none":
        state = read_weights(weights)
        try:
            _load_state(model, state)
        except ValueError as error:
            raise ValueError(f"weights {weights}: {error}") from error
    return model


def _load_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    # The layers of a MobileNet are numbered within "features" in the classifier, and at once in a segmenter's backbone.
    load_weights(
        model,
        {name.removeprefix("features."): value for name, value in state.items()},
        prefixes=("", "backbone."),
    )
