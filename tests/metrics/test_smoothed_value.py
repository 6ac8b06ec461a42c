"""SmoothedValue beside the meter of torchvision's references, written out."""

from __future__ import annotations

import math
from collections import deque

import pytest
import torch
from ignite.engine import Engine

from ignite_imgtools.metrics import MeterBank, SmoothedValue


def test_it_reads_as_the_meter_people_know() -> None:
    meter, window = SmoothedValue(window=4), deque(maxlen=4)
    total = count = 0.0
    for i, value in enumerate([0.5, 2.5, -1.0, 4.0, 8.0, 3.0]):
        meter.update((torch.tensor(value), i + 1))
        window.append(value)
        total, count = total + value * (i + 1), count + i + 1
    newest = torch.tensor(list(window))
    assert meter.median == newest.median().item()
    assert meter.avg == newest.mean().item()
    assert (meter.max, meter.value) == (max(window), 3.0)
    assert meter.global_avg == meter.compute() == total / count
    assert str(meter) == f"{meter.median:.4f} ({meter.global_avg:.4f})"


def test_a_meter_that_was_never_updated_gives_nan() -> None:
    meter = SmoothedValue()
    assert all(math.isnan(n) for n in (meter.median, meter.avg, meter.max, meter.value, meter.global_avg))
    assert str(meter) == "nan (nan)"
    meter.load_state_dict(meter.state_dict())
    meter.update(1)
    meter.reset()
    assert math.isnan(meter.global_avg)


def test_attached_it_gives_the_mean_of_each_epoch() -> None:
    trainer = Engine(lambda engine, batch: {"loss": torch.tensor(float(batch)), "batch_size": batch})
    SmoothedValue(output_transform=lambda output: (output["loss"], output["batch_size"])).attach(trainer, "loss")
    for _ in range(2):  # reset in between
        assert trainer.run([1, 2, 3]).metrics["loss"] == pytest.approx(14 / 6)


def test_meters_of_one_bank_are_read_and_reset_apart() -> None:
    bank = MeterBank(20)
    loss, norm = SmoothedValue(bank=bank, name="loss"), SmoothedValue(bank=bank, name="norm")
    for i in range(5):
        loss.update(torch.tensor(float(i)))
        norm.update(10.0 * i)
    assert (loss.median, norm.median) == (2.0, 20.0)
    loss.reset()
    assert math.isnan(loss.value)
    assert norm.value == 40.0
    with pytest.raises(ValueError, match="window must be that of the bank, 20, got 5"):
        SmoothedValue(window=5, bank=bank)
