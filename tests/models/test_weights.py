from __future__ import annotations

import argparse
import logging
import os
import pickle

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from ignite_imgtools.models import faster_rcnn, load_weights, read_weights


def _model(classes=3, seed=0):
    torch.manual_seed(seed)
    return nn.ModuleDict({"body": nn.Linear(4, 8), "norm": nn.BatchNorm1d(8), "head": nn.Linear(8, classes)})


def test_loads_the_part_that_fits_and_says_which(tmp_path, caplog):
    trained, model = _model(classes=5, seed=1), _model()
    state = trained.state_dict()
    state["extra.weight"] = torch.ones(1)
    del state["norm.bias"]
    torch.save(state, tmp_path / "weights.pth")
    head = model["head"].weight.clone()
    with caplog.at_level(logging.INFO):
        report = load_weights(model, tmp_path / "weights.pth")
    assert set(report.loaded) == {
        "body.weight",
        "body.bias",
        "norm.weight",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }
    assert report.missing == ("norm.bias",)
    assert report.other_shape == ("head.weight", "head.bias")
    assert report.unexpected == ("extra.weight",)
    assert torch.equal(model["body"].weight, trained["body"].weight)
    assert torch.equal(model["head"].weight, head)
    assert caplog.messages == [str(report)]
    assert str(report) == (
        f"{tmp_path / 'weights.pth'}: 6 weights loaded; "
        "2 left as they were for another shape (head.weight, head.bias); 1 not in the file (norm.bias); "
        "1 of the file not used (extra.weight)"
    )


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_checkpoints_and_wrappers(tmp_path, wrapper, key):
    trained, model = _model(seed=1), _model()
    state = {wrapper + name: value for name, value in trained.state_dict().items()}
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "weights.pth")
    report = load_weights(nn.DataParallel(model), tmp_path / "weights.pth")
    assert not report.missing
    assert not report.unexpected
    torch.testing.assert_close(model.state_dict(), trained.state_dict(), rtol=0, atol=0)


def test_prefix_that_fits_most():
    model = nn.ModuleDict({"backbone": _model()})
    report = load_weights(model, _model(seed=1).state_dict(), prefixes=("", "backbone."))
    assert not report.missing
    assert not report.unexpected


class _Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL_MARK"],)


def test_files_that_are_no_weights(tmp_path, monkeypatch):
    model, path = _model(), tmp_path / "weights.pth"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setenv("EVIL_MARK", str(tmp_path / "evil"))

    with pytest.raises(FileNotFoundError, match=r"weights .*weights\.pth: no such file; give a path"):
        load_weights(model, path)
    contents = {
        "text": (lambda: path.write_text("hello"), "not a file of weights that can be read safely"),
        "empty": (lambda: path.write_bytes(b""), "not a file of weights that can be read safely"),
        "evil": (lambda: path.write_bytes(pickle.dumps({"body.weight": _Evil()})), "can be read safely"),
        "evil zip": (lambda: torch.save({"body.weight": _Evil()}, path), "can be read safely"),
        "list": (lambda: torch.save([1, 2], path), "expected a state dict or a checkpoint with 'model', found list"),
        "numbers": (lambda: torch.save({"epoch": 1}, path), r"found \['epoch'\]"),
        "other model": (lambda: torch.save({"conv1.weight": torch.ones(3)}, path), "no weights fit the model"),
        "other shapes": (lambda: torch.save({"body.weight": torch.ones(3)}, path), "no weights fit the model"),
    }
    for write, message in contents.values():
        write()
        with pytest.raises(ValueError, match=message) as error:
            load_weights(model, path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not (tmp_path / "evil").exists()


def test_read_weights_keeps_tensors_alone(tmp_path):
    torch.save({"model": {"a": torch.ones(2), "epoch": 3}}, tmp_path / "weights.pth")
    assert read_weights(tmp_path / "weights.pth").keys() == {"a"}


def test_default_weights_of_a_backbone(hub):
    torch.manual_seed(7)
    classifier = resnet18()
    torch.save(classifier.state_dict(), hub / ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[1])
    model = faster_rcnn(3, backbone="resnet18", weights="default", fpn_channels=8, representation=8)
    body = model.backbone.body.state_dict()
    torch.testing.assert_close(body, {name: classifier.state_dict()[name] for name in body}, rtol=0, atol=0)
    frozen = {name.split(".")[0] for name, p in model.backbone.body.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}  # 3 of the 5 stages are trained


def test_default_weights_of_the_whole_detector(hub):
    torch.manual_seed(7)
    published = faster_rcnn(91)
    state = published.state_dict()
    # The published file has the names of an older torchvision, and no counters.
    state = {name.replace("rpn.head.conv.0.0.", "rpn.head.conv."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if "num_batches_tracked" not in name}
    torch.save(state, hub / FasterRCNN_ResNet50_FPN_Weights.DEFAULT.url.rsplit("/", 1)[1])
    model = faster_rcnn(4, weights="default", norm="frozen")
    kept = {name: value for name, value in model.state_dict().items() if "box_predictor" not in name}
    expected = published.state_dict()
    torch.testing.assert_close(kept, {name: expected[name] for name in kept}, rtol=0, atol=0)
    assert model.roi_heads.box_predictor.cls_score.out_features == 4
    assert model.backbone.body.bn1.eps == 0.0


def test_default_weights_that_cannot_be_downloaded(hub, monkeypatch):
    def offline(url, *args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError, match=r"cannot download https://.*resnet18.* \(no network\); put that file at"):
        faster_rcnn(3, backbone="resnet18", weights="default")


def test_checkpoints_with_the_arguments_of_a_script(tmp_path):
    model, path = nn.Linear(2, 3), tmp_path / "model_3.pth"
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(lr=0.02, data_path="/data", resume="", amp=False, lr_steps=[7, 12])
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [7, 12])
    content = {"model": {f"module.{k}": v for k, v in model.state_dict().items()}, "optimizer": optimizer.state_dict()}
    torch.save(content | {"lr_scheduler": scheduler.state_dict(), "epoch": 3, "args": arguments}, path)
    read = read_weights(path)
    assert read.keys() == model.state_dict().keys()
    assert all(torch.equal(read[name], value) for name, value in model.state_dict().items())


class _Namespace(argparse.Namespace):
    def __setstate__(self, state):
        raise AssertionError("code of the file was run")


def test_what_only_looks_like_arguments_is_not_run(tmp_path):
    torch.save({"model": {"weight": torch.ones(1)}, "args": _Namespace(lr=1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: not a file of weights that can be read safely"):
        read_weights(tmp_path / "a.pth")
