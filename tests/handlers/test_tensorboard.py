"""What TensorBoard reads from a run folder."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from ignite_imgtools.handlers import MetricLogger, attach_tensorboard, evaluate_on_epoch
from ignite_imgtools.handlers.event_file import EventFile, _as_record
from ignite_imgtools.handlers.figures import create_figure
from ignite_imgtools.handlers.training_meters import MeterBank


def _trainer() -> Engine:
    return Engine(
        lambda engine, batch: {"loss": torch.tensor(float(engine.state.iteration)), "b": 1, "batch_size": batch}
    )


def _read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return events.Reload()


def _scalars(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tags_and_steps_are_those_of_the_design(tmp_path: Path) -> None:
    trainer, evaluator = _trainer(), Engine(lambda engine, batch: None)
    parameters = [{"params": [torch.zeros(1)], "lr": lr} for lr in (0.5, 0.25)]
    optimizer = torch.optim.SGD(parameters)
    attach_tensorboard(tmp_path, trainer, optimizer, {"val": evaluator}, every=2)
    evaluate_on_epoch(trainer, evaluator, [0])

    @evaluator.on(Events.EPOCH_COMPLETED)
    def publish() -> None:
        figure, (ax,) = create_figure()
        ax.plot([0, 1], [1, 0])
        evaluator.state.metrics = {"bbox/AP": 0.25, "matrix": np.zeros((2, 2))}
        evaluator.state.images = {"predictions": np.full((40, 60, 3), 200, dtype=np.uint8)}
        evaluator.state.figures = {"pr_curve": figure}

    trainer.run([2, 2, 2, 2, 4], max_epochs=2)
    events = _read(tmp_path)
    assert sorted(events.Tags()["scalars"]) == [
        *("train/b", "train/data_time", "train/loss", "train/lr/group_0", "train/lr/group_1", "train/time"),
        "val/bbox/AP",
    ]
    assert sorted(events.Tags()["images"]) == ["val/pr_curve", "val/predictions"]
    assert _scalars(events, "train/loss") == [(2, 1.5), (4, 3.5), (5, 5.0), (7, 6.5), (9, 8.5), (10, 10.0)]
    assert _scalars(events, "train/lr/group_1")[0] == (2, 0.25)
    assert _scalars(events, "val/bbox/AP") == [(5, 0.25), (10, 0.25)]
    picture = events.Images("val/predictions")[0]
    decoded = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)))
    assert (picture.step, decoded.shape) == (5, (40, 60, 3))
    assert abs(int(decoded.mean()) - 200) <= 2
    assert len(events.Images("val/pr_curve")) == 2


@pytest.mark.parametrize("logger_first", [True, False])
def test_values_of_a_logger_are_used_at_no_further_transfer(tmp_path: Path, logger_first: bool) -> None:
    trainer = _trainer()
    if logger_first:
        MetricLogger(console=False).attach(trainer, every=3)
    attach_tensorboard(tmp_path, trainer)
    if not logger_first:
        MetricLogger(console=False).attach(trainer, every=3)
    read = MeterBank.means_and_weights
    with patch.object(MeterBank, "means_and_weights", autospec=True, side_effect=read) as readings:
        trainer.run([1] * 6, max_epochs=1)
    assert readings.call_count == 2
    assert _scalars(_read(tmp_path), "train/loss") == [(3, 2.0), (6, 5.0)]


def test_another_interval_than_the_loggers_has_meters_of_its_own(tmp_path: Path) -> None:
    trainer = _trainer()
    MetricLogger(console=False).attach(trainer, every=4)
    attach_tensorboard(tmp_path, trainer, every=2)
    trainer.run([1] * 4, max_epochs=1)
    assert _scalars(_read(tmp_path), "train/loss") == [(2, 1.5), (4, 3.5)]


def test_learning_rates_of_the_iteration_go_before_those_of_the_optimizer(tmp_path: Path) -> None:
    trainer = _trainer()
    trainer.state.lr = [0.125]
    attach_tensorboard(tmp_path, trainer, torch.optim.SGD([torch.zeros(1)], lr=1.0), every=1)
    trainer.run([1], max_epochs=1)
    assert _scalars(_read(tmp_path), "train/lr/group_0") == [(1, 0.125)]


def test_after_a_resume_new_points_take_the_place_of_those_beyond(tmp_path: Path) -> None:
    first = _trainer()
    attach_tensorboard(tmp_path, first, every=1)
    first.add_event_handler(Events.ITERATION_COMPLETED(once=5), lambda: first.terminate())
    first.run([1] * 8, max_epochs=1)

    second = Engine(lambda engine, batch: {"loss": 100.0 + engine.state.iteration})
    attach_tensorboard(tmp_path, second, every=1)

    @second.on(Events.STARTED)
    def resume() -> None:
        second.state.iteration = 3

    second.run([1] * 8, max_epochs=1)
    expected = [(1, 1.0), (2, 2.0), (3, 3.0), *((i, 100.0 + i) for i in range(4, 9))]
    assert _scalars(_read(tmp_path), "train/loss") == expected


@pytest.mark.parametrize("obstacle", ["file", "removed", "full"])
def test_files_that_cannot_be_written_cost_one_warning(
    tmp_path: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, evaluator = _trainer(), Engine(lambda engine, batch: None)
    attach_tensorboard(tmp_path / "run", trainer, evaluators={"val": evaluator}, every=1)
    evaluate_on_epoch(trainer, evaluator, [0])
    if obstacle == "file":
        (tmp_path / "run").write_text("")

    @trainer.on(Events.ITERATION_COMPLETED(once=2))
    def remove() -> None:
        if obstacle == "removed":
            (tmp_path / "run").rename(tmp_path / "elsewhere")

    def append(self: EventFile, **fields: Any) -> None:
        raise OSError(28, "No space left on device")

    if obstacle == "full":
        monkeypatch.setattr(EventFile, "_append", append)
    with pytest.warns(RuntimeWarning, match="cannot write TensorBoard's events") as warned:
        trainer.run([1] * 3, max_epochs=2)
    assert len(warned) == 1
    assert trainer.state.iteration == 6


def test_records_are_those_of_tensorboards_own_writer() -> None:
    for content in (b"", b"x", bytes(range(256)) * 16):
        written = io.BytesIO()
        RecordWriter(written).write(content)
        assert _as_record(content) == written.getvalue()


def test_tags_may_change_and_a_removed_file_is_made_anew(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    steps = [{"a": 1.0, "b": 2.0}, {"b": 3.0, "a": 4.0}, {"a": math.nan, "b": math.inf}, {"c": 5}]
    for step, values in enumerate(steps):
        file.add_scalars(values, step)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("a")][:2] == [(0, 1.0), (1, 4.0)]
    assert [event.value for event in events.Scalars("b")] == [2.0, 3.0, math.inf]
    assert math.isnan(events.Scalars("a")[2].value)
    assert [(event.step, event.value) for event in events.Scalars("c")] == [(3, 5.0)]
    file.path.unlink()
    file.add_scalars({"a": 6.0}, 9)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.file_version == 2.0
    assert [(event.step, event.value) for event in events.Scalars("a")] == [(9, 6.0)]


def test_a_removed_file_keeps_points_of_a_run_that_broke_off_void(tmp_path: Path) -> None:
    first = EventFile(tmp_path)
    for step in range(1, 9):
        first.add_scalars({"a": float(step)}, step)
    second = EventFile(tmp_path, purge_step=5)
    second.path.unlink()
    second.add_scalars({"a": 60.0}, 6)
    points = [(event.step, event.value) for event in EventAccumulator(str(tmp_path)).Reload().Scalars("a")]
    assert points == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (6, 60.0)]


def test_closed_it_writes_no_more(tmp_path: Path) -> None:
    trainer = _trainer()
    board = attach_tensorboard(tmp_path, trainer, every=1)
    trainer.run([1, 1], max_epochs=1)
    board.close()
    board.detach()
    trainer.run([1, 1], max_epochs=2)
    assert _scalars(_read(tmp_path), "train/loss") == [(1, 1.0), (2, 2.0)]
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        attach_tensorboard(tmp_path, trainer, every=0)


def test_an_error_of_the_training_is_not_swallowed(tmp_path: Path) -> None:
    def fail(engine: Engine, batch: Any) -> float:
        if engine.state.iteration == 3:
            raise RuntimeError("the step")
        return 1.0

    trainer = Engine(fail)
    attach_tensorboard(tmp_path, trainer, every=1)
    MetricLogger(tmp_path, console=False).attach(trainer, every=1)
    with pytest.raises(RuntimeError, match="the step"):
        trainer.run([1] * 4)
    # What was logged before is in the file, though nobody closed it.
    assert len(_scalars(_read(tmp_path), "train/loss")) == 2


def test_evaluators_have_names(tmp_path: Path) -> None:
    evaluator = Engine(lambda engine, batch: None)
    with pytest.raises(
        TypeError, match=r"evaluators must be a dict of engines by name, as \{'val': evaluator\}, got <"
    ):
        attach_tensorboard(tmp_path, Engine(lambda engine, batch: None), evaluators=evaluator)  # type: ignore[arg-type]
