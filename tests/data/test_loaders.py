"""Loaders: the same samples and pixels however they are loaded, bad samples, and workers that die."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import random
import re
import signal
import subprocess
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from torchvision import tv_tensors

from ignite_imgtools import free_memory
from ignite_imgtools.data.coco import CocoDetection
from ignite_imgtools.data.groups import aspect_ratio_groups, padded_shape_groups
from ignite_imgtools.data.loaders import SampleLoader, collate_detection, create_loader
from ignite_imgtools.data.samplers import EvalSampler, GroupedBatchSampler
from ignite_imgtools.data.transforms import detection_train
from ignite_imgtools.formats import DataError, check_detection_batch


class Noise(Dataset[Any]):
    """Samples that consist of random numbers of all generators; some of them bad."""

    def __init__(self, count: int, bad: tuple[int, ...] = (), error: type[Exception] = DataError):
        self.count, self.bad, self.error = count, bad, error

    def __len__(self) -> int:
        return self.count

    def image_size(self, index: int) -> tuple[int, int]:
        return 20, 10 + 15 * (index % 3)

    def image_path(self, index: int) -> Path:
        return Path(f"images/{index}.jpg")

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        if index in self.bad:
            raise self.error(f"images/{index}.jpg: it is broken")
        noise = torch.tensor([random.random(), np.random.rand()])  # noqa: NPY002  what transforms may draw from
        return torch.cat((torch.rand(2), noise)).reshape(1, 2, 2).expand(3, 2, 2), {"image_id": index}


Batches = list[dict[int, tuple[float, ...]]]


def batches_of(loader: Any) -> Batches:
    return [
        {target["image_id"]: tuple(image[0].flatten().tolist()) for image, target in zip(*batch, strict=True)}
        for batch in loader
    ]


def epochs_of(loader: DataLoader[Any], epochs: int = 2) -> list[Batches]:
    result = []
    for epoch in range(epochs):
        loader.batch_sampler.set_epoch(epoch)
        result.append(batches_of(loader))
    return result


def test_samples_do_not_depend_on_workers() -> None:
    expected = epochs_of(create_loader(Noise(22), 4, shuffle=True, seed=3))
    noises = [noise for epoch in expected for batch in epoch for noise in batch.values()]
    assert len(set(noises)) == 44  # another in each epoch
    assert len({number for noise in noises for number in noise}) == 4 * 44
    for options in ({"num_workers": 1}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": False}):
        assert epochs_of(create_loader(Noise(22), 4, shuffle=True, seed=3, **options)) == expected
    assert epochs_of(create_loader(Noise(22), 4, shuffle=True, seed=4)) != expected


@pytest.mark.slow
def test_workers_may_be_spawned() -> None:
    options = {"shuffle": True, "on_bad_sample": "skip"}
    expected = epochs_of(create_loader(Noise(9, bad=(2,)), 4, **options), 1)
    loader = create_loader(Noise(9, bad=(2,)), 4, **options, num_workers=1, multiprocessing_context="spawn")
    assert epochs_of(loader, 1) == expected
    assert loader.skipped_samples() == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_loader_gives_the_rest(num_workers: int) -> None:
    options = {"shuffle": True, "group_by": "aspect", "num_workers": num_workers}
    expected = epochs_of(create_loader(Noise(22), 4, **options), 3)
    resumed = create_loader(Noise(22), 4, **options)
    resumed.batch_sampler.load_state_dict({**resumed.batch_sampler.state_dict(), "epoch": 1, "position": 3})
    assert batches_of(resumed) == expected[1][3:]
    resumed.batch_sampler.set_epoch(2)
    assert batches_of(resumed) == expected[2]
    assert len(resumed) == len(expected[1])


def test_an_abandoned_epoch_leaves_nothing_behind() -> None:
    loader = create_loader(Noise(22), 4, shuffle=True, num_workers=2)
    expected = batches_of(loader)
    next(iter(loader))
    assert batches_of(loader) == expected


def test_trained_samples_do_not_depend_on_workers_or_stops() -> None:
    def train(start: int, num_workers: int) -> Batches:
        seen: Batches = []
        trainer = Engine(lambda engine, batch: seen.extend(batches_of([batch])))
        loader = create_loader(Noise(22), 4, shuffle=True, group_by="shape", num_workers=num_workers)

        @trainer.on(Events.STARTED)
        def resume() -> None:
            loader.batch_sampler.attach(trainer)
            trainer.state.iteration, trainer.state.epoch = start, start // len(loader)

        trainer.run(loader, max_epochs=3)
        return seen

    expected = train(0, 0)
    for start, num_workers in ((0, 2), (4, 0), (11, 2)):
        assert train(start, num_workers) == expected[start:]


def test_evaluation_is_the_same_each_time_and_leaves_random_states_alone() -> None:
    loader = create_loader(Noise(7), 3)
    assert isinstance(loader, DataLoader)
    assert isinstance(loader.batch_sampler, EvalSampler)
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    expected = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    first, again = batches_of(loader), batches_of(loader)
    assert [list(batch) for batch in first] == [[0, 1, 2], [3, 4, 5], [6]]
    assert first == again
    assert (torch.rand(1), random.random(), np.random.rand()) == expected  # noqa: NPY002
    state = torch.get_rng_state()
    assert batches_of(create_loader(Noise(7), 3, num_workers=1)) == first
    assert torch.equal(torch.get_rng_state(), state)


def test_groups() -> None:
    dataset = Noise(30)
    for group_by, groups in (
        ("shape", padded_shape_groups(dataset, 64, 100)),
        ("aspect", aspect_ratio_groups(dataset, 2)),
        ([i // 10 for i in range(30)], [i // 10 for i in range(30)]),
        (None, [0] * 30),
    ):
        loader = create_loader(
            dataset, 4, shuffle=True, group_by=group_by, seed=2, min_size=64, max_size=100, aspect_bins=2
        )
        expected = GroupedBatchSampler(groups, 4, seed=2)
        assert list(loader.batch_sampler) == list(expected)
        assert len(loader) == len(expected)
    fixed = create_loader(dataset, 4, group_by=[0] * 30, drop_last=True)
    assert list(fixed.batch_sampler) == [list(range(first, first + 4)) for first in range(0, 28, 4)]


def test_collation_makes_plain_tensors_and_empty_batches() -> None:
    boxes = tv_tensors.BoundingBoxes([[0, 0, 1, 1]], format="XYXY", canvas_size=(2, 2), dtype=torch.float32)
    image = tv_tensors.Image(torch.zeros(3, 2, 2, dtype=torch.uint8))
    target = {"boxes": boxes, "labels": torch.ones(1, dtype=torch.int64), "image_id": 5}
    images, targets = collate_detection([(image, target)])
    check_detection_batch(images, targets)
    assert type(images[0]) is type(targets[0]["boxes"]) is torch.Tensor
    assert images[0].data_ptr() == image.data_ptr()
    assert target["boxes"] is boxes
    assert collate_detection([]) == ([], [])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("training", [True, False])
def test_a_bad_sample_reaches_the_user_in_one_line(num_workers: int, training: bool) -> None:
    loader = create_loader(Noise(8, bad=(5,)), 2, shuffle=training, num_workers=num_workers)
    with pytest.raises(DataError) as caught:
        batches_of(loader)
    assert str(caught.value) == "images/5.jpg: it is broken"


def test_a_bad_batch_reaches_the_user_in_one_line() -> None:
    def collate(samples: list[Any]) -> Any:
        raise DataError("image_id 3: bad target")

    for num_workers in (0, 1):
        with pytest.raises(DataError, match=r"^image_id 3: bad target$"):
            list(create_loader(Noise(4), 2, collate_fn=collate, num_workers=num_workers))


def test_other_errors_say_which_sample() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(create_loader(Noise(4, bad=(2,), error=ZeroDivisionError), 2, on_bad_sample="skip"))
    if hasattr(caught.value, "__notes__"):
        assert caught.value.__notes__ == ["raised while sample 2 was loaded"]
    with pytest.raises(ZeroDivisionError, match="it is broken"):
        list(create_loader(Noise(4, bad=(2,), error=ZeroDivisionError), 2, num_workers=1))


@pytest.mark.parametrize("error", [DataError, OSError])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_samples_are_skipped_counted_and_reported_once(
    num_workers: int, error: type[Exception], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    good = epochs_of(create_loader(Noise(20), 4, shuffle=True), 3)
    handler = logging.StreamHandler()  # to standard error, whose handle the workers share
    logging.getLogger("ignite_imgtools").addHandler(handler)
    try:
        loader = create_loader(
            Noise(20, bad=(3, 11), error=error), 4, shuffle=True, on_bad_sample="skip", num_workers=num_workers
        )
        assert loader.skipped_samples() == 0
        got = epochs_of(loader, 3)
    finally:
        logging.getLogger("ignite_imgtools").removeHandler(handler)
    assert got == [[{i: noise for i, noise in b.items() if i not in (3, 11)} for b in epoch] for epoch in good]
    assert loader.skipped_samples() == 6
    assert loader.bad_samples() == [3, 11]
    lines = sorted(line for line in capfd.readouterr().err.splitlines() if "left out" in line)
    assert lines == [f"sample {i} is left out: images/{i}.jpg: it is broken" for i in (11, 3)]


@pytest.mark.filterwarnings("ignore")
def test_a_training_batch_is_never_empty(caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any] = {"on_bad_sample": "skip", "group_by": [0] * 6}
    loader = create_loader(Noise(6, bad=(2, 3, 4)), 2, **options)
    assert [list(batch) for batch in batches_of(loader)] == [[0, 1], [5], [5]]
    assert batches_of(loader) == batches_of(create_loader(Noise(6, bad=(2, 3, 4)), 2, **options, num_workers=1))
    evaluation = create_loader(Noise(6, bad=(2, 3, 4)), 2, on_bad_sample="skip")
    assert [list(batch) for batch in batches_of(evaluation)] == [[0, 1], [], [5]]
    assert evaluation.skipped_samples() == 3


def test_a_data_set_of_bad_samples_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    for count, tried in ((3, 3), (1000, 100)):
        loader = create_loader(Noise(count, bad=tuple(range(count))), 1, shuffle=True, on_bad_sample="skip")
        with pytest.raises(DataError, match=f"none of {tried} samples in a row"):
            next(iter(loader))


class Ending(Noise):
    """The sample ``last`` ends its worker process, or holds it up."""

    def __init__(self, count: int, last: int, how: str):
        super().__init__(count)
        self.last, self.how = last, how

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, Any]]:
        if index == self.last:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.how == "exit":
                os._exit(3)
            time.sleep(60)
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("kill", r"loader worker 0 \(process \d+\) was killed by signal 9 \(is the machine out of memory\?\)"),
        ("exit", r"loader worker 0 \(process \d+\) ended with exit code 3"),
        ("hang", r"no batch came within timeout=2 seconds: worker 0 \(process \d+\) is"),
    ],
)
def test_a_lost_worker_is_named_with_its_sample(how: str, reason: str) -> None:
    dataset = Subset(Ending(9, 7, how), [3, 7])
    loader = create_loader(dataset, 1, num_workers=1, timeout=2)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=rf"{reason}.* loading sample 1 \(images/7.jpg\)"):
        batches_of(loader)
    assert time.monotonic() - start < 15
    start = time.monotonic()
    del loader
    assert time.monotonic() - start < 5


def test_workers_outlive_signals_to_the_whole_job() -> None:
    loader = create_loader(Noise(40), 2, shuffle=True, num_workers=2)
    expected = batches_of(loader)
    iterator = iter(loader)
    got = batches_of([next(iterator)])
    for worker in loader._iterator._workers:
        # From another process, as a scheduler does.
        subprocess.run(["/bin/sh", "-c", f"kill -INT {worker.pid}; kill -TERM {worker.pid}"], check=True)
    assert got + batches_of(iterator) == expected
    workers = loader._iterator._workers
    start = time.monotonic()
    for worker in workers:
        worker.terminate()
        worker.join()
    assert time.monotonic() - start < 2
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_what_is_wrong_is_said() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    class Unsized(Dataset[Any]):
        def __len__(self) -> int:
            return 3

    data = Noise(6)
    for arguments, error, reason in (
        ((data, 0), ValueError, "batch_size must be at least 1, got 0"),
        ((Noise(0), 1), ValueError, r"the data set \(Noise\) is empty"),
        ((Stream(), 1), ValueError, "with dataset.index. and a length, got Stream"),
    ):
        with pytest.raises(error, match=reason):
            create_loader(*arguments)
    for options, error, reason in (
        ({"on_bad_sample": "drop"}, ValueError, "'raise' or 'skip', got 'drop'"),
        ({"num_workers": -1}, ValueError, "num_workers must be 0 or more, got -1"),
        ({"drop_last": True}, ValueError, "drop_last is for training"),
        ({"group_by": "size"}, ValueError, "'shape', 'aspect' or one integer for each sample, got 'size'"),
        ({"group_by": [0, 1]}, ValueError, "one integer for each of 6 samples, got 2"),
        ({"group_by": [0.5] * 6}, ValueError, "groups must be integers"),
        ({"shuffle": True, "drop_last": True}, ValueError, "drop_last leaves no batch"),
    ):
        with pytest.raises(error, match=reason):
            create_loader(data, 7, **options)
    with pytest.raises(TypeError, match="Unsized has no method image_size"):
        create_loader(Unsized(), 1, group_by="shape")


@pytest.mark.data
def test_augmented_photographs_do_not_depend_on_how_they_are_loaded(real_data: Path) -> None:
    root = real_data / "coco_mini"
    dataset = Subset(
        CocoDetection(
            root / "val2017",
            root / "annotations" / "instances_val2017.json",
            transforms=detection_train(photometric=True, iou_crop=True),
            drop_empty=True,
        ),
        range(5),
    )

    def sums(batch_size: int, **options: Any) -> dict[int, tuple[int, list[Any]]]:
        loader: SampleLoader = create_loader(dataset, batch_size, shuffle=True, **options)
        loader.batch_sampler.set_epoch(5)
        result = {}
        for images, targets in loader:
            check_detection_batch(images, targets)
            for image, target in zip(images, targets, strict=True):
                assert image.dtype == torch.uint8
                result[target["image_id"]] = int(image.sum()), target["boxes"].tolist()
        return result

    expected = sums(4, group_by="shape")
    assert len(expected) == 5
    assert sums(2, num_workers=2) == expected


def test_workers_of_a_loader_in_a_cycle_end_at_once() -> None:
    for persistent in (True, False):
        trainer = Engine(lambda engine, batch: None)
        loader = create_loader(Noise(8), 2, shuffle=True, num_workers=2, persistent_workers=persistent)
        loader.batch_sampler.attach(trainer)
        trainer.run(loader, max_epochs=2)
        trainer.state.itself = trainer
        start = time.monotonic()
        gone = weakref.ref(loader)
        del loader, trainer
        gc.collect()
        assert gone() is None
        assert time.monotonic() - start < 4


@pytest.mark.parametrize(
    ("options", "times"),
    [
        ({"num_workers": 0}, 0),
        ({"num_workers": 1, "multiprocessing_context": "fork"}, 1),
        ({"num_workers": 1, "multiprocessing_context": "fork", "persistent_workers": False}, 2),
        ({"num_workers": 1, "multiprocessing_context": "forkserver"}, 0),
    ],
)
def test_free_memory_is_given_back_before_workers_are_forked(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], times: int
) -> None:
    before, children = set(multiprocessing.active_children()), []

    def trim(pad: int) -> int:
        children.append(set(multiprocessing.active_children()) - before)
        return 0

    monkeypatch.setattr(free_memory, "_malloc_trim", lambda: trim)
    loader = create_loader(Noise(4), 2, shuffle=True, **options)
    for _ in range(2):
        assert len(list(loader)) == 2
    assert children == [set()] * times


@pytest.mark.parametrize(
    ("sample", "kind"), [(torch.zeros(3), "a Tensor"), ((torch.zeros(3), torch.tensor(1)), "(Tensor, Tensor)")]
)
def test_samples_of_another_task_need_another_collate_fn(sample: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=re.escape(f"got {kind}: give create_loader the collate_fn")):
        collate_detection([sample])
