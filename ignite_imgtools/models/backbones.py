"""Backbones of detectors: a classifier of torchvision up to some of its stages, with or without a feature pyramid."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, takewhile
from typing import Any

import torch
from torch import Tensor, fx, nn
from torchvision import models, ops
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.feature_extraction import NodePathTracer, create_feature_extractor
from torchvision.models.resnet import ResNet
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool

__all__ = ["FeatureBackbone", "create_backbone", "resnet_fpn", "stage_nodes"]

_NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "frozen": FrozenBatchNorm2d,
    "sync": nn.SyncBatchNorm,
}
_STRIDES = (2, 4, 8, 16, 32)
_PROBE = 256  # pixels, divisible by every stride
# What create_feature_extractor does not look into either.
_LEAVES = [kind for _, kind in inspect.getmembers(ops, inspect.isclass) if issubclass(kind, nn.Module)]


def create_backbone(
    name: str,
    *,
    strides: Sequence[int] = (4, 8, 16, 32),
    fpn_channels: int | None = 256,
    extra_blocks: ExtraFPNBlock | None = None,
    norm: str = "batch",
    trainable_layers: int = 5,
) -> nn.Module:
    """A classifier of torchvision with random weights as the backbone of a detector.

    ResNets with a pyramid have torchvision's own names of weights (:func:`resnet_fpn`).

    Args:
        name: of the function in ``torchvision.models``.
        strides: of the feature maps that are taken: of each the last one in the network.
        fpn_channels: of each level of the feature pyramid; ``None`` for the feature maps as they are.
        extra_blocks: makes further levels of the pyramid; by default one more, by max-pooling.
        norm: ``"batch"``, ``"frozen"`` or ``"sync"``: what its batch normalisation is replaced by.
        trainable_layers: 0..5, how many of its stages (strides 2, 4, 8, 16, 32) are trained, counted from the end.

    Returns:
        A module from images ``[B, 3, H, W]`` to an ordered dict of feature maps, with ``out_channels``.

    Raises:
        ValueError: an argument is out of range, or the model has no feature map of such a stride.
    """
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {sorted(_NORMS)}, got {norm!r}")
    if not 0 <= trainable_layers <= 5:
        raise ValueError(f"trainable_layers must be in 0..5, got {trainable_layers}")
    if name not in models.list_models(models):
        raise ValueError(f"backbone must be one of {', '.join(models.list_models(models))}, got {name!r}")
    if name.startswith(("resnet", "resnext", "wide_resnet")) and fpn_channels is not None:
        levels = [_STRIDES.index(stride) for stride in strides]
        return resnet_fpn(
            name,
            norm=norm,
            trainable_layers=trainable_layers,
            out_channels=fpn_channels,
            levels=levels,
            extra_blocks=extra_blocks,
        )
    return FeatureBackbone(name, strides, fpn_channels, extra_blocks, norm, trainable_layers)


def resnet_fpn(
    name: str,
    *,
    norm: str = "batch",
    trainable_layers: int = 5,
    out_channels: int = 256,
    levels: Sequence[int] = (1, 2, 3, 4),
    extra_blocks: ExtraFPNBlock | None = None,
) -> BackboneWithFPN:
    """A ResNet of torchvision with random weights under a feature pyramid.

    Args:
        name: of the function in ``torchvision.models``.
        norm: ``"batch"``, ``"frozen"`` or ``"sync"``.
        trainable_layers: 0..5, counted from the end; the parameters of the others do not require gradients.
        out_channels: of each level.
        levels: which of its layers 1 to 4 (strides 4 to 32) the pyramid stands on.
        extra_blocks: makes further levels; by default one more, by max-pooling.

    Raises:
        ValueError: an argument is out of range.
    """
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {sorted(_NORMS)}, got {norm!r}")
    if not 0 <= trainable_layers <= 5:
        raise ValueError(f"trainable_layers must be in 0..5, got {trainable_layers}")
    known = [model for model in models.list_models(models) if model.startswith(("resnet", "resnext", "wide_resnet"))]
    if name not in known:
        raise ValueError(f"backbone must be one of {', '.join(known)}, got {name!r}")
    resnet: ResNet = models.get_model(name, weights=None, norm_layer=_NORMS[norm])
    trained = ("layer4", "layer3", "layer2", "layer1", "conv1")[:trainable_layers] + ("bn1",) * (trainable_layers == 5)
    for parameter_name, parameter in resnet.named_parameters():
        parameter.requires_grad_(parameter_name.startswith(trained) if trained else False)
    widths = [resnet.inplanes // 16 * 2**level for level in levels]
    layers = {f"layer{level}": str(place) for place, level in enumerate(levels)}
    return BackboneWithFPN(resnet, layers, widths, out_channels, extra_blocks)


class FeatureBackbone(nn.Module):
    """Any convolutional classifier of torchvision, cut open where its feature maps have the wanted strides.

    See :func:`create_backbone` for the arguments. Its weights are called ``body.*``, as in the classifier, and
    ``fpn.*``.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int] = (4, 8, 16, 32),
        fpn_channels: int | None = 256,
        extra_blocks: ExtraFPNBlock | None = None,
        norm: str = "batch",
        trainable_layers: int = 5,
    ):
        super().__init__()
        nodes = stage_nodes(name)
        if missing := [stride for stride in strides if stride not in nodes]:
            raise ValueError(f"{name} has no feature map of stride {missing[0]}, only of {', '.join(map(str, nodes))}")
        chosen = [nodes[stride] for stride in strides]
        with _without_warnings():
            wanted = {node: str(level) for level, (node, _) in enumerate(chosen)}
            self.body: nn.Module = create_feature_extractor(models.get_model(name, weights=None), wanted)
        _freeze(self.body, name, trainable_layers)
        self.body = _with_norm(self.body, norm)
        widths = [channels for _, channels in chosen]
        self.fpn: FeaturePyramidNetwork | None = None
        self.out_channels = widths[-1]
        if fpn_channels is not None:
            extra = LastLevelMaxPool() if extra_blocks is None else extra_blocks
            self.fpn = FeaturePyramidNetwork(widths, fpn_channels, extra)
            self.out_channels = fpn_channels
        elif len(strides) != 1:
            raise ValueError(f"without a feature pyramid there must be one stride, got {list(strides)}")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features: dict[str, Tensor] = self.body(images)
        return features if self.fpn is None else self.fpn(features)


def stage_nodes(name: str) -> dict[int, tuple[str, int]]:
    """Where a classifier of torchvision ends its stages: ``{stride: (node of its graph, channels)}``.

    A stage ends where all that follows is computed from one feature map, before the block that halves it.

    Raises:
        ValueError: it has no feature maps in the order ``[B, C, H, W]``.
    """
    return {stride: (stage.node, stage.channels) for stride, stage in _stages(name).items()}


@dataclass(frozen=True)
class _Stage:
    node: str
    channels: int
    used: frozenset[str]
    """Paths of the modules that are called and of the parameters that are read until its end."""


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shape that each node gives out."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, node: fx.Node) -> Any:
        output = super().run_node(node)
        if isinstance(output, Tensor):
            self.shapes[node] = output.shape
        return output


@lru_cache(maxsize=8)
def _stages(name: str) -> dict[int, _Stage]:
    try:
        # Nothing is computed on the meta device, only shapes.
        graph, names, shapes = _trace(name, "meta")
    except NotImplementedError:  # some initialise their weights with real numbers
        graph, names, shapes = _trace(name, "cpu")
    except (AssertionError, RuntimeError, fx.proxy.TraceError) as error:
        raise ValueError(f"backbone {name!r} cannot be cut into stages: take a convolutional model") from error
    strides = {node: _PROBE // shape[2] for node, shape in shapes.items() if _is_feature_map(shape)}
    nodes = list(graph.nodes)
    last_use = {node: max((nodes.index(user) for user in node.users), default=0) for node in nodes}
    stages: dict[int, _Stage] = {}
    reach = 0  # the last place where anything computed so far is used
    used: set[str] = set()
    for place, node in enumerate(nodes):
        if node.op in ("call_module", "get_attr"):
            used.add(str(node.target))
        alone = reach <= place
        reach = max(reach, last_use[node])
        if not alone or strides.get(node) not in _STRIDES:
            continue
        stride = strides[node]
        following = next((names[n] for n in nodes[place + 1 :] if strides.get(n, 0) > stride and n in names), "")
        stage = _Stage(names[node], shapes[node][1], frozenset(used))
        if stride not in stages or _common(stage.node, following) <= _common(stages[stride].node, following):
            stages[stride] = stage
    if not stages:
        raise ValueError(f"backbone {name!r} has no feature maps in the order B, C, H, W: take a convolutional model")
    return dict(sorted(stages.items()))


def _trace(name: str, device: str) -> tuple[fx.Graph, dict[fx.Node, str], dict[fx.Node, torch.Size]]:
    with torch.device(device):
        model = models.get_model(name, weights=None).eval()
        tracer = NodePathTracer(leaf_modules=_LEAVES)
        graph = tracer.trace(model)
        shapes = _Shapes(fx.GraphModule(tracer.root, graph))
        with torch.no_grad():
            shapes.run(torch.zeros(1, 3, _PROBE, _PROBE))
    return graph, dict(tracer.node_to_qualname), shapes.shapes


def _is_feature_map(shape: torch.Size) -> bool:
    return len(shape) == 4 and shape[2] == shape[3] and _PROBE % shape[2] == 0


def _common(path: str, other: str) -> int:
    """How many leading components two paths share."""
    pairs = zip(path.split("."), other.split("."), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _freeze(body: nn.Module, name: str, trainable_layers: int) -> None:
    """Take the gradients off the stages that are not trained: all that is called before the end of the last of them."""
    frozen = [stage for stride, stage in _stages(name).items() if stride in _STRIDES[: 5 - trainable_layers]]
    if trainable_layers == 0:
        body.requires_grad_(False)
    elif frozen:
        for name, parameter in body.named_parameters():
            if any(path in frozen[-1].used for path in accumulate(name.split("."), "{}.{}".format)):
                parameter.requires_grad_(False)


def _with_norm(module: nn.Module, norm: str) -> nn.Module:
    if norm == "sync":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return converted
    if norm == "frozen":
        for path, child in list(module.named_modules()):
            if isinstance(child, nn.BatchNorm2d):
                parent, _, last = path.rpartition(".")
                setattr(module.get_submodule(parent), last, FrozenBatchNorm2d(child.num_features, child.eps))
    return module


class _without_warnings(warnings.catch_warnings):
    # The graphs in training and in evaluation mode differ by dropout, which the tracer warns of.
    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
