"""Compiled in place, a model says the same and keeps the names of its weights."""

import copy

import pytest
import torch

from ignite_imgtools import losses, models


def _detector(name):
    options = {"norm": "batch", "min_size": 64, "max_size": 64}
    return getattr(models, name)(3, backbone="resnet18", **options)


def _yolo():
    return models.yolov3_spp(3, width=0.125, size=64, loss_fn=losses.YoloLoss())


@pytest.mark.parametrize(
    ("create", "part"),
    [
        (lambda: models.unet(2, base_channels=4), ""),
        (lambda: models.classifier("shufflenet_v2_x0_5", 3), ""),
        (lambda: _detector("faster_rcnn"), "backbone"),
        (lambda: _detector("retinanet"), "backbone"),
        (_yolo, "network"),
    ],
    ids=["unet", "classifier", "faster_rcnn", "retinanet", "yolov3_spp"],
)
def test_what_is_compiled_and_that_names_stay(create, part):
    model = create()
    names = list(model.state_dict())
    copied = copy.deepcopy(model)
    compiled = models.compile_network(model, "eager")
    assert compiled is model.get_submodule(part)
    assert compiled._compiled_call_impl is not None
    assert list(model.state_dict()) == names
    # The moving average is a copy; one made later is not compiled either.
    assert all(module._compiled_call_impl is None for module in [*copied.modules(), *copy.deepcopy(model).modules()])


def test_it_says_the_same_and_learns_the_same():
    torch.manual_seed(0)
    model = models.unet(2, base_channels=4)
    twin = copy.deepcopy(model)
    calls = []

    def backend(graph, inputs):
        calls.append(len(inputs))
        return graph.forward

    models.compile_network(model, backend)
    images = torch.rand(2, 3, 32, 32)
    outputs = [each(images)["out"] for each in (model, twin)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().mean().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert calls
