"""Signals in a single process: the step ends, a checkpoint is taken, the run leaves; and resumed it is the same."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine, Events

from ignite_imgtools.handlers import attach_signals, load_checkpoint
from tests.handlers.forked import forked
from tests.handlers.toy_training import EPOCH_LENGTH, Crash, Toy, crash_at, create_toy


@pytest.fixture(scope="module")
def straight() -> Toy:
    return create_toy().run()


@pytest.fixture(autouse=True)
def _handlers_are_as_before() -> Any:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1


def _signal_at(engine: Engine, event: Any, when: Callable[[], bool], number: int) -> None:
    sent = []

    def send() -> None:
        if when() and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)

    engine.add_event_handler(event, send)


def _at(toy: Toy, iteration: int) -> Callable[[], bool]:
    return lambda: toy.trainer.state.iteration == iteration


def _create(folder: Path, **options: Any) -> Toy:
    toy = create_toy()
    attach_signals(toy.trainer, toy.attach(folder, **options))
    return toy


def _last_iteration(folder: Path) -> int:
    return int(load_checkpoint(folder / "checkpoints" / "last.pt")["trainer"]["iteration"])


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("event", "iteration", "expected"),
    [
        (Events.ITERATION_STARTED, 2, 2),
        (Events.GET_BATCH_STARTED, 7, 8),
        (Events.ITERATION_COMPLETED, 13, 13),
        (Events.EPOCH_STARTED, 5, 6),
        # In the last step of an epoch the work of its end would come first: the evaluation is broken off.
        (Events.ITERATION_STARTED, 10, 9),
        (Events.EPOCH_COMPLETED, 15, 14),
    ],
)
def test_the_step_ends_a_checkpoint_is_taken_and_the_resumed_run_is_the_same(
    tmp_path: Path, straight: Toy, number: int, event: Any, iteration: int, expected: int, background: bool
) -> None:
    toy = _create(tmp_path, background=background)
    _signal_at(toy.trainer, event, _at(toy, iteration), number)
    if event == Events.EPOCH_COMPLETED:
        # Before the evaluation begins.
        handlers = toy.trainer._event_handlers[event]
        handlers.insert(0, handlers.pop())
    with pytest.raises(SystemExit) as caught:
        toy.run()
    assert caught.value.code == 128 + number
    assert _last_iteration(tmp_path) == expected
    again = _create(tmp_path, background=background)
    assert again.run().digest() == straight.digest()
    assert again.seen == straight.seen[expected:]


def test_a_signal_in_an_evaluation_breaks_it_off(tmp_path: Path, straight: Toy) -> None:
    toy = _create(tmp_path)
    done: list[int] = []
    toy.evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: done.append(engine.state.iteration))
    second_epoch = lambda: toy.trainer.state.epoch == 2  # noqa: E731
    _signal_at(toy.evaluator, Events.ITERATION_STARTED, second_epoch, signal.SIGTERM)
    with pytest.raises(SystemExit):
        toy.run()
    assert done in ([1, 2, 1], [1, 2])
    assert _last_iteration(tmp_path) == 2 * EPOCH_LENGTH - 1
    assert _create(tmp_path).run().digest() == straight.digest()


def test_a_signal_after_the_evaluation_leaves_with_the_epoch_done(tmp_path: Path, straight: Toy) -> None:
    toy = _create(tmp_path)
    _signal_at(toy.trainer, Events.EPOCH_COMPLETED, _at(toy, 10), signal.SIGTERM)
    with pytest.raises(SystemExit):
        toy.run()
    assert _last_iteration(tmp_path) == 10
    assert _create(tmp_path).run().digest() == straight.digest()


def test_a_signal_at_the_very_end_still_decides_how_the_process_ends(tmp_path: Path, straight: Toy) -> None:
    toy = _create(tmp_path)
    _signal_at(toy.trainer, Events.COMPLETED, lambda: True, signal.SIGTERM)
    with pytest.raises(SystemExit):
        toy.run()
    assert _last_iteration(tmp_path) == 15
    assert toy.digest() == straight.digest()


def test_sigusr1_saves_and_the_run_goes_on(tmp_path: Path, straight: Toy) -> None:
    toy = _create(tmp_path)
    _signal_at(toy.trainer, Events.ITERATION_STARTED, _at(toy, 7), signal.SIGUSR1)
    found: list[int] = []
    toy.trainer.add_event_handler(Events.ITERATION_STARTED(once=8), lambda: found.append(_last_iteration(tmp_path)))
    assert toy.run().digest() == straight.digest()
    assert found == [7]


def test_within_an_accumulation_window_its_end_is_waited_for(tmp_path: Path) -> None:
    toy = create_toy(accumulate=2)
    attach_signals(toy.trainer, toy.attach(tmp_path))
    _signal_at(toy.trainer, Events.ITERATION_STARTED, _at(toy, 1), signal.SIGTERM)
    with pytest.raises(SystemExit):
        toy.run()
    assert _last_iteration(tmp_path) == 2


def test_without_checkpoints_the_step_ends_and_the_run_leaves() -> None:
    toy = create_toy()
    attach_signals(toy.trainer)
    _signal_at(toy.trainer, Events.ITERATION_STARTED, _at(toy, 3), signal.SIGTERM)
    with pytest.raises(SystemExit):
        toy.run()
    assert len(toy.seen) == 3


def test_handlers_of_terminate_finish_their_files_before_the_run_leaves(tmp_path: Path) -> None:
    toy = _create(tmp_path)
    flushed: list[bool] = []
    toy.trainer.add_event_handler(Events.TERMINATE, lambda: flushed.append(True))
    _signal_at(toy.trainer, Events.ITERATION_STARTED, _at(toy, 3), signal.SIGTERM)
    with pytest.raises(SystemExit):
        toy.run()
    assert flushed == [True]


def test_no_handler_swallows_the_exit(tmp_path: Path) -> None:
    toy = _create(tmp_path)
    toy.trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: None)
    _signal_at(toy.trainer, Events.ITERATION_STARTED, _at(toy, 3), signal.SIGTERM)
    with pytest.raises(SystemExit):
        toy.run()


def test_signals_do_what_they_did_before_once_the_run_is_over_or_has_failed(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    toy = _create(tmp_path)
    during: list[Any] = []
    toy.trainer.add_event_handler(Events.STARTED, lambda: during.append(signal.getsignal(signal.SIGTERM)))
    toy.run(1)
    assert signal.getsignal(signal.SIGTERM) == before != during[0]
    crash_at(toy.trainer, 7)
    with pytest.raises(Crash):
        toy.run(2)
    assert signal.getsignal(signal.SIGTERM) == before


def test_signals_do_what_they_did_before_where_a_handler_raises_the_error_again() -> None:
    def raise_again(error: BaseException) -> None:
        raise error

    before = signal.getsignal(signal.SIGTERM)
    toy = create_toy()
    toy.trainer.add_event_handler(Events.EXCEPTION_RAISED, raise_again)
    attach_signals(toy.trainer)
    crash_at(toy.trainer, 3)
    with pytest.raises(Crash):
        toy.run(1)
    assert signal.getsignal(signal.SIGTERM) == before


def test_detached_handlers_do_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    toy = create_toy()
    attach_signals(toy.trainer).detach()
    toy.trainer.add_event_handler(
        Events.ITERATION_STARTED(once=2), lambda: before == signal.getsignal(signal.SIGTERM) or toy.trainer.terminate()
    )
    toy.run(1)
    assert len(toy.seen) == EPOCH_LENGTH


def test_in_another_thread_signals_are_left_alone() -> None:
    toy = create_toy()
    attach_signals(toy.trainer)
    thread = threading.Thread(target=toy.run)
    thread.start()
    thread.join()
    assert len(toy.seen) == 3 * EPOCH_LENGTH


def _slow(folder: Path, seconds_a_step: float, num_workers: int) -> None:
    toy = create_toy(num_workers=num_workers)
    attach_signals(toy.trainer, toy.attach(folder))

    def linger() -> None:
        os.write(1, f"step {toy.trainer.state.iteration}\n".encode())
        time.sleep(seconds_a_step)

    toy.trainer.add_event_handler(Events.ITERATION_STARTED, linger)
    toy.run(20)


def test_the_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    with forked(_slow, tmp_path, 60.0, 0, output=tmp_path / "output") as process:
        process.wait_for_output("step 1")
        os.kill(process.pid, signal.SIGTERM)
        process.wait_for_output("SIGTERM: finishing the step; once more leaves at once")
        time.sleep(0.4)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(5) == 128 + signal.SIGTERM
    assert not (tmp_path / "checkpoints").exists()


def test_an_interrupt_from_the_terminal_reaches_loader_workers_too_and_does_no_harm(tmp_path: Path) -> None:
    with forked(_slow, tmp_path, 0.1, 2, output=tmp_path / "output") as process:
        process.wait_for_output("step 2")
        # Twice at once, as where a launcher hands on what all have got.
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
        assert process.output.count("SIGINT: finishing the step; once more leaves at once") == 1
        assert "SIGINT: stopped after iteration" in process.output
        assert "Traceback" not in process.output
    assert _last_iteration(tmp_path) >= 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_request_for_a_checkpoint_reaches_loader_workers_too_and_does_no_harm(
    tmp_path: Path, num_workers: int
) -> None:
    with forked(_slow, tmp_path, 0.1, num_workers, output=tmp_path / "output") as process:
        process.wait_for_output("step 6")
        os.killpg(process.pid, signal.SIGUSR1)
        process.wait_for_output("step 8")
        assert _last_iteration(tmp_path) in (6, 7)  # of itself the run takes the next one after the ninth step
        process.wait_for_output("step 12")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        assert "Traceback" not in process.output
