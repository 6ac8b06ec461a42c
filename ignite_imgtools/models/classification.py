"""Any classifier of torchvision with any number of classes, and all weights that fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models

from ignite_imgtools.models.weights import default_weights, load_weights, read_weights

__all__ = ["classifier", "classifier_head"]

# What torchvision calls the last part of its classifiers.
_HEADS = ("fc", "classifier", "heads", "head")
# DenseNet's published weights have names of its first version, with dots where attributes now have none.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


def classifier(
    name: str,
    num_classes: int,
    *,
    weights: str | Path = "none",
    image_size: int | None = None,
    dropout: float | None = None,
) -> nn.Module:
    """A classifier of torchvision by its name there, with a head of one's own number of classes.

    Inception and GoogLeNet come without their auxiliary heads.

    Args:
        name: such as ``"resnet34"``, ``"mobilenet_v3_small"``, ``"convnext_tiny"``, ``"vit_b_16"``: any of
            ``torchvision.models.list_models(module=torchvision.models)``.
        num_classes: number of logits.
        weights: ``"none"`` for random ones; ``"default"`` for torchvision's, trained on ImageNet; or a file of such a
            model. The part that fits by name and shape is loaded: all but the head where the number of classes differs.
        image_size: side of the images, for the models that are made for one size (``vit_*``, ``maxvit_t``); by default
            224.
        dropout: probability before the last layer, for the models that have it (``mobilenet_*``, ``efficientnet_*``,
            ``vit_*`` and others).

    Returns:
        A model from images ``[B, 3, H, W]`` to logits ``[B, num_classes]``.

    Raises:
        ValueError: an argument is out of range, or the weights do not fit.
        FileNotFoundError: there is no such file.
    """
    known = list_models(module=torchvision.models)
    if name not in known:
        family = re.split(r"[\d_]", name)[0]
        close = [other for other in known if family and other.startswith(family)] or known
        shown = ", ".join(close[:12]) + (", ..." if close[12:] else "")
        raise ValueError(f"model must be a classifier of torchvision, such as {shown}, got {name!r}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Their published weights expect images in -1..1, which the models make of images normalised as usual.
        options = {"aux_logits": False, "init_weights": True, "transform_input": True}
    elif name.startswith("vit_") and image_size is not None:
        options = {"image_size": image_size}
    elif name == "maxvit_t":
        options = {"input_size": (image_size or 224, image_size or 224)}
    if dropout is not None:
        options["dropout"] = dropout
    try:
        model: nn.Module = get_model(name, weights=None, num_classes=num_classes, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model {name} cannot be made so: {error}") from error
    if weights == "default":
        default = get_model_weights(name).DEFAULT
        _load_state(model, default_weights(default), str(default))
    elif weights != "none":
        state = read_weights(weights)
        try:
            _load_state(model, state, weights)
        except ValueError as error:
            raise ValueError(f"weights {weights}: {error}") from error
    return model


def classifier_head(model: nn.Module) -> nn.Module:
    """The last part of a classifier of torchvision: what has to be learned anew for other classes.

    Raises:
        ValueError: the model has no part of one of the names that torchvision gives it.
    """
    for name in _HEADS:
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            return head
    raise ValueError(f"{type(model).__name__} has no part called {', '.join(_HEADS)}")


def _load_state(model: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    load_weights(model, {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in state.items()}, source=source)
