"""Times and the estimate of what is left; what is metered is tested with the log."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from ignite.engine import Engine

from ignite_imgtools.handlers.training_meters import TrainingMeters, TrainingReading


class _SlowLoader:
    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[int]:
        for i in range(6):
            time.sleep(0.03)
            yield i


def test_times_of_an_iteration_of_waiting_and_of_what_is_left() -> None:
    readings: list[TrainingReading] = []
    epochs: list[tuple[float, int]] = []
    meters = TrainingMeters(
        20, lambda _, reading: readings.append(reading), lambda _, *epoch: epochs.append((epoch[0], epoch[1]))
    )
    trainer = Engine(lambda engine, batch: time.sleep(0.02))
    meters.attach(trainer, every=3)
    trainer.run(_SlowLoader(), max_epochs=2)
    # Sleep may last longer on a busy machine, never shorter.
    for reading in readings:
        assert reading.data_time >= 0.029
        assert reading.time - reading.data_time >= 0.019
        assert reading.interval_time >= 0.049
    assert [reading.position for reading in readings] == [3, 6, 3, 6]
    assert readings[0].eta == pytest.approx(3 * readings[0].interval_time)
    assert readings[1].eta == 0
    assert [iterations for _, iterations in epochs] == [6, 6]
    assert epochs[0][0] == pytest.approx(3 * (readings[0].interval_time + readings[1].interval_time))
    meters.detach()
    trainer.run(_SlowLoader(), max_epochs=3)
    assert len(readings) == 4


def test_every_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="every must be at least 1"):
        TrainingMeters(20, print).attach(Engine(lambda engine, batch: None), 0)
