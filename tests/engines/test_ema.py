from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ignite_imgtools.engines import ExponentialMovingAverage


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.tied = nn.Conv2d(2, 3, 1)
        self.tied.weight = self.conv.weight
        self.register_buffer("constant", torch.arange(3.0), persistent=False)
        self.register_buffer("table", torch.arange(4))

    def forward(self, x):
        return self.norm(self.conv(x) + self.tied(x))


def _move(model, seed):
    """Change parameters and statistics as a training step would."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.train()(torch.randn(4, 2, 5, 5))


def test_equals_torch_averaged_model():
    model = _Net()
    ema = ExponentialMovingAverage(model, decay=0.7, warmup=None)
    # torch's average starts with the first model that it is updated with.
    expected = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True)
    expected.update_parameters(model)
    for seed in range(6):
        _move(model, seed)
        ema.update()
        expected.update_parameters(model)
    state = expected.module.state_dict()
    del state["norm.num_batches_tracked"]
    averaged = {name: ema.module.state_dict()[name] for name in state}
    torch.testing.assert_close(averaged, state)
    assert ema.module.norm.num_batches_tracked == model.norm.num_batches_tracked == 6
    assert ema.num_updates == 6


def test_warm_up_follows_its_formula():
    model = nn.Linear(1, 1, bias=False)
    ema = ExponentialMovingAverage(model, decay=0.6, warmup=4.0)
    value = model.weight.item()
    for keep in (1 / 4, 2 / 5, 3 / 6, 4 / 7, 0.6, 0.6):  # 5 / 8 would be above the decay
        nn.init.normal_(model.weight)
        ema.update()
        value = keep * value + (1 - keep) * model.weight.item()
        assert ema.module.weight.item() == pytest.approx(value, rel=1e-5)


def test_the_average_is_a_model_of_its_own():
    model = _Net().train()
    ema = ExponentialMovingAverage(model)
    for seed in range(2):
        _move(model, seed)
        ema.update()
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in ema.module.state_dict().values())
    assert not any(module.training for module in ema.module.modules())
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert ema.module.tied.weight is ema.module.conv.weight
    before = ema.module.norm.running_mean.clone()
    _move(model, 9)
    assert torch.equal(ema.module.norm.running_mean, before)


def test_looks_through_wrappers_and_replaced_buffers():
    model = nn.BatchNorm1d(2)
    ema = ExponentialMovingAverage(nn.DataParallel(model), decay=0.5, warmup=None)
    model.double().float()  # puts other tensors in the place of the buffers
    model.running_mean.fill_(1)
    ema.update()
    assert ema.module.running_mean.tolist() == [0.5, 0.5]
    assert all("module" not in name for name in ema.state_dict()["module"])


def test_state_goes_through_a_safe_file(tmp_path):
    model = _Net()
    ema = ExponentialMovingAverage(model)
    _move(model, 0)
    ema.update()
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    other = ExponentialMovingAverage(_Net())
    other.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    torch.testing.assert_close(other.state_dict(), ema.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"decay": 1.5}, r"decay must be in 0\.\.1, got 1\.5"), ({"warmup": 1.0}, "warmup must be above 1 or None")],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        ExponentialMovingAverage(nn.Linear(1, 1), **arguments)
