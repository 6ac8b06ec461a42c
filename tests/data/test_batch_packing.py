"""Batches cross from loader workers unchanged, in one piece."""

from __future__ import annotations

import contextlib
import gc
import warnings
import weakref
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data._utils.pin_memory import pin_memory
from torchvision import tv_tensors

from ignite_imgtools import data
from ignite_imgtools.data import batch_packing

Pair = namedtuple("Pair", "a b")


def _nested() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is a prototype
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def _batch(index: int) -> Any:
    """Tensors of all kinds that a batch may hold."""
    generator = torch.Generator().manual_seed(index)
    pixels = torch.randint(0, 256, (120, 90, 3), dtype=torch.uint8, generator=generator)
    table = torch.randn(200, 60, generator=generator)
    return (
        [pixels.permute(2, 0, 1), pixels.permute(2, 0, 1).contiguous(), pixels[::2, 10:].permute(2, 0, 1)],
        {
            "boxes": torch.randn(index, 4, generator=generator),
            "none": torch.empty(0, 3, 5),
            "mask": table > 0,
            "half": table.half(),
            "one": torch.tensor(7 + index),
            "turned": table.t(),
            "expanded": torch.tensor([1.0, 2.0])[:, None].expand(2, 3),
            "complex": torch.complex(table, table).conj(),
            "box": tv_tensors.BoundingBoxes([[0, 0, 1, 1]], format="XYXY", canvas_size=(2, 2)),
            "name": "image",
            "nested": _nested(),
            "pair": Pair(torch.arange(3), (1, None)),
        },
        torch.arange(10**5),
    )


class _Batches(Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        return index


def _first(indices: list[int]) -> Any:
    return _batch(indices[0])


def _batches(num_workers: int, **options: Any) -> list[Any]:
    loader = data.create_loader(_Batches(), 1, num_workers=num_workers, collate_fn=_first, **options)
    return list(loader)


def _parts(value: Tensor) -> tuple[Tensor, ...]:
    return value.unbind() if value.is_nested else (value,)


def _assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        assert found.dtype == expected.dtype
        for one, other in zip(_parts(found), _parts(expected), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _assert_same(one, other)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            _assert_same(found[key], value)
    else:
        assert found == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_arrive_as_they_were_made(num_workers: int) -> None:
    for index, batch in enumerate(_batches(num_workers)):
        _assert_same(batch, _batch(index))


def test_tensors_without_gaps_keep_their_strides() -> None:
    images, target, _ = _batches(1)[0]
    assert images[0].stride() == (1, 270, 3)
    assert images[1].is_contiguous()
    assert images[2].is_contiguous()  # it was a part of a larger one
    assert target["turned"].stride() == (1, 60)
    assert target["expanded"].is_contiguous()


def test_tensors_of_a_batch_can_be_written_into_without_changing_others() -> None:
    for index, batch in enumerate(_batches(2)):
        images, target, numbers = batch
        expected_images, expected, expected_numbers = _batch(index)
        images[0].zero_()
        target["boxes"].zero_()
        _assert_same(images[1], expected_images[1])
        _assert_same(target["one"], expected["one"])
        _assert_same(numbers, expected_numbers)


def test_who_keeps_boxes_does_not_keep_images() -> None:
    (images, target, _) = _batches(1)[3]
    storage = weakref.ref(images[0].untyped_storage())
    boxes = target["boxes"]
    del images, target, _
    gc.collect()
    assert storage() is None
    assert boxes.shape == (3, 4)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_batch_of_workers_is_one_open_file() -> None:
    loader = data.create_loader(_ManyTensors(), 16, num_workers=1, collate_fn=list, persistent_workers=False)
    before = _shared_tensors()
    kept = list(loader)
    assert [len(batch) for batch in kept] == [16] * 4
    assert _shared_tensors() - before <= len(kept)


def _shared_tensors() -> int:
    count = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            count += "/torch_" in str(path.readlink())
    return count


class _ManyTensors(Dataset[Any]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> list[Tensor]:
        return [torch.full((100, 100), float(index)), torch.ones(4), torch.zeros(2)]


def test_in_the_main_process_nothing_is_copied() -> None:
    batch = _batch(0)
    assert batch_packing.pack_batch(batch) is batch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_batches_are_pinned_whole() -> None:
    for index, batch in enumerate(_batches(2, pin_memory=True)):
        images, target, numbers = batch
        assert all(part.is_pinned() for part in (*images, numbers, target["boxes"], target["mask"]) if part.numel())
        _assert_same(numbers, _batch(index)[2])


def test_a_loader_that_pins_gets_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    # What DataLoader's thread calls; without CUDA nothing can be page-locked.
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self.clone())
    monkeypatch.setattr(batch_packing, "get_worker_info", lambda: "a worker")
    packed = batch_packing.pack_batch(_batch(3))
    assert isinstance(packed, batch_packing.PackedBatch)
    _assert_same(pin_memory(packed), _batch(3))
