from __future__ import annotations

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from ignite_imgtools import engines, handlers
from tests.distributed.spawn import run_processes
from tests.engines.tiny_segmenters import TinySegmenter


def _named(model, groups):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [sorted(names[parameter] for parameter in group["params"]) for group in groups]


def test_a_head_learns_ten_times_as_fast_and_one_dimension_does_not_decay():
    model = TinySegmenter(aux=True)
    groups = engines.parameter_groups(model, 0.1, 0.01, lr_factors={"aux_classifier": 10}, decay_one_dimensional=False)
    assert _named(model, groups) == [
        ["features.0.weight", "head.weight"],
        ["features.0.bias", "features.1.bias", "features.1.weight", "head.bias"],
        ["aux_classifier.weight"],
        ["aux_classifier.bias"],
    ]
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.1, 0.01), (0.1, 0), (1.0, 0.01), (1.0, 0)]
    # A schedule scales all of them alike.
    optimizer = torch.optim.SGD(groups, 0.1)
    schedule = handlers.warmup_poly(optimizer, 4)
    for _ in range(2):
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 * 0.5**0.9] * 2 + [0.5**0.9] * 2)


def test_every_parameter_that_is_trained_is_in_one_group():
    model = TinySegmenter(aux=True)
    model.features[0].requires_grad_(False)
    groups = engines.parameter_groups(model, 0.1, 0.01, lr_factors={"head": 2})
    assert [len(group["params"]) for group in groups] == [4, 2]
    held = [parameter for group in groups for parameter in group["params"]]
    assert len(held) == len(set(held)) == sum(p.requires_grad for p in model.parameters())


def test_names_are_of_whole_modules():
    model = TinySegmenter(aux=True)
    for name in ("aux", "nothing"):
        with pytest.raises(ValueError, match=f"lr_factors: '{name}' is no part of the model"):
            engines.parameter_groups(model, 0.1, 0, lr_factors={name: 10})
    with pytest.raises(ValueError, match="no parameters to train"):
        engines.parameter_groups(model.requires_grad_(False), 0.1, 0)


def _wrapped():
    model = DistributedDataParallel(TinySegmenter(aux=True))
    groups = engines.parameter_groups(model, 0.1, 0, lr_factors={"aux_classifier": 10})
    return [len(group["params"]) for group in groups]


def test_a_wrapper_makes_no_difference():
    assert run_processes(_wrapped, 2) == [[6, 2]] * 2
